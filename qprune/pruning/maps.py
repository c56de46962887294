"""Which maps a network has, in numbers and names alone: of which layers those are that can be pruned, and why others can't.

All that the settings of a path depend on; imports no torch. The channels that carry them: qprune.pruning.groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One group set: the maps start .. stop-1, named after the layer that makes them."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class LeftOut:
    """Maps that can't be pruned: of a layer, how many, and why. Not the classes, nor what the user has them left out."""

    layer: str
    maps: int
    why: str


@dataclass(frozen=True)
class Maps:
    """All prunable maps of a network, and what isn't. total = number of maps."""

    layers: tuple[Layer, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def total(self) -> int:
        return self.layers[-1].stop if self.layers else 0


def left_out_lines(maps: Maps) -> Iterator[str]:
    """One line for each reason for which maps can't be pruned: of which layers (the first three by name), how many."""
    reasons: dict[str, list[LeftOut]] = {}
    for each in maps.left_out:
        reasons.setdefault(each.why, []).append(each)
    for why, layers in reasons.items():
        named = ", ".join(each.layer for each in layers[:3])
        more = f" and {len(layers) - 3} more layers" if len(layers) > 3 else ""
        yield f"{sum(each.maps for each in layers):,} maps of {named}{more} can't be pruned: {why}"
