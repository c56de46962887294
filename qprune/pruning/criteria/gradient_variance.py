"""How much a map's gradient varies from minibatch to minibatch."""

import torch
from torch import Tensor

from qprune.pruning.criteria.base import MapGradientCriterion
from qprune.registry.errors import UserError


class GradientVariance(MapGradientCriterion):
    """Theta = variance over minibatches of g, a minibatch's mean over examples and positions of dC/dz.

    After Molchanov et al. (ICLR 2017), Sec. 2.2 "Relation to optimal brain damage": near convergence the expected
    gradient is 0, and its variance is what is left of the map's influence on the loss. dC/dz is of one example's own
    loss; a coupled map's gates are taken together. E[g^2] - E[g]^2 with the number of minibatches in the denominator,
    in (units of the loss / units of z)^2. It falls as the batch size grows (as 1/n for n independent examples).

    Raises UserError where only one minibatch was seen since the last removal.
    """

    def per_example(self, z: Tensor, dz: Tensor) -> Tensor:
        return dz.sum(2)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        mean = sums.double().mean(0) / positions  # [batch, maps] -> [maps]; double for the difference below
        return torch.stack((mean, mean.square()))  # [2, maps]

    def score(self, means: Tensor, minibatches: int) -> Tensor:
        if minibatches < 2:
            raise UserError(
                "the variance of a gradient over minibatches needs at least 2 of them, and 1 was seen; "
                "raise prune.updates_between (or give more images than one minibatch holds)"
            )
        return (means[1] - means[0].square()).clamp(min=0)  # [2, maps] -> [maps]
