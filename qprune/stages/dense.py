"""Dense training: the unpruned network's N updates from its first weights, or a checkpoint that has had them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.networks import load_checkpoint
from qprune.recipe import COSINE, Rate, seed_of
from qprune.registry.choice import Choice
from qprune.registry.identity import added_later, aside
from qprune.stages.base import Phase, Result, TrainingStage, stage_input

if TYPE_CHECKING:
    from qprune.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class Dense(TrainingStage):
    """`budget` updates, at a learning rate of lr that goes as `rate` says. pretrained: the dense stage of the same model on
    another data set, whose weights it begins with; checkpoint: a file whose network has had the updates."""

    kind = "dense"
    version = 1
    evaluates = True

    model: Choice = aside()  # the fingerprint names it
    model_fingerprint: str
    budget: int
    lr: float
    rate: Rate = added_later(COSINE)
    checkpoint: str | None = added_later(None)
    checkpoint_sha256: str | None = added_later(None)
    pretrained: str | None = stage_input(default=None)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("dense", self.budget, elsewhere=self.checkpoint is not None, whole=True),)

    def compute(self, work: Work) -> Result:
        from qprune.pruning.shrink import layer_widths
        from qprune.stages.work import correctness, evaluations, initial_network, recipe_of

        data = work.data(self)
        spec, network = initial_network(self.model, data, self.seed, self.pretrained, work)
        report = {}
        if self.checkpoint:
            load_checkpoint(network, self.checkpoint)
            report = {"updates": {"dense": self.budget}, "curves": {"dense": []}}  # trained elsewhere
        else:
            updates, rate = range(self.budget), self.rate.over(self.lr, self.budget)
            seed, recipe = seed_of(self.seed, "dense"), recipe_of(self, data)
            work.partial.train("dense", network, data.train, recipe, updates, rate, seed)
        spec = dataclasses.replace(spec, widths=layer_widths(network))
        report |= {"network": spec.to_json(), **evaluations(network, data, correctness)}
        return report, network.state_dict()
