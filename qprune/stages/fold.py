"""One fold of the cross-validation that chooses lambda, the weight of activation beside Taylor.

For each fold a dense network is trained without its images; for each lambda it is pruned along the path and fine-tuned
without them; and its loss on them is noted at each ratio. lambda 0 is plain Taylor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.data import Split
from qprune.pruning.criteria import get_criterion
from qprune.pruning.schedule import Walk
from qprune.recipe import COSINE, Rate, seed_of
from qprune.registry.choice import Choice
from qprune.registry.identity import added_later, aside
from qprune.stages.base import Cut, Phase, Result, TrainingStage, stage_input

if TYPE_CHECKING:
    from qprune.stages.work import Work

LAMBDAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Fold(TrainingStage):
    """{"losses": lambda -> ratio -> mean loss on the fold}. The settings are those of the dense, prune and finetune stages."""

    kind = "fold"
    version = 1
    networks_kept = 0

    fold: int
    model: Choice = aside()
    model_fingerprint: str
    budget: int
    lr: float
    rate: Rate = added_later(COSINE)
    pretrained: str | None = stage_input(default=None)
    cut: Cut
    criterion: Choice
    walk: Walk
    ratios: tuple[float, ...]
    walked: int
    finetune_budget: int
    finetune_lr: float
    finetune_rate: Rate = added_later(COSINE)

    @property
    def phases(self) -> tuple[Phase, ...]:
        tuned = len(LAMBDAS) * len(self.ratios) * self.finetune_budget
        return (
            Phase("dense", self.budget),
            Phase("prune", len(LAMBDAS) * self.walked, scored=True),
            Phase("finetune", tuned),
        )

    def compute(self, work: Work) -> Result:
        from qprune.pruning.gated import GatedNetwork
        from qprune.pruning.path import walk
        from qprune.pruning.scoring import Scorer
        from qprune.stages.work import initial_network, recipe_of
        from qprune.training import evaluate, train

        data = work.data(self)
        recipe = recipe_of(self, data)
        rest, held = without_fold(data.train, self.fold)
        spec, dense = initial_network(self.model, data, self.seed, self.pretrained, work)
        updates, rate = range(self.budget), self.rate.over(self.lr, self.budget)
        work.partial.train("dense", dense, rest, recipe, updates, rate, seed_of(self.seed, "dense"))
        walking, tuning = work.partial.counter("prune"), work.partial.counter("finetune")
        losses: dict[float, dict[float, float]] = {}
        if work.partial.saved:
            meta, tensors = work.partial.saved
            dense.load_state_dict(tensors)
            losses = {float(number): ratios for number, ratios in meta["losses"].items()}
        for number in LAMBDAS[len(losses) :]:
            gated = GatedNetwork(dense, spec.image_shape, self.cut.linear, self.cut.ignore)
            criterion = get_criterion({**self.criterion.settings, "lambda": number})
            scorer = Scorer(gated.network, gated.groups, gated.gates, criterion)
            schedule = self.walk.schedule(gated.groups.total)
            optimizer, done, losses[number] = None, 0, {}
            for ratio in self.ratios:
                steps = schedule.steps_to(ratio)
                optimizer = walk(
                    gated, scorer, self.walk, range(done, steps), rest, recipe, seed_of(self.seed, "prune"), optimizer, walking
                )  # fmt: skip
                done, small = steps, gated.shrink()
                updates, rate = (
                    range(self.finetune_budget),
                    self.finetune_rate.over(self.finetune_lr, self.finetune_budget),
                )
                train(small, rest, recipe, updates, rate, seed_of(self.seed, "finetune"), on_update=tuning)
                losses[number][ratio] = evaluate(small, held).loss
            work.partial.save({"part": "lambdas", "losses": losses}, dense.state_dict)
        return {"losses": losses}, None


def without_fold(split: Split, fold: int) -> tuple[Split, Split]:
    """(the training images without a fold, the fold's): each image is in one of FOLDS folds, drawn once for all."""
    import torch

    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed_of("folds", FOLDS)))
    held = torch.zeros(len(split), dtype=torch.bool)
    held[order[fold::FOLDS]] = True
    held = held.to(split.labels.device)
    return split.chosen(~held), split.chosen(held)
