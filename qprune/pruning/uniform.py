"""Networks that lose the same share of every layer: what a narrower network has, whose maps no criterion has chosen."""

import torch
from torch import Tensor

from qprune.pruning.groups import ChannelGroups
from qprune.pruning.schedule import least_width
from qprune.pruning.sizes import Sizes


def uniform_alive(
    groups: ChannelGroups,
    ratio: float,
    min_channels: int = 1,
    round_to: int = 1,
    max_layer_ratio: float | None = None,
) -> Tensor:
    """Which maps live on when every layer has lost the same share of its own: bool [total]; the first ones of each layer do.

    ratio: share of all maps to remove, 0..1. round(ratio x total) maps go, or as nearly fewer as what the layers have to
    keep allows: each layer its share of them, rounded by largest remainder (of equal ones the earlier layer's first).
    Where a layer can't give its share the others give more, equal shares again.
    """
    sizes = [layer.stop - layer.start for layer in groups.layers]
    spare = [size - least_width(size, min_channels, round_to, max_layer_ratio) for size in sizes]
    wanted = min(round(ratio * groups.total), sum(spare))
    shares = _shares(sizes, spare, wanted)
    lost = [_round_down(size, share, round_to) for size, share in zip(sizes, shares, strict=True)]
    while True:
        left = wanted - sum(lost)
        units = [(size - gone) % round_to or round_to for size, gone in zip(sizes, lost, strict=True)]
        layers = [i for i, unit in enumerate(units) if unit <= left and lost[i] + unit <= spare[i]]
        if not layers:
            break
        most = max(layers, key=lambda i: shares[i] - lost[i])
        lost[most] += units[most]
    alive = torch.ones(groups.total, dtype=torch.bool)
    for layer, gone in zip(groups.layers, lost, strict=True):
        alive[layer.stop - gone : layer.stop] = False
    return alive


def uniform_share(
    sizes: Sizes,
    of: str,
    ratio: float,
    min_channels: int = 1,
    round_to: int = 1,
    max_layer_ratio: float | None = None,
) -> float:
    """The share of its maps that every layer has to lose so that this share of the maps, MACs or parameters is gone, 0..1.

    of: one of sizes.COUNTED; of "maps" the share is the ratio itself. Else it is a whole number of maps over all of them,
    for uniform_alive, with which so much is gone, and with one map less is not; 1 where more is asked for than may go.
    """
    if of == "maps" or ratio <= 0:
        return max(ratio, 0.0)
    total = sizes.groups.total

    def lost(count: int) -> float:
        alive = uniform_alive(sizes.groups, count / total, min_channels, round_to, max_layer_ratio)
        return sizes.lost(of, alive)

    low, high = 0, total
    while high - low > 1:  # lost(low) < ratio, and lost(high) >= ratio if any is
        middle = (low + high) // 2
        low, high = (low, middle) if lost(middle) >= ratio else (middle, high)
    return high / total


def _shares(sizes: list[int], spare: list[int], wanted: int) -> list[float]:
    """How many maps each layer loses, not rounded: min(share x size, spare) of one share, `wanted` in all."""
    open_layers, left = set(range(len(sizes))), float(wanted)
    shares = [0.0] * len(sizes)
    while open_layers:
        share = left / sum(sizes[i] for i in open_layers)
        full = {i for i in open_layers if share * sizes[i] >= spare[i]}
        if not full:
            return [share * size if i in open_layers else shares[i] for i, size in enumerate(sizes)]
        for i in full:
            shares[i] = float(spare[i])
            left -= spare[i]
        open_layers -= full
    return shares


def _round_down(size: int, share: float, round_to: int) -> int:
    """The largest number of maps up to `share` that leaves a layer all of its maps or a multiple of round_to."""
    whole = int(share + 1e-9)
    first = size % round_to
    return 0 if whole < first else first + (whole - first) // round_to * round_to
