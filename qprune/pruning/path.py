"""The pruning path: score while fine-tuning, remove a few maps, go on, until enough are gone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qprune.data import Split
from qprune.pruning.gated import Gated
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.scoring import Scorer
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.identity import added_later
from qprune.training import Recipe, constant, seed_of, train


@dataclass(frozen=True)
class PathSchedule:
    """When how much is removed. total: prunable maps; per_step: maps removed at once, on average, at least 1;
    updates_between: updates before each removal."""

    total: int
    per_step: float
    updates_between: int

    def removed_after(self, steps: int) -> int:
        """Maps gone after so many removals."""
        return min(_nearest(steps * self.per_step), self.total)

    def steps_to(self, ratio: float) -> int:
        """Removals until this share of the maps, to the nearest map, is gone."""
        wanted = _nearest(ratio * self.total)
        steps = max(math.floor(wanted / self.per_step) - 1, 0)
        while self.removed_after(steps) < wanted:
            steps += 1
        return steps

    def updates_to(self, ratio: float) -> int:
        """Updates until this share of the maps is gone."""
        return self.steps_to(ratio) * self.updates_between


def _nearest(count: float) -> int:
    return math.floor(count + 0.5 + 1e-9)


def least_width(maps: int, min_channels: int = 1, round_to: int = 1, max_layer_ratio: float | None = None) -> int:
    """How many of its maps a layer keeps at least, when it may only have a multiple of round_to, or all of them.

    max_layer_ratio: the share of its maps that it may lose, 0..1; None: any.
    """
    least = max(min_channels, round_to, 1)
    if max_layer_ratio is not None:
        least = max(least, maps - math.floor(max_layer_ratio * maps + 1e-9))
    return min(maps, -(-least // round_to) * round_to)


def check_reachable(
    groups: ChannelGroups, ratio: float, min_channels: int, round_to: int = 1, max_layer_ratio: float | None = None
) -> None:
    """Raises UserError where what every layer has to keep leaves too few maps to remove."""
    sizes = [layer.stop - layer.start for layer in groups.layers]
    kept = [least_width(size, min_channels, round_to, max_layer_ratio) for size in sizes]
    largest = 1 - sum(kept) / max(groups.total, 1)
    if ratio > largest + 1e-9:
        least = f"{max(min_channels, round_to, 1)} channel(s)"
        share = "" if max_layer_ratio is None else f" and {1 - max_layer_ratio:.4g} of all"
        raise UserError(
            f"pruning ratio {ratio} can't be reached: with {least}{share} kept in each of "
            f"{len(groups.layers)} layers, at most {math.floor(largest * 1000) / 1000} of {groups.total} maps can go; "
            "lower prune.ratios / prune.until, prune.min_channels or prune.round_to"
            + ("" if max_layer_ratio is None else ", or raise prune.max_layer_ratio")
        )


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


@dataclass(frozen=True)
class Walk:
    """How a path is walked. per_step: maps removed at once, on average, at least 1; updates_between: scored updates before
    each removal, at the constant rate lr; min_channels, round_to, max_layer_ratio: what a layer keeps; normalize: how
    layers compete, as normalizations.as_chosen has it."""

    per_step: float
    updates_between: int
    lr: float
    min_channels: int = 1
    round_to: int = 1
    normalize: str | Choice = "l2"
    max_layer_ratio: float | None = added_later(None)

    def schedule(self, total: int) -> PathSchedule:
        """The schedule for a network of so many prunable maps."""
        return PathSchedule(total, self.per_step, self.updates_between)

    @property
    def normalization(self) -> str | dict[str, Any]:
        """How layers compete, as a word or {"name": ..., option: value}."""
        return self.normalize if isinstance(self.normalize, str) else self.normalize.settings

    def select(self, scores: Tensor, alive: Tensor, groups: ChannelGroups, removed: int) -> Tensor:
        """`select` under what a layer keeps."""
        return select(scores, alive, groups, removed, self.min_channels, self.round_to, self.max_layer_ratio)


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
    for step in steps:
        scorer.reset()
        burst = range(step * how.updates_between, (step + 1) * how.updates_between)
        optimizer = train(gated.network, split, recipe, burst, rate, seed, optimizer, scorer, on_update)
        generator = torch.Generator().manual_seed(seed_of(seed, "scores", step))
        ranking = scorer.ranking(generator, how.normalization)
        gated.mask(how.select(ranking, gated.alive, gated.groups, schedule.removed_after(step + 1)))
    assert optimizer is not None, "no step to walk"
    return optimizer
