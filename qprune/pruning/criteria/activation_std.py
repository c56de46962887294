"""Standard deviation of the activation: Molchanov et al., ICLR 2017, Sec. 2.2 "Activation"."""

import torch
from torch import Tensor

from qprune.pruning.criteria.base import MapCriterion


class ActivationStd(MapCriterion):
    """Theta = standard deviation of z over examples and positions (and over a coupled map's gates, taken together).

    Over all minibatches since the last removal: sqrt(E[z^2] - E[z]^2), with n in the denominator.
    """

    def per_example(self, z: Tensor) -> Tensor:
        return torch.stack((z.sum(2), z.square().sum(2)))  # [batch, c, positions] -> [2, batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        # double, since the difference of the two below can be much smaller than they are
        return sums.double().mean(1) / positions  # [2, batch, maps] -> [2, maps]: E[z], E[z^2]

    def score(self, means: Tensor, minibatches: int) -> Tensor:
        return (means[1] - means[0].square()).clamp(min=0).sqrt()  # [2, maps] -> [maps]
