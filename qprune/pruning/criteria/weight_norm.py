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
            weight = module.weight.detach()[:, _read(member.layer, module.weight.shape[1], groups, alive)]
            kernels = weight.flatten(1)[member.positions.to(device)]  # [maps of the member, weights]
            maps = member.maps.to(device)
            squares.index_add_(0, maps, kernels.square().sum(1))
            counts.index_add_(0, maps, torch.full_like(maps, kernels.shape[1], dtype=squares.dtype))
        return squares / counts


def _read(layer: str, inputs: int, groups: ChannelGroups, alive: Tensor) -> Tensor:
    """The input channels of a layer whose maps are not switched off, or that carry none: bool [inputs]."""
    living = torch.ones(inputs, dtype=torch.bool, device=alive.device)
    for member in groups.members:
        if member.layer == layer and member.side == "in":
            living[member.positions.to(alive.device)] = alive[member.maps.to(alive.device)]
    return living
