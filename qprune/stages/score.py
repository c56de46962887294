"""One criterion's scores of all maps of a dense network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qprune.data import Split
from qprune.pruning.criteria import get_criterion
from qprune.pruning.criteria.base import MapGradientCriterion, StaticCriterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.recipe import Recipe, seed_of
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.stages.base import Result
from qprune.stages.ranked import RankedStage
from qprune.stages.work import Work
from qprune.training import Diverged, minibatch

GRADIENT = "mean_gradient"  # what the second axis of activation and gradient is called among the scores


@dataclass(frozen=True, kw_only=True)
class Score(RankedStage):
    """Raw scores and the l2-normalised ranking, float64 [maps] each; or why the criterion has none there ("left_out")."""

    kind = "score"
    version = 1

    criterion: Choice
    batch_size: int
    minibatches: int

    @property
    def work(self) -> int:
        return self.minibatches

    def compute(self, work: Work) -> Result:
        gated, data = self.gated(work)
        try:
            own = self.criterion.name == GRADIENT
            criterion = MeanGradient() if own else get_criterion(self.criterion.settings)
            scores, ranking = gather_scores(
                gated, criterion, data.train, self.batch_size, self.minibatches, seed_of(self.seed, "score"),
                lambda: work.partial.tick(1),
            )  # fmt: skip
        except Diverged:
            raise
        except UserError as error:
            return {"left_out": str(error)}, {}
        if not scores.isfinite().all():
            return {"left_out": f"{int((~scores.isfinite()).sum())} of its scores are not finite"}, {}
        return {"left_out": None}, {"scores": scores, "ranking": ranking}


class MeanGradient(MapGradientCriterion):
    """Mean over examples and positions of |dC/dz|: an axis of the plane, and no criterion that one would prune by."""

    def per_example(self, z: Tensor, dz: Tensor) -> Tensor:
        return dz.abs().sum(2)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.mean(0) / positions  # [batch, maps] -> [maps]


def gather_scores(
    gated: GatedNetwork,
    criterion,
    split: Split,
    batch_size: int,
    minibatches: int,
    seed: int,
    on_minibatch: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """A criterion's raw scores in eval mode, and what it ranks maps by over all layers (l2-normalised): float64 [maps].

    It sees `minibatches` minibatches, drawn without augmentation as training draws them with this seed.
    Raises UserError where the criterion doesn't work on the network.
    """
    network = gated.network.eval()
    scorer = Scorer(network, gated.groups, gated.gates, criterion)
    static = all(isinstance(part, StaticCriterion) for part in scorer.parts)
    for number in range(0 if static else minibatches):
        images, labels = minibatch(split, Recipe(batch_size=batch_size), seed, number)
        torch.manual_seed(seed_of(seed, "minibatch", number))  # of estimators that draw
        network.zero_grad(set_to_none=True)
        with scorer.minibatch():
            F.cross_entropy(network(images), labels).backward()
        on_minibatch()
    network.zero_grad(set_to_none=True)
    both = [give(torch.Generator().manual_seed(seed)) for give in (scorer.scores, scorer.ranking)]
    return both[0].detach().cpu().double(), both[1].detach().cpu().double()
