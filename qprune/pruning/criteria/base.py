"""What a criterion has to answer. Scores are per map, before normalisation; the least is pruned first.

Three kinds gather something from every minibatch and are averaged over the minibatches since the last removal:
WatchedCriterion (feature maps and their gradients, read off the training pass itself), GradientCriterion (the
parameters' gradients), CurvatureCriterion (a pass of its own in eval mode, over the same images). StaticCriterion
gathers nothing. Combination makes one criterion of several.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from qprune.networks.gate import Gate
from qprune.pruning.groups import ChannelGroups


class Criterion:
    """Base of all. flops_lambda: weight of Theta_flops in the ranking (Molchanov et al., ICLR 2017, Eq. 9)."""

    flops_lambda = 0.0

    @property
    def parts(self) -> tuple["Criterion", ...]:
        """The criteria whose scores `combine` takes."""
        return (self,)

    def check(self, network: fx.GraphModule, groups: ChannelGroups) -> None:
        """Raises UserError where the gated network has something that the criterion can't work with."""

    def score(self, means: Tensor, minibatches: int) -> Tensor:
        """The mean over minibatches of what `per_batch` gave, [..., maps], and their number -> [maps]."""
        return means

    def combine(self, scores: list[Tensor]) -> Tensor:
        """The scores of the parts, each [maps] -> [maps]."""
        return scores[0]

    def rank(self, scores: list[Tensor], normalize: Callable[[Tensor], Tensor]) -> Tensor:
        """What maps are ranked by over the whole network: scores of the parts, each [maps] -> [maps].

        normalize: makes the scores of different layers comparable, [maps] -> [maps].
        """
        return normalize(self.combine(scores))


class WatchedCriterion(Criterion):
    """A criterion read off feature maps while the network trains: a MapCriterion or a MapGradientCriterion.

    Sums over positions and over the gates of a map come first, per example; `per_batch` then makes one number
    per map of a minibatch. Leading dimensions (...), one for each statistic, are allowed where shapes show them.
    """

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        """sums over all gates of each map, [..., batch, maps]; positions of each map over its gates, [maps] -> [..., maps]."""
        raise NotImplementedError


class MapCriterion(WatchedCriterion):
    """A criterion of feature maps alone."""

    def per_example(self, z: Tensor) -> Tensor:
        """z: feature map, [batch, c, positions] -> sums over positions, [..., batch, c]."""
        raise NotImplementedError


class MapGradientCriterion(WatchedCriterion):
    """A criterion of feature maps and their gradients.

    per_example(z, t dz) = t per_example(z, dz) for t > 0, so that the factor 1/batch between the gradient of a mean loss
    and of an example's own loss is taken out after summing.
    """

    def per_example(self, z: Tensor, dz: Tensor) -> Tensor:
        """z, dz: feature map and dC/dz, [batch, c, positions] -> sums over positions, [..., batch, c]."""
        raise NotImplementedError


class GradientCriterion(Criterion):
    """A criterion computed from the parameters and the gradients that the minibatch's backward pass leaves."""

    def per_batch(self, network: nn.Module, groups: ChannelGroups, gradients: dict[str, Tensor]) -> Tensor:
        """gradients: parameter's name -> gradient of the minibatch's mean loss -> [maps]; those of frozen ones too."""
        raise NotImplementedError


class CurvatureCriterion(Criterion):
    """A criterion that needs passes of its own over the minibatch's images, made in eval mode after the training pass.

    The training update is not touched: BN's running statistics, the parameters' gradients and the random numbers of
    training stay as they are. Its passes come on top of the training pass and are part of a scored update's cost.
    """

    def per_batch(
        self,
        network: fx.GraphModule,
        groups: ChannelGroups,
        gates: list[Gate],
        images: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """images: [batch, c, h, w]; the network is in eval mode -> [maps]."""
        raise NotImplementedError


class StaticCriterion(Criterion):
    """A criterion computed from the weights (or from nothing) at the moment of a removal."""

    def scores(self, network: nn.Module, groups: ChannelGroups, alive: Tensor, generator: torch.Generator) -> Tensor:
        """alive: bool [maps], which are not switched off -> float [maps]; what dead maps get is not looked at."""
        raise NotImplementedError


class Combination(Criterion):
    """Base of criteria that are made of others, their `parts`."""

    parts: tuple[Criterion, ...] = ()
