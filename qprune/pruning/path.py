"""The pruning path: score while fine-tuning, remove a few maps, go on, until enough are gone."""

from collections.abc import Callable

import torch
from torch import Tensor

from qprune.data import Split
from qprune.pruning.gated import Gated
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.schedule import Walk, least_width
from qprune.pruning.scoring import Scorer
from qprune.recipe import Recipe, constant, seed_of
from qprune.training import train


def select(
    scores: Tensor,
    alive: Tensor,
    groups: ChannelGroups,
    removed: int,
    min_channels: int = 1,
    round_to: int = 1,
    max_layer_ratio: float | None = None,
) -> Tensor:
    """Which maps live on when `removed` of all maps shall be gone: the least scores go first, over all layers.

    scores: float [total]; alive: bool [total] -> bool [total]. Each layer keeps at least max(min_channels, 1), and loses
    at most the share max_layer_ratio. With round_to > 1 a layer gives up maps in such numbers that its width is a
    multiple of it, the least together, ranked by their mean score; then slightly fewer than `removed` may be gone.
    """
    scores = scores.detach().cpu()
    units = []  # (score of the unit, place in the layer, the maps that go together)
    for layer in groups.layers:
        living = layer.start + alive[layer.start : layer.stop].nonzero().flatten()
        living = living[scores[living].argsort(stable=True)]
        spare = len(living) - least_width(layer.stop - layer.start, min_channels, round_to, max_layer_ratio)
        first = len(living) % round_to or round_to
        start, size = 0, first
        while start + size <= spare:
            unit = living[start : start + size]
            units.append((scores[unit].mean().item(), start, unit))
            start, size = start + size, round_to
    units.sort(key=lambda unit: unit[:2])
    alive = alive.clone()
    gone = int((~alive).sum())
    for _, _, unit in units:
        if gone + len(unit) > removed:
            break
        alive[unit] = False
        gone += len(unit)
    return alive


def walk(
    gated: Gated,
    scorer: Scorer,
    how: Walk,
    steps: range,
    split: Split,
    recipe: Recipe,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    on_update: Callable[[int, float | None], None] | None = None,
) -> torch.optim.Optimizer:
    """Walk some steps of the path in place: each is a burst of scored updates, then one removal.

    Scores are gathered anew in each burst. Returns the optimizer, to walk on with.
    """
    schedule, rate = how.schedule(gated.groups.total), constant(how.lr)
    kept = (how.min_channels, how.round_to, how.max_layer_ratio)
    for step in steps:
        scorer.reset()
        burst = range(step * how.updates_between, (step + 1) * how.updates_between)
        optimizer = train(gated.network, split, recipe, burst, rate, seed, optimizer, scorer, on_update)
        generator = torch.Generator().manual_seed(seed_of(seed, "scores", step))
        ranking = scorer.ranking(generator, how.normalization)
        gated.mask(select(ranking, gated.alive, gated.groups, schedule.removed_after(step + 1), *kept))
    assert optimizer is not None, "no step to walk"
    return optimizer
