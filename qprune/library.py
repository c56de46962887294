"""Pruning, quantising and scoring a user's own model, without a sweep file: for notebooks."""

import copy

import torch
from torch import Tensor, fx, nn

from qprune.data import Split
from qprune.networks.graph import image_shape_of, trace
from qprune.precision import get_precision
from qprune.pruning.competition import normalize
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import Walk, check_reachable, walk
from qprune.pruning.scoring import Scorer
from qprune.training import Recipe, cosine, train


def prune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ratio: float,
    *,
    criterion: str = "taylor",
    lr: float = 0.01,
    step: float = 0.01,
    updates_between: int = 5,
    batch_size: int = 64,
    linear: bool = False,
    ignore: tuple[str, ...] = (),
    min_channels: int = 1,
    round_to: int = 1,
    seed: int = 0,
) -> fx.GraphModule:
    """A physically smaller, fine-tuned copy of a trained model, without `ratio` of its feature maps.

    images: uint8 [n, c, h, w] or float in 0..1, as the model takes them when divided by 255; labels: int64 [n];
    ratio: share of all prunable maps, 0..1; step: share removed at once, after `updates_between` scored updates.
    The loop is Molchanov et al. (ICLR 2017): score while fine-tuning at a constant rate, remove, go on.
    Raises UserError where torch.fx can't trace the model, its channels can't be cut, or too many are asked for.
    """
    network = trace(model)
    split = _split(network, images, labels)
    gated = GatedNetwork(network, image_shape_of(images), linear, ignore)
    check_reachable(gated.groups, ratio, min_channels, round_to)
    how = Walk(max(1.0, step * gated.groups.total), updates_between, lr, min_channels, round_to)
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(criterion))
    recipe = Recipe(batch_size=batch_size)
    steps = range(how.schedule(gated.groups.total).steps_to(ratio))
    walk(gated, scorer, how, steps, split, recipe, seed)
    return gated.shrink().eval()


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
    scores = normalize(scorer.scores(torch.Generator().manual_seed(seed)), gated.groups)
    return {layer.name: scores[layer.start : layer.stop] for layer in gated.groups.layers}


def _split(network: fx.GraphModule, images: Tensor, labels: Tensor) -> Split:
    """Training data on the network's device, as uint8."""
    device = next(network.parameters()).device
    if images.is_floating_point():
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return Split(images.to(device), labels.to(device))
