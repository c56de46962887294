"""Networks: settings in, a torch.nn.Module out that maps images [n, c, h, w] to logits [n, num_classes].

    model = build_model({"name": "vgg_tiny", "width": 0.5}, in_channels=1, num_classes=10, image_size=8)

The name is one of qprune's own, `torchvision:<name>`, or `module:function`, the user's own. A new network is
one file with a function `build`, and one line below. The weights are drawn from PyTorch's global generator:
with the same torch.manual_seed before it, a build is the same.

A user's function is called with the options, and with those of in_channels, num_classes and image_size that
its signature takes. Nothing here imports torch before a network is built or a torchvision:<name> is checked for the first
time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qprune.registry import Entry, Registry, nearest
from qprune.registry.errors import UserError
from qprune.registry.options import Option, as_float, fill, identity_of, is_number, is_whole, split_name
from qprune.registry.show import show
from qprune.registry.user_code import check_options, is_user_code, load_function, source_hash
from qprune.storage.kept import once

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "MODELS",
    "build_model",
    "check_model",
    "is_user_model",
    "load_checkpoint",
    "load_pretrained",
    "model_fingerprint",
]

MAX_WIDTH = 100  # of an own network: times the channels of its paper
MAX_PARAMETERS = 100_000_000  # of an own network: 0.4 GB, and as much again for each of its copies
_SHAPES = ("in_channels", "num_classes", "image_size")

WIDTH = {
    "width": Option(
        1.0,
        lambda value: is_number(value) and 0 < value <= MAX_WIDTH,
        f"a number above 0, at most {MAX_WIDTH}, as 0.5",
        as_float,
    )
}
MODELS = Registry(
    "model",
    Entry("vgg_tiny", "qprune.networks.vgg_tiny:build", options=WIDTH),
    Entry("vgg_small", "qprune.networks.vgg_small:build", options=WIDTH),
    Entry("vgg7", "qprune.networks.vgg7:build", options=WIDTH),
    Entry("resnet8", "qprune.networks.resnet8:build", options=WIDTH),
    Entry("resnet20", "qprune.networks.resnet20:build", options=WIDTH),
    Entry("ds_cnn", "qprune.networks.ds_cnn:build", options=WIDTH),
)
_DOOR = "torchvision:"
_DOOR_OPTIONS = {
    "weights": Option(
        None, lambda value: value is None or isinstance(value, str), "null, the name of torchvision's, or a file"
    ),
    "hidden": Option(
        None, lambda value: value is None or is_whole(value, 1, 4096), "a whole number from 1 to 4096, or null"
    ),
}


def is_user_model(name: object) -> bool:
    """Whether a model's name is the user's own module:function; torchvision:<name> is none, and runs nothing of his."""
    return is_user_code(name) and not str(name).startswith(_DOOR)


def check_model(settings: Mapping[str, Any]) -> None:
    """UserError where the name or an option is bad. Builds nothing."""
    if _follows_from_settings(settings):
        model_fingerprint(settings)  # of what was checked it is kept, and torchvision needn't be asked again
    else:
        _resolve(settings)


def build_model(settings: Mapping[str, Any], in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of settings {"name": ..., option: ...}, in training mode, its weights from the global generator.

    Raises UserError for bad settings, and where the network can't map such images to num_classes logits.
    """
    name, options = _resolve(settings)
    arguments = (in_channels, num_classes, image_size)
    shapes = dict(zip(_SHAPES, arguments, strict=True))
    if name in MODELS:
        return _build_own(name, shapes, options)
    if name.startswith(_DOOR):
        from qprune.networks import torchvision_door

        model = torchvision_door.build(name.removeprefix(_DOOR), *arguments, **options)
    else:
        model = _call_user(name, options, shapes)
    _check_output(name, model, **shapes)
    return model


def model_fingerprint(settings: Mapping[str, Any]) -> str:
    """A hash that changes when the network would: of name and options with their defaults, and of the version of an
    own network, the source of a user's, the content of a weights file."""
    if not _follows_from_settings(settings):
        return _fingerprint(settings)
    return once("model_fingerprint", dict(settings), lambda: _fingerprint(settings))


def _follows_from_settings(settings: Mapping[str, Any]) -> bool:
    """Whether a network is one of torchvision's that no file has a say in: its settings and torchvision's version are all."""
    weights = settings.get("weights")
    is_file = isinstance(weights, str) and (not re.fullmatch(r"[A-Z0-9_]+", weights) or Path(weights).exists())
    plain = all(value is None or isinstance(value, (str, int)) for value in settings.values())
    return str(settings.get("name")).startswith(_DOOR) and plain and not is_file


def _fingerprint(settings: Mapping[str, Any]) -> str:
    name, options = _resolve(settings)
    if name in MODELS:
        entry = MODELS.get(name)
        identity = [name, identity_of(options, entry.options), entry.version]
    elif name.startswith(_DOOR):
        from qprune.networks import torchvision_door
        from qprune.networks.weights import file_hash

        weights = options["weights"]
        if weights is not None and torchvision_door.is_file(weights):
            weights = file_hash(weights)
        elif weights is not None:
            weights = torchvision_door.named_weights(name.removeprefix(_DOOR), weights).name  # DEFAULT -> its name
        identity = [name, weights] if options["hidden"] is None else [name, weights, options["hidden"]]
    else:
        identity = [name, options, source_hash("model", name)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _resolve(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options, checked, with every default filled in (a user's function's: as given)."""
    name, given = split_name("model", settings, "vgg_tiny")
    if name in MODELS:
        return name, fill(f"model {name}", given, MODELS.get(name).options)
    if name.startswith(_DOOR):
        from qprune.networks import torchvision_door

        options = fill(f"model {name!r}", given, _DOOR_OPTIONS)
        torchvision_door.check(name.removeprefix(_DOOR), **options)
        return name, options
    if is_user_model(name):
        check_options("model", name, load_function("model", name), given, dict.fromkeys(_SHAPES))
        return name, given
    raise UserError(
        f"unknown model {show(name)}{nearest(name, [*MODELS.names(), 'torchvision:<name>', 'module:function'])}"
    )


def load_pretrained(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads another network's tensors, in place, but for its head and its input normalisation.

    source: what the tensors are of, for the UserError where they don't fit.
    """
    from qprune.networks import weights

    weights.load_pretrained(network, tensors, source)


def load_checkpoint(network: nn.Module, file: str | Path) -> None:
    """Loads the tensors of a file (a state dict of torch.save, or safetensors) into a whole network, in place.

    The file needn't have the input normalisation's. Raises UserError for a missing, damaged or unfitting file.
    """
    from qprune.networks import weights

    weights.load_checkpoint(network, file)


def _build_own(name: str, shapes: Mapping[str, int], options: Mapping[str, Any]) -> nn.Module:
    """An own network; UserError where it would fill the memory, before it does."""
    import torch

    build = MODELS.load(name)
    with torch.device("meta"):  # shapes without values
        count = sum(parameter.numel() for parameter in build(**shapes, **options).parameters())
    if count > MAX_PARAMETERS:
        asked = " and ".join(f"{option} is {show(value)}" for option, value in options.items())
        raise UserError(
            f"model {name}: {asked}, which makes {count:,} parameters; at most {MAX_PARAMETERS:,} are built"
        )
    return build(**shapes, **options)


def _call_user(name: str, options: Mapping[str, Any], shapes: Mapping[str, int]) -> nn.Module:
    from torch import nn

    function = load_function("model", name)
    model = function(**check_options("model", name, function, options, shapes))
    if not isinstance(model, nn.Module):
        module, attribute = name.split(":")
        raise UserError(
            f"model {name!r}: the function {attribute} of {module} returned a {type(model).__name__}, "
            "not a torch.nn.Module."
        )
    return model


def _check_output(name: str, model: nn.Module, in_channels: int, num_classes: int, image_size: int) -> None:
    """UserError where two black images don't give two rows of `num_classes` logits. Changes nothing in the model."""
    import torch

    was_training = model.training
    images = torch.zeros(2, in_channels, image_size, image_size)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            logits = model.eval()(images)
        except Exception as error:  # whatever the network's own code does on a shape that it can't take
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise UserError(f"model {name!r} can't take images of {list(images.shape[1:])}: {reason}") from error
        finally:
            model.train(was_training)
    shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != [2, num_classes]:
        raise UserError(
            f"model {name!r} gives {shape} for 2 images of {num_classes} classes; [2, {num_classes}] is wanted."
        )
