"""The Taylor variant that averages over the minibatch with its sign."""

from torch import Tensor

from qprune.pruning.criteria.taylor import Taylor


class TaylorSigned(Taylor):
    """Theta = | mean over examples and positions of (dC/dz z) |, as in widespread re-implementations (jacobgil's).

    Examples of opposite sign cancel: it is the change of the minibatch's mean loss, not of each example's.
    """

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.mean(0).abs() / positions  # [batch, maps] -> [maps]
