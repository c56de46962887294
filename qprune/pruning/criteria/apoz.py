"""Average percentage of zeros: Hu et al., "Network trimming" (arXiv 1607.03250, 2016), Eq. 1."""

from torch import Tensor

from qprune.pruning.criteria.base import MapCriterion


class Apoz(MapCriterion):
    """Theta = 1 - APoZ: the share of examples and positions with z > 0, in 0..1.

    The paper removes maps of high APoZ, so the least of 1 - APoZ goes first. It counts zeros behind a ReLU; on a
    branch into a residual add, where z is signed, the share of positive values is what a ReLU would let through.
    """

    def per_example(self, z: Tensor) -> Tensor:
        return (z > 0).sum(2).to(z.dtype)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.mean(0) / positions  # [batch, maps] -> [maps]
