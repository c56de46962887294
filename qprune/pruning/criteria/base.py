"""What a criterion has to answer. Scores are per map, before normalisation; the least is pruned first."""

import torch
from torch import Tensor, nn

from qprune.pruning.groups import ChannelGroups


class WatchedCriterion:
    """A criterion read off feature maps while the network trains.

    Sums over positions and over the gates of a map come first, per example; `per_batch` then makes one number
    per map of a minibatch. The score is the mean of these over minibatches, divided by the map's positions.

    degree: per_example(z, t dz) = t^degree per_example(z, dz) for t > 0, so that the factor 1/batch between the
    gradient of a mean loss and of an example's own loss is taken out after summing. 0: no gradient is needed.
    """

    degree = 1

    def per_example(self, z: Tensor, dz: Tensor | None) -> Tensor:
        """z, dz: feature map and dC/dz, [batch, c, positions] (dz is None for degree 0) -> sums over positions, [batch, c]."""
        raise NotImplementedError

    def per_batch(self, sums: Tensor) -> Tensor:
        """sums over all gates of each map, [batch, maps] -> [maps]."""
        raise NotImplementedError


class StaticCriterion:
    """A criterion computed from the weights (or from nothing) at the moment of a removal."""

    def scores(self, network: nn.Module, groups: ChannelGroups, generator: torch.Generator) -> Tensor:
        """-> float [groups.total]."""
        raise NotImplementedError
