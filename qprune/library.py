"""Pruning, quantising and scoring a user's own model, without a sweep file: for notebooks."""

import copy

import torch
from torch import Tensor, fx, nn

from qprune.data import Split
from qprune.networks.graph import image_shape_of, trace
from qprune.precision import get_precision
from qprune.pruning.competition import normalize as l2_normalized
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.normalizations import as_chosen
from qprune.pruning.path import PathSchedule, Walk, check_reachable, walk
from qprune.pruning.scoring import Scorer
from qprune.pruning.sizes import COUNTED, Sizes
from qprune.pruning.uniform import uniform_share
from qprune.registry.errors import UserError
from qprune.training import Rate, Recipe, cosine, seed_of, train

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

    images: uint8 [n, c, h, w] or float in 0..1, as the model takes them when divided by 255; labels: int64 [n];
    ratio: share of all prunable maps (or of: "macs", "params") that goes, 0..1; updates: of training in all, lr: their peak.
    As the sweeps' protocol for trained networks: a path of about PATH_SHARE of the updates at lr / 5, on which `step` of
    the maps goes at a time after a few scored updates (Molchanov et al., ICLR 2017); then the rate goes up to lr and falls
    to 0 over the rest (learning-rate rewinding: Renda et al., ICLR 2020). normalize: how layers compete (prune.normalize).
    Raises UserError where torch.fx can't trace the model, its channels can't be cut, too many are asked for, or the updates
    are fewer than the path's steps.
    """
    network = trace(model)
    split = _split(network, images, labels)
    gated = GatedNetwork(network, image_shape_of(images), linear, ignore)
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
    network = trace(model)
    split = _split(network, images, labels)
    calibration = split.images[:calibration_images].float() / 255
    number_format = get_precision(precision, first_last_bits).choose(network, calibration)
    trained = number_format.prepare(network, calibration)
    teacher = copy.deepcopy(teacher).to(split.images.device) if teacher is not None else None
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
    network = trace(model)
    split = _split(network, images, labels)
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


def _split(network: fx.GraphModule, images: Tensor, labels: Tensor) -> Split:
    """Training data on the network's device, as uint8."""
    device = next(network.parameters()).device
    if images.is_floating_point():
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return Split(images.to(device), labels.to(device))
