"""Random pruning, the baseline that every criterion has to beat."""

import torch
from torch import Tensor, nn

from qprune.pruning.criteria.base import StaticCriterion
from qprune.pruning.groups import ChannelGroups


class Random(StaticCriterion):
    """Theta uniform in 0..1 for each map, drawn anew at each removal from the given generator (on the CPU)."""

    def scores(self, network: nn.Module, groups: ChannelGroups, alive: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(groups.total, generator=generator).to(next(network.parameters()).device)
