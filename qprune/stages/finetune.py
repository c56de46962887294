"""Fine-tuning: a snapshot made physically smaller, the rest of the path's updates, then F updates of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.recipe import COSINE, Rate, constant, seed_of
from qprune.registry.identity import added_later, aside
from qprune.stages.base import Cut, NumberFormat, Phase, Result, TrainingStage, stage_input

if TYPE_CHECKING:
    from qprune.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingStage):
    """The rest of the path's path_updates at its rate, path_lr; then `budget` updates at lr, which goes as `rate` says.

    source: a snapshot, or an unpruned network; walked: the updates that a snapshot's path will have had as planned (that
    of a target has had what it took); number_format: all of
    it is done under, None: FP32 (quantisers are built at the smaller shape, learned scales kept); cut: as the path's,
    None where nothing was gated.
    """

    kind = "finetune"
    version = 1

    source: str = stage_input()
    walked: int = aside()
    path_updates: int
    path_lr: float
    budget: int
    lr: float
    rate: Rate = added_later(COSINE)
    cut: Cut | None = added_later(None)
    number_format: NumberFormat | None = added_later(None)

    @property
    def continues(self) -> str:
        return self.source

    @property
    def phases(self) -> tuple[Phase, ...]:
        precision = self.makes or "fp32"
        return (Phase("prune", self.path_updates - self.walked, precision), Phase("finetune", self.budget, precision))

    @property
    def makes(self) -> str | None:
        return self.number_format.precision if self.number_format else None

    def compute(self, work: Work) -> Result:
        from qprune.pruning.quantized import QuantizedGatedNetwork
        from qprune.pruning.shrink import layer_widths
        from qprune.stages.prune import gated_network
        from qprune.stages.work import calibration_images, recipe_of

        data, spec = work.data(self), work.spec(self.source)
        tensors, report = work.store.tensors(self.source), {}
        if self.cut is None:
            network = spec.load_fp32(tensors).to(work.device)
        else:
            gated = gated_network(spec, self.cut, self.number_format, tensors, work.device)
            if "path/alive" in tensors:
                gated.mask(tensors["path/alive"])
            report["achieved_ratio"] = gated.pruned
            network = gated.shrink()
        spec = dataclasses.replace(spec, widths=layer_widths(network))
        recipe = recipe_of(self, data)
        if self.number_format:
            assert isinstance(gated, QuantizedGatedNetwork)
            network = gated.rebuild(network, calibration_images(data, self.seed)).to(work.device)
            spec, recipe = spec.at(self.number_format.precision, self.number_format.first_last_bits), recipe.in_fp32
        walked = work.store.meta(self.source)["updates"].get("prune", 0)
        rest, seed = range(walked, self.path_updates), seed_of(self.seed, "prune")
        work.partial.train("prune", network, data.train, recipe, rest, constant(self.path_lr), seed)
        tuning, rate = range(self.budget), self.rate.over(self.lr, self.budget)
        seed = seed_of(self.seed, "finetune")
        work.partial.train("finetune", network, data.train, recipe, tuning, rate, seed)
        return {**report, "network": spec.to_json()}, network.eval().state_dict()
