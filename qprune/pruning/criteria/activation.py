"""Mean activation: Molchanov et al., ICLR 2017, Sec. 2.2 "Activation"."""

from torch import Tensor

from qprune.pruning.criteria.base import MapCriterion


class Activation(MapCriterion):
    """Theta = mean over examples and positions of |z|.

    Behind a ReLU |z| = z, the paper's form; on a branch into a residual add z is signed, and its size counts.
    """

    def per_example(self, z: Tensor) -> Tensor:
        return z.abs().sum(2)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.mean(0) / positions  # [batch, maps] -> [maps]
