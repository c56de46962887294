"""Maps that have converged and are weakly active go first."""

from torch import Tensor

from qprune.pruning.criteria.activation import Activation
from qprune.pruning.criteria.base import Combination
from qprune.pruning.criteria.gradient_variance import GradientVariance


class LowVarianceLowActivation(Combination):
    """Theta = sd over minibatches of g x mean |z|, with g and its variance as in `gradient_variance`. Units of the loss.

    A reading of Eq. 7 of Molchanov et al. (ICLR 2017), |dC/dz z|: near convergence dC/dz averages out over
    minibatches, and its spread stands for its size. A map with a small spread has settled; where it is weakly active
    too, removing it changes little. The two are estimated apart from each other, so, unlike in Taylor, it doesn't
    count whether an example that activates a map is one whose loss depends on it.
    """

    def __init__(self):
        self.parts = (GradientVariance(), Activation())

    def combine(self, scores: list[Tensor]) -> Tensor:
        variance, activation = scores  # [maps] each
        return variance.sqrt() * activation
