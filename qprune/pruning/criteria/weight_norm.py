"""Minimum weight: Molchanov et al., ICLR 2017, Sec. 2.2 "Minimum weight"."""

import torch
from torch import Tensor, nn

from qprune.pruning.criteria.base import StaticCriterion
from qprune.pruning.groups import ChannelGroups


class WeightNorm(StaticCriterion):
    """Theta = mean of w^2 over the weights of the kernels that make the map (all of them, where maps are coupled)."""

    def scores(self, network: nn.Module, groups: ChannelGroups, generator: torch.Generator) -> Tensor:
        device = next(network.parameters()).device
        squares, counts = torch.zeros(2, groups.total, device=device)
        for member in groups.members:
            module = network.get_submodule(member.layer)
            if member.side != "out" or not isinstance(module, (nn.Conv2d, nn.Linear)):
                continue
            kernels = module.weight.detach().flatten(1)[member.positions.to(device)]  # [maps of the member, weights]
            maps = member.maps.to(device)
            squares.index_add_(0, maps, kernels.square().sum(1))
            counts.index_add_(0, maps, torch.full_like(kernels[:, 0], kernels.shape[1]))
        return squares / counts
