"""Taylor expansion: Molchanov et al., ICLR 2017, Eq. 7 and 8."""

from torch import Tensor

from qprune.pruning.criteria.base import MapGradientCriterion


class Taylor(MapGradientCriterion):
    """Theta = mean over examples of | mean over positions of (dC/dz z) |: the first-order change of an example's loss.

    The mean over positions (and over a coupled map's gates) comes before the absolute value, the mean over
    examples after it.
    """

    def per_example(self, z: Tensor, dz: Tensor) -> Tensor:
        return (z * dz).sum(2)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.abs().mean(0) / positions  # [batch, maps] -> [maps]
