"""When how much is removed along a path, and what every layer keeps: in numbers alone, without torch."""

import math
from dataclasses import dataclass
from typing import Any

from qprune.pruning.maps import Maps
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.identity import added_later


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
    maps: Maps, ratio: float, min_channels: int, round_to: int = 1, max_layer_ratio: float | None = None
) -> None:
    """Raises UserError where what every layer has to keep leaves too few maps to remove."""
    sizes = [layer.stop - layer.start for layer in maps.layers]
    kept = [least_width(size, min_channels, round_to, max_layer_ratio) for size in sizes]
    largest = 1 - sum(kept) / max(maps.total, 1)
    if ratio > largest + 1e-9:
        least = f"{max(min_channels, round_to, 1)} channel(s)"
        share = "" if max_layer_ratio is None else f" and {1 - max_layer_ratio:.4g} of all"
        raise UserError(
            f"pruning ratio {ratio} can't be reached: with {least}{share} kept in each of "
            f"{len(maps.layers)} layers, at most {math.floor(largest * 1000) / 1000} of {maps.total} maps can go; "
            "lower prune.ratios / prune.until, prune.min_channels or prune.round_to"
            + ("" if max_layer_ratio is None else ", or raise prune.max_layer_ratio")
        )


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
