"""What it costs to remove a set of maps at once, before and after a short fine-tuning."""

from dataclasses import dataclass

from torch import Tensor

from qprune.data import Dataset, Split
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.sets import quadrants, removal
from qprune.recipe import COSINE, Rate, seed_of
from qprune.registry.errors import UserError
from qprune.registry.identity import added_later
from qprune.stages.base import Phase, Result, TrainingStage, stage_input
from qprune.stages.ranked import RankedStage, fixed_images
from qprune.stages.work import Work, recipe_of
from qprune.training import evaluate


@dataclass(frozen=True, kw_only=True)
class Removal(RankedStage, TrainingStage):
    """The losses when a set of maps is switched off; which set: qprune.pruning.sets.removal.

    taylor, activation, gradient: the stages of their scores. Where a variation concerns no map, nothing is measured.
    """

    kind = "removal"
    version = 2

    oracle_images: int
    share: float
    min_channels: int
    start: str
    put_in: str | None
    quadrant: str | None
    budget: int
    lr: float
    rate: Rate = added_later(COSINE)
    taylor: str = stage_input()
    activation: str = stage_input()
    gradient: str = stage_input()

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("finetune", self.budget),)

    def compute(self, work: Work) -> Result:
        gated, data = self.gated(work)
        taylor, activation, gradient = (_scores(work, each) for each in (self.taylor, self.activation, self.gradient))
        places = quadrants(activation["scores"], gradient["scores"], gated.groups)
        rankings = {"taylor": taylor["ranking"], "activation": activation["ranking"]}
        removed, maps = removal(
            rankings, places, gated.groups, self.share, self.start, self.put_in, self.quadrant, self.min_channels
        )
        if self.put_in is not None and maps == 0:
            return {"maps": 0, "removed": int(removed.sum()), "losses": None}, {"removed": removed}
        few = fixed_images(data, self.oracle_images)
        gated.mask(~removed)
        losses = {"before": _losses(gated, data, few)}
        if self.budget:
            updates, rate = range(self.budget), self.rate.over(self.lr, self.budget)
            seed, recipe = seed_of(self.seed, "finetune"), recipe_of(self, data)
            work.partial.train("finetune", gated.network, data.train, recipe, updates, rate, seed)
            losses["after"] = _losses(gated, data, few)
        return {"maps": maps, "removed": int(removed.sum()), "losses": losses}, {"removed": removed}


def _scores(work: Work, source: str) -> dict[str, Tensor]:
    if reason := work.store.meta(source)["left_out"]:
        raise UserError(f"{source} has no scores: {reason}")
    return work.store.tensors(source)


def _losses(gated: GatedNetwork, data: Dataset, few: Split) -> dict[str, float]:
    val = evaluate(gated.network, data.val)
    return {"val_loss": val.loss, "val_accuracy": val.accuracy, "train_loss": evaluate(gated.network, few).loss}
