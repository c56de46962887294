"""Quantisation: the network at the cell's precision, and Q updates."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.data import Dataset
from qprune.precision import Precision
from qprune.recipe import COSINE, TEACHER_SHARE, TEMPERATURE, Rate, seed_of
from qprune.registry.identity import added_later
from qprune.stages.base import NumberFormat, Phase, Result, TrainingStage, stage_input

if TYPE_CHECKING:
    from torch import Tensor, fx

    from qprune.stages.work import Work


@dataclass(frozen=True)
class Distillation:
    """How a teacher's logits are learned (qprune.training.distillation_loss)."""

    temperature: float = TEMPERATURE
    share: float = TEACHER_SHARE


@dataclass(frozen=True, kw_only=True)
class QuantizingStage(TrainingStage):
    """`budget` updates at a number format, at lr, which goes as `rate` says; with a teacher, a dense FP32 network, whose logits are
    learned too."""

    number_format: NumberFormat
    budget: int
    lr: float
    rate: Rate = added_later(COSINE)
    source: str = stage_input()
    teacher: str | None = stage_input(default=None)
    distill: Distillation | None = added_later(None)

    @property
    def continues(self) -> str:
        return self.source

    @property
    def makes(self) -> str:
        return self.number_format.precision

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("quantize", self.budget, self.makes, teacher=self.teacher is not None),)

    def _train(self, network: fx.GraphModule, data: Dataset, work: Work) -> None:
        """The updates, in place."""
        from qprune.stages.work import recipe_of

        teacher = work.load_fp32(self.teacher)[1] if self.teacher else None
        updates, rate = range(self.budget), self.rate.over(self.lr, self.budget)
        seed, recipe = seed_of(self.seed, "quantize"), recipe_of(self, data).in_fp32
        work.partial.train("quantize", network, data.train, recipe, updates, rate, seed, teacher)


@dataclass(frozen=True, kw_only=True)
class Quantize(QuantizingStage):
    """The source's FP32 network at the precision: scales from a calibration batch, then the updates at it (qat); or the
    updates in FP32, then the scales (ptq)."""

    kind = "quantize"
    version = 1

    quantization: str

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        return (phase if self.quantization == "qat" else dataclasses.replace(phase, precision="fp32"),)

    def compute(self, work: Work) -> Result:
        from qprune.stages.work import calibration_images

        data, (spec, network) = work.data(self), work.load_fp32(self.source)
        precision, images = self.number_format.get(), calibration_images(data, self.seed)
        trained = network
        if self.quantization == "qat":
            precision = _choose_widths(precision, network, images, work)
            trained = precision.prepare(network, images).to(work.device)
        self._train(trained, data, work)
        if self.quantization == "ptq":
            precision = precision.choose(network, images)
            trained = precision.prepare(network, images).to(work.device)
        spec = spec.at(precision.name, self.number_format.first_last_bits, precision.layer_bits)
        return {"network": spec.to_json()}, trained.eval().state_dict()


def _choose_widths(precision: Precision, network: fx.GraphModule, images: Tensor, work: Work) -> Precision:
    """Precision.choose, once: a process that goes on from unfinished work takes the widths that this was trained with."""
    kept = work.partial.notes.get("layer_bits")
    if kept:
        return dataclasses.replace(precision, options={**precision.options, "layer_bits": kept})
    chosen = precision.choose(network, images)
    if chosen.layer_bits:
        work.partial.notes["layer_bits"] = chosen.layer_bits
    return chosen
