"""Minimum weight: Molchanov et al., ICLR 2017, Sec. 2.2 "Minimum weight"."""

import torch
from torch import Tensor, nn

from qprune.pruning.criteria.base import StaticCriterion
from qprune.pruning.groups import ChannelGroups


class WeightNorm(StaticCriterion):
    """Theta = mean of w^2 over the weights of the kernels that make the map (all of them, where maps are coupled).

    Weights that read a map that is switched off don't count: they go with it.
    """

    def scores(self, network: nn.Module, groups: ChannelGroups, alive: Tensor, generator: torch.Generator) -> Tensor:
        device = next(network.parameters()).device
        squares, counts = torch.zeros(2, groups.total, device=device)
        for member in groups.members:
            module = network.get_submodule(member.layer)
            if member.side != "out" or not isinstance(module, (nn.Conv2d, nn.Linear)):
                continue
            read = _read(member.layer, module, groups, alive).to(device)[member.positions.to(device)]
            sums = module.weight.detach().square().flatten(2).sum(2)[member.positions.to(device)]  # [maps, inputs]
            kernel, maps = module.weight[0, 0].numel(), member.maps.to(device)
            squares.index_add_(0, maps, (sums * read).sum(1))
            counts.index_add_(0, maps, read.sum(1).to(squares.dtype) * kernel)
        return squares / counts


def _read(layer: str, module: nn.Conv2d | nn.Linear, groups: ChannelGroups, alive: Tensor) -> Tensor:
    """Whether the maps of a layer's inputs are not switched off, or are none: bool [outputs, inputs of an output]."""
    parts = module.groups if isinstance(module, nn.Conv2d) else 1
    living = torch.ones(module.weight.shape[1] * parts, dtype=torch.bool, device=alive.device)
    for member in groups.members:
        if member.layer == layer and member.side == "in":
            living[member.positions.to(alive.device)] = alive[member.maps.to(alive.device)]
    return living.view(parts, -1).repeat_interleave(len(module.weight) // parts, 0)
