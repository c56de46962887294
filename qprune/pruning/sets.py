"""Which maps two criteria would remove, where these lie in the plane of activation and gradient, and swaps of them.

All functions are pure. A set of maps is a bool vector over all maps, True where the map is in the set (is removed).
"""

import torch
from torch import Tensor

from qprune.pruning.groups import ChannelGroups
from qprune.pruning.path import select

QUADRANTS = ("case_1", "case_2", "high_high", "low_low")  # in the order of quadrants()'s numbers
OPPOSITE = {"case_1": "case_2", "case_2": "case_1"}
WORDS = {
    "case_1": "high activation, low gradient",
    "case_2": "low activation, high gradient",
    "high_high": "high activation, high gradient",
    "low_low": "low activation, low gradient",
}


def pruned_set(ranking: Tensor, groups: ChannelGroups, share: float, min_channels: int = 1) -> Tensor:
    """The maps that go when this share of all is removed at once, the least of the ranking first: bool [maps].

    ranking: l2-normalised scores, [maps]. Each layer keeps min_channels maps, so sets of equal shares have equal sizes.
    """
    everything = torch.ones(groups.total, dtype=torch.bool)
    return ~select(ranking, everything, groups, round(share * groups.total), min_channels)


def over_median(values: Tensor, groups: ChannelGroups) -> Tensor:
    """Whether each map's value is above the median of its layer: [maps] -> bool [maps].

    The median of an even number of maps is the mean of the two in the middle; dividing a layer by its l2 norm changes
    nothing here.
    """
    high = torch.zeros(groups.total, dtype=torch.bool)
    for layer in groups.layers:
        part = values[layer.start : layer.stop]
        high[layer.start : layer.stop] = part > part.quantile(0.5)
    return high


def quadrants(activation: Tensor, gradient: Tensor, groups: ChannelGroups) -> Tensor:
    """The quadrant of each map, as its place in QUADRANTS: int64 [maps]. High is above the median of the map's layer.

    activation: mean |z|; gradient: mean |dC/dz|; both [maps].
    """
    high_z, high_dz = over_median(activation, groups), over_median(gradient, groups)
    return torch.where(high_z, torch.where(high_dz, 2, 0), torch.where(high_dz, 1, 3))


def swapped(
    removed: dict[str, Tensor],
    rankings: dict[str, Tensor],
    start: str,
    put_in: Tensor,
    give_back: Tensor,
    groups: ChannelGroups,
) -> tuple[Tensor, int]:
    """The removal `start` with maps that only the other criterion removes in the place of equally many that only it does.

    removed, rankings: of "taylor" and "activation", [maps] each, the sets being of equal size; put_in, give_back: bool
    [maps], which maps may come and go. They are paired: what the other would have removed first with what `start`
    would have removed last, until either side has no more. A pair that would leave a layer without maps is left out.
    Returns the new set, which has the size of `start`, and how many maps were swapped.
    """
    (other,) = (name for name in removed if name != start)
    coming = (removed[other] & ~removed[start] & put_in).nonzero().flatten()
    going = (removed[start] & ~removed[other] & give_back).nonzero().flatten()
    coming = coming[rankings[other][coming].argsort(stable=True)]
    going = going[rankings[start][going].argsort(descending=True, stable=True)]
    result, count = removed[start].clone(), 0
    for comes, goes in zip(coming.tolist(), going.tolist(), strict=False):
        tried = result.clone()
        tried[comes], tried[goes] = True, False
        if not any(tried[layer.start : layer.stop].all() for layer in groups.layers):
            result, count = tried, count + 1
    return result, count


def removal(
    rankings: dict[str, Tensor],
    places: Tensor,
    groups: ChannelGroups,
    share: float,
    start: str,
    put_in: str | None = None,
    quadrant: str | None = None,
    min_channels: int = 1,
) -> tuple[Tensor, int]:
    """The set that is removed, bool [maps], and how many maps the variation concerns.

    rankings: "taylor" and "activation" -> [maps]; places: quadrants(); min_channels: maps that each layer keeps before
    a variation; start: "none", "both" (removed by both criteria), "taylor" or "activation"; and for a variation put_in
    ("taylor" or "activation": from the maps that only it removes) and quadrant (of which only these). Into "both" they
    are added; into the other's removal they are swapped for maps of the opposite case that only that one removes.
    """
    if start == "none":
        return torch.zeros(groups.total, dtype=torch.bool), 0
    sets = {name: pruned_set(ranking, groups, share, min_channels) for name, ranking in rankings.items()}
    both = sets["taylor"] & sets["activation"]
    begun = both if start == "both" else sets[start]
    if put_in is None or quadrant is None:
        return begun, int(begun.sum())
    chosen = places == QUADRANTS.index(quadrant)
    if start == "both":
        added = sets[put_in] & ~both & chosen
        return both | added, int(added.sum())
    opposite = places == QUADRANTS.index(OPPOSITE[quadrant])
    return swapped(sets, rankings, start, chosen, opposite, groups)
