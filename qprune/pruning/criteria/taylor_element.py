"""The Taylor variant that takes the absolute value of every element."""

from torch import Tensor

from qprune.pruning.criteria.base import MapGradientCriterion


class TaylorElement(MapGradientCriterion):
    """Theta = mean over examples and positions of | dC/dz z | (method 6 of NVlabs' Taylor_pruning).

    Positions of opposite sign don't cancel, so it is an upper bound of Taylor.
    """

    def per_example(self, z: Tensor, dz: Tensor) -> Tensor:
        return (z * dz).abs().sum(2)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.mean(0) / positions  # [batch, maps] -> [maps]
