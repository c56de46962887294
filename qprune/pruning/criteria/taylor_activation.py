"""Taylor expansion plus activation."""

from collections.abc import Callable

from torch import Tensor

from qprune.pruning.criteria.activation import Activation
from qprune.pruning.criteria.base import Combination
from qprune.pruning.criteria.taylor import Taylor


class TaylorActivation(Combination):
    """Theta = normalised Taylor + lambda x normalised mean activation, each layer by its own l2 norm before the sum.

    Both are Molchanov et al.'s (ICLR 2017; Eq. 8, and Sec. 2.2 "Activation"). lambda has no unit: 0 is Taylor, a large
    one activation, 1 weighs a layer's two vectors, each of length 1, alike. Not normalised, the two have different
    units, loss and z, and are added as they are.
    """

    def __init__(self, lambda_: float = 1.0):
        self.lambda_ = lambda_
        self.parts = (Taylor(), Activation())

    def combine(self, scores: list[Tensor]) -> Tensor:
        return self.rank(scores, lambda score: score)

    def rank(self, scores: list[Tensor], normalize: Callable[[Tensor], Tensor]) -> Tensor:
        taylor, activation = scores  # [maps] each
        return normalize(taylor) + self.lambda_ * normalize(activation)
