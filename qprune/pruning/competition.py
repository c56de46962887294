"""How the maps of different layers compete: what makes one layer's scores comparable with another's.

Each class is an entry of normalizations.py. `scale` goes over each term of a criterion's score; what the terms then sum
to, less the criterion's own flops_lambda x Theta_flops, goes through `place`, and the least goes first over all layers.
"""

import torch
from torch import Tensor

from qprune.pruning.groups import ChannelGroups


class Competition:
    """Scores as they are.

    needs_flops: whether `scale` is given Theta_flops, float [total]: what the removal of a map saves now, bit-weighted,
    1 on average over the living maps, 0 for dead ones (flops.relative_flops).
    """

    needs_flops = False

    def scale(self, scores: Tensor, groups: ChannelGroups, flops: Tensor | None) -> Tensor:
        """The scores of one term of a criterion, [total] -> [total]; dead maps have 0."""
        return scores

    def place(self, ranks: Tensor, groups: ChannelGroups, alive: Tensor) -> Tensor:
        """What the terms amount to, [total], which can be negative -> what is compared over all layers, [total]."""
        return ranks


class L2(Competition):
    """Each layer's scores divided by their l2 norm (Molchanov et al., ICLR 2017, Sec. 2.2)."""

    def scale(self, scores: Tensor, groups: ChannelGroups, flops: Tensor | None) -> Tensor:
        return normalize(scores, groups)


class Flops(L2):
    """Those, divided by a power of the bit-weighted FLOPs that the map's removal saves now: what costs much goes early.

    A negative score (an estimate of a curvature can be one) is multiplied by it, so that of two equal scores the dearer
    map always goes first. flops_lambda is subtracted from the quotient.
    """

    needs_flops = True

    def __init__(self, power: float = 0.5):
        self.power = power

    def scale(self, scores: Tensor, groups: ChannelGroups, flops: Tensor | None) -> Tensor:
        assert flops is not None, "needs_flops"
        scores = super().scale(scores, groups, flops)
        weight = flops.clamp(min=torch.finfo(flops.dtype).tiny) ** self.power
        return torch.where(scores < 0, scores * weight, scores / weight)


class LayerShare(L2):
    """All layers lose the same share of their maps; scores only decide which maps of a layer these are.

    The i-th least living map of a layer (from 0) of which some are gone is placed at (gone + i + 1) / maps of the layer:
    the share that the layer will have lost with it.
    """

    def place(self, ranks: Tensor, groups: ChannelGroups, alive: Tensor) -> Tensor:
        placed = torch.zeros(groups.total, dtype=torch.float64, device=ranks.device)
        for layer in groups.layers:
            living = layer.start + alive[layer.start : layer.stop].nonzero().flatten()
            order = living[ranks[living].argsort(stable=True)]
            size = layer.stop - layer.start
            lost = torch.arange(size - len(order) + 1, size + 1, dtype=torch.float64, device=ranks.device)
            placed[order] = lost / size
        return placed


def normalize(scores: Tensor, groups: ChannelGroups) -> Tensor:
    """Each layer's scores divided by their l2 norm (Molchanov et al. 2017, Sec. 2.2), [total] -> [total]."""
    normalised = torch.zeros_like(scores)
    for layer in groups.layers:
        part = scores[layer.start : layer.stop]
        normalised[layer.start : layer.stop] = part / part.norm().clamp(min=torch.finfo(part.dtype).tiny)
    return normalised
