"""`torchvision:<name>`: any of torchvision's classifiers, with its head replaced.

weights: null (random), the name of torchvision's weights (IMAGENET1K_V1, DEFAULT; downloaded by torchvision into
the torch hub folder) or a local file with a state dict (torch.save or safetensors).
hidden: null, or for AlexNet and VGG the units of each hidden linear layer (torchvision: 4,096), which then read the
last map as it is. On small images that map is one or a few pixels, which torchvision's average pooling copies to
6 x 6 or 7 x 7, in front of 38 or 103 million weights. Without dropout, and all weights are drawn after He et al.
(ICCV 2015): with torchvision's own start a short training doesn't leave chance.

- The head, the last linear layer (SqueezeNet: its last convolution), is replaced by a fresh one where it isn't
  already for `num_classes`. A local file may come with a head of any number of classes.
- Grey images: a network of torchvision's takes three channels, so the kernels of its first convolution are
  summed over them. That is exactly the network that sees the grey image three times.
- GoogLeNet's and Inception's auxiliary heads are off, and so is their own input transformation, for qprune
  normalises in front of the network.
"""

import os
import re
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision import models

from qprune.networks.layers import conv_like
from qprune.networks.weights import SUFFIXES, as_path, fill, first_line, head_name, read_weights
from qprune.registry import nearest
from qprune.registry.errors import UserError


def classifiers() -> list[str]:
    """Names of torchvision's classifiers."""
    return models.list_models(module=models)


def check(name: str, weights: str | None, hidden: int | None = None) -> None:
    """UserError where there is no such classifier, or no such weights or hidden units for it. Downloads nothing."""
    if name not in classifiers():
        if name in models.list_models():
            raise UserError(
                f"model 'torchvision:{name}' is no classifier of float images{nearest(name, classifiers())}"
            )
        close = nearest(name, classifiers())
        raise UserError(f"unknown model 'torchvision:{name}' in torchvision {torchvision.__version__}{close}")
    if hidden is not None:
        if not name.startswith(("alexnet", "vgg")):
            raise UserError(f"model 'torchvision:{name}': hidden is of AlexNet and VGG alone; leave it out")
        if weights is not None:
            raise UserError(f"model 'torchvision:{name}': weights are for 4,096 hidden units; leave hidden or them out")
    if weights is not None and not is_file(weights):
        named_weights(name, weights)
    elif weights is not None and not (path := as_path(weights)).is_file():
        raise UserError(f"model 'torchvision:{name}': there is no weights file {weights} ({path.resolve()}).")


def is_file(weights: str) -> bool:
    """Whether `weights` means a local file rather than weights of torchvision's."""
    return weights.endswith(SUFFIXES) or "/" in weights or os.path.isfile(weights)


def named_weights(name: str, weights: str) -> models.WeightsEnum:
    """torchvision's weights of that name, or UserError with the nearest one."""
    known = models.get_model_weights(name)
    if weights not in known.__members__:
        hint = nearest(weights, list(known.__members__))
        raise UserError(f"model 'torchvision:{name}': unknown weights {weights!r}, and no file of that name{hint}")
    return known[weights]


def build(
    name: str,
    in_channels: int,
    num_classes: int,
    image_size: int,
    weights: str | None = None,
    hidden: int | None = None,
) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]; see the module's docstring."""
    check(name, weights, hidden)
    if weights is None:
        model = _construct(name, image_size)
        _take_channels(model, name, in_channels, keep_weights=False)
    elif is_file(weights):
        model = _from_file(name, weights, in_channels, image_size)
    else:
        model = _download(name, named_weights(name, weights), image_size)
        _take_channels(model, name, in_channels, keep_weights=True)
    if hidden is not None:
        _narrow_classifier(model, hidden, in_channels, image_size)
    _replace_head(model, num_classes)
    return model


def _narrow_classifier(model: nn.Module, hidden: int, in_channels: int, image_size: int) -> None:
    """In place: no pooling in front of the classifier, `hidden` units in each of its hidden layers, no dropout, He's start."""
    assert isinstance(model, (models.AlexNet, models.VGG))
    model.avgpool = nn.Identity()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            width = model.eval().features(torch.zeros(1, in_channels, image_size, image_size)).numel()
        except RuntimeError as error:
            raise UserError(f"{type(model).__name__} can't take {image_size}x{image_size} images: {error}") from error
    model.train()
    for place, layer in enumerate(model.classifier[:-1]):
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.Linear):
            model.classifier[place] = nn.Linear(width, hidden)
            width = hidden
    model.classifier[-1] = nn.Linear(width, model.classifier[-1].out_features)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer is not model.classifier[-1]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _construct(name: str, image_size: int) -> nn.Module:
    """The network with random weights, its auxiliary heads and input transformation off."""
    settings: dict = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "transform_input": False, "init_weights": True}
    elif name.startswith("vit_"):
        settings["image_size"] = image_size
    try:
        return models.get_model(name, **settings)
    except (ValueError, AssertionError, RuntimeError) as error:  # ViT: the image must be a multiple of the patch
        raise UserError(f"model 'torchvision:{name}' can't take {image_size}x{image_size} images: {error}") from error


def _download(name: str, weights: models.WeightsEnum, image_size: int) -> nn.Module:
    model = _construct(name, image_size)
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise UserError(
            f"model 'torchvision:{name}': {weights.url} can't be downloaded ({error}). Fetch it by other means and "
            "give its file as weights."
        ) from error
    except Exception as error:  # a damaged file in the cache fails in torch.load with many types
        raise UserError(
            f"model 'torchvision:{name}': {Path(weights.url).name} in {torch.hub.get_dir()}/checkpoints is damaged "
            f"({first_line(error)}). Remove it, and it is fetched again."
        ) from error
    fill(model, _modern_names(tensors), weights.url, optional=("aux", "AuxLogits."))
    return model


def _from_file(name: str, file: str, in_channels: int, image_size: int) -> nn.Module:
    """The network with a file's tensors; the head and the first convolution are made to fit those first."""
    tensors = _modern_names(read_weights(file))
    model = _construct(name, image_size)
    head = tensors.get(f"{head_name(model)}.weight")
    if head is not None:
        _replace_head(model, len(head))
    first = tensors.get(f"{_first_conv_name(model)}.weight")
    if first is not None and first.dim() == 4 and first.shape[1] == in_channels:
        _take_channels(model, name, in_channels, keep_weights=False)
    fill(model, tensors, file, optional=("aux", "AuxLogits."))
    _take_channels(model, name, in_channels, keep_weights=True)
    return model


def _modern_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's files of before PyTorch 0.4 have denselayer1.norm.1.weight for denselayer1.norm1.weight."""
    return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name): t for name, t in tensors.items()}


def _first_conv_name(model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """In place; a head that is already for `num_classes` stays."""
    name = head_name(model)
    head = model.get_submodule(name)
    if isinstance(head, nn.Linear) and head.out_features != num_classes:
        _set_module(model, name, nn.Linear(head.in_features, num_classes, bias=head.bias is not None))
    elif isinstance(head, nn.Conv2d) and head.out_channels != num_classes:
        _set_module(model, name, conv_like(head, head.in_channels, num_classes))


def _take_channels(model: nn.Module, name: str, in_channels: int, keep_weights: bool) -> None:
    """Makes the first convolution take `in_channels`, in place.

    One channel: the kernels summed over the three colours. Other numbers: a fresh layer, which `keep_weights` forbids.
    """
    place = _first_conv_name(model)
    conv = model.get_submodule(place)
    assert isinstance(conv, nn.Conv2d)
    if conv.in_channels == in_channels:
        return
    if in_channels != 1 and keep_weights:
        raise UserError(
            f"model 'torchvision:{name}': its weights are for {conv.in_channels} channels and the images have "
            f"{in_channels}. Leave out weights, or give images of 1 or {conv.in_channels} channels."
        )
    fresh = conv_like(conv, in_channels, conv.out_channels)
    if in_channels == 1:
        with torch.no_grad():
            fresh.weight.copy_(conv.weight.sum(1, keepdim=True))  # [out, 3, k, k] -> [out, 1, k, k]
            if conv.bias is not None and fresh.bias is not None:
                fresh.bias.copy_(conv.bias)
    _set_module(model, place, fresh)
