"""Pruning, quantising and scoring a user's own model, without a sweep file: for notebooks.

Images that can't be what was meant (normalised, 0..255 as floats, [n, h, w, c]), labels that are none of the model's
classes and arguments out of range are a BadInput, which is a ValueError.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qprune.data import Split
from qprune.data.arrays import as_split, check_classes
from qprune.networks.given import check_module, count_classes
from qprune.networks.graph import image_shape_of, trace
from qprune.precision import get_precision
from qprune.pruning.competition import normalize as l2_normalized
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.maps import left_out_lines
from qprune.pruning.normalizations import as_chosen
from qprune.pruning.path import walk
from qprune.pruning.schedule import PathSchedule, Walk, check_reachable
from qprune.pruning.scoring import Scorer
from qprune.pruning.sizes import COUNTED, Sizes
from qprune.pruning.uniform import uniform_share
from qprune.recipe import Rate, Recipe, cosine, seed_of
from qprune.registry.errors import BadInput, UserError
from qprune.registry.options import Option, fill, is_number, is_whole, switch
from qprune.training import train

PATH_SHARE = 0.15  # of the updates that the path has at most; fine-tuning has the rest
WARMUP_SHARE = 0.1  # of fine-tuning


def prune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ratio: float,
    *,
    of: str = "maps",
    updates: int = 1000,
    criterion: str = "taylor",
    normalize: str | dict = "layer",
    lr: float = 0.01,
    step: float = 0.02,
    batch_size: int = 64,
    linear: bool = False,
    ignore: tuple[str, ...] = (),
    min_channels: int = 1,
    round_to: int = 1,
    seed: int = 0,
) -> fx.GraphModule:
    """A physically smaller, fine-tuned copy of a trained model, without `ratio` of its feature maps.

    images: uint8 [n, c, h, w] or float in 0..1 (rounded to 8 bits), as the model takes them when divided by 255; labels:
    integers [n];
    ratio: share of all prunable maps (or of: "macs", "params") that goes, 0..1; updates: of training in all, lr: their peak.
    As the sweeps' protocol for trained networks: a path of about PATH_SHARE of the updates at lr / 5, on which `step` of
    the maps goes at a time after a few scored updates (Molchanov et al., ICLR 2017); then the rate goes up to lr and falls
    to 0 over the rest (learning-rate rewinding: Renda et al., ICLR 2020). normalize: how layers compete (prune.normalize).
    Maps that can't be followed stay; a warning says which and why.
    Raises UserError where torch.fx can't trace the model, no map can be pruned, too many are asked for, or the updates
    are fewer than the path's steps.
    """
    _check(
        "prune", ratio=ratio, updates=updates, criterion=criterion, normalize=normalize, lr=lr, step=step,
        batch_size=batch_size, linear=linear, ignore=ignore, min_channels=min_channels, round_to=round_to, seed=seed,
    )  # fmt: skip
    if updates == 0:
        raise BadInput("prune: updates is 0; it must be at least 1")
    network, split = _open(model, images, labels)
    gated = GatedNetwork(network, image_shape_of(images), linear, ignore)
    for line in left_out_lines(gated.groups):
        warnings.warn(line, stacklevel=2)
    sizes = Sizes.of(gated.network, gated.groups, gated.image_shape)
    if of not in COUNTED:
        raise UserError(f"of is {of!r}; it must be one of {', '.join(COUNTED)}")
    share = uniform_share(sizes, of, ratio, min_channels, round_to)
    check_reachable(gated.groups, min(share, 1.0), min_channels, round_to)
    per_step = max(1.0, step * gated.groups.total)
    steps = PathSchedule(gated.groups.total, per_step, 1).steps_to(share)
    between = max(round(PATH_SHARE * updates / max(steps, 1)), 1)
    how = Walk(per_step, between, lr / 5, min_channels, round_to, as_chosen(normalize))
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(criterion))
    recipe, optimizer, done = Recipe(batch_size=batch_size), None, 0
    while done < steps if of == "maps" else sizes.lost(of, gated.alive) < ratio - 1e-12:
        if (done + 1) * between >= updates:
            raise UserError(f"{updates} updates are too few for the {steps} steps of the path; raise updates or step")
        if done * per_step >= gated.groups.total:
            raise UserError(f"{ratio} of the {of} can't be removed: every layer is at its least; lower ratio")
        optimizer = walk(gated, scorer, how, range(done, done + 1), split, recipe, seed, optimizer)
        done += 1
    smaller = gated.shrink()
    rest = updates - done * between
    rate = Rate("cosine", round(WARMUP_SHARE * rest)).over(lr, rest)
    train(smaller, split, recipe, range(rest), rate, seed_of(seed, "finetune"))
    return smaller.eval()


def quantize(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    precision: str,
    *,
    updates: int = 100,
    lr: float = 0.005,
    batch_size: int = 64,
    first_last_bits: int | None = 8,
    calibration_images: int = 256,
    teacher: nn.Module | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of a trained model at a precision ("fp16", "int8", "w4a8", "mixed4" ...) after quantisation-aware training.

    images, labels: training data, as for prune; the activation scales start from the first `calibration_images`.
    teacher: a network, such as the unpruned one, whose logits are learned too (training.distillation_loss); not changed.
    "int8" is converted to torch.ao's integer kernels; the w*a* formats stay Brevitas networks. In eval mode.
    For its cost: count_cost. Raises UserError for an unknown precision, or a model that torch.fx can't trace.
    """
    _check("quantize", updates=updates, lr=lr, batch_size=batch_size, calibration_images=calibration_images, seed=seed)
    network, split = _open(model, images, labels)
    calibration = split.images[:calibration_images].float() / 255
    number_format = get_precision(precision, first_last_bits).choose(network, calibration)
    trained = number_format.prepare(network, calibration)
    if teacher is not None:
        check_module("teacher", teacher)
        teacher = copy.deepcopy(teacher).to(split.images.device)
        if (taught := count_classes(teacher, split.images)) != (classes := count_classes(network, split.images)):
            raise BadInput(f"the teacher has {taught} classes and the model {classes}")
    recipe = Recipe(batch_size=batch_size)
    train(trained, split, recipe, range(updates), cosine(lr, updates), seed, teacher=teacher)
    return number_format.finish(trained.eval()).eval()


def score(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    criterion: str = "taylor",
    *,
    batch_size: int = 64,
    linear: bool = False,
    ignore: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Each layer's scores, l2-normalised per layer: layer name -> float [maps]. The least would be pruned first.

    images, labels: as for prune, all of them are used, in eval mode; the model isn't changed.
    """
    _check("score", criterion=criterion, batch_size=batch_size, linear=linear, ignore=ignore, seed=seed)
    network, split = _open(model, images, labels)
    gated = GatedNetwork(network, image_shape_of(images), linear, ignore)
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(criterion))
    gated.network.eval()
    for start in range(0, len(split.labels), batch_size):
        part = slice(start, start + batch_size)
        with scorer.minibatch():
            logits = gated.network(split.images[part].float() / 255)
            nn.functional.cross_entropy(logits, split.labels[part]).backward()
    scores = l2_normalized(scorer.scores(torch.Generator().manual_seed(seed)), gated.groups)
    return {layer.name: scores[layer.start : layer.stop] for layer in gated.groups.layers}


# What is given ---------------------------------------------------------------------------------------------------------


def _open(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[fx.GraphModule, Split]:
    """The model's graph and the training data on its device, as uint8; BadInput where they can't belong together."""
    check_module("model", model)
    split = as_split(images, labels)
    network = trace(model)
    device = next((parameter.device for parameter in network.parameters()), None)
    if device is None:
        raise BadInput("model: it has no parameters, so there is nothing to prune, quantise or score")
    split = split.to(device)
    check_classes(split.labels, count_classes(network, split.images))
    return network, split


def _at_least(low: int) -> Option:
    return Option(low, lambda value: is_whole(value, low), f"a whole number of at least {low}")


_CHOICE = Option(None, lambda value: isinstance(value, (str, Mapping)), "a name, or {name: ..., option: value}")
_ARGUMENTS = {
    "ratio": Option(0, lambda value: is_number(value) and 0 <= value < 1, "a share from 0 to below 1"),
    "step": Option(0, lambda value: is_number(value) and 0 < value <= 1, "a share above 0, at most 1"),
    "lr": Option(0, lambda value: is_number(value) and 0 <= value < math.inf, "a finite number of at least 0"),
    "updates": _at_least(0),
    "batch_size": _at_least(1),
    "calibration_images": _at_least(1),
    "min_channels": _at_least(1),
    "round_to": _at_least(1),
    "seed": Option(0, lambda value: is_whole(value, -(2**63)), "a whole number"),
    "criterion": _CHOICE,
    "normalize": _CHOICE,
    "linear": switch(False),
    "ignore": Option(
        (),
        lambda value: isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value),
        "a tuple of names of layers",
    ),
}


def _check(what: str, **given: Any) -> None:
    """BadInput for an argument that is none of its kind; NumPy's numbers are numbers."""
    try:
        fill(
            what,
            {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()},
            _ARGUMENTS,
        )
    except UserError as error:
        raise BadInput(str(error)) from None
