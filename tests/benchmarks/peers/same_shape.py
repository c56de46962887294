"""Shape or training? The shapes that pruning has found, trained from scratch like the narrower networks, in FP32.

python tests/benchmarks/compare_peers.py --same-shape: writes same_shape.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from qprune.methods import Made, Maker
from qprune.settings.config import SweepConfig
from qprune.stages import Phase, Stage
from qprune.stages.base import Result, TrainingStage, stage_input
from qprune.stages.work import Work, recipe_of
from qprune.training import cosine, seed_of

from .tables import rows_of
from .torch_pruner import pruned

SHAPES = {"taylor": (0.75, 0.9), "random": (0.9,)}  # criterion -> ratios
TORCH_PRUNING_SHAPES = (0.75,)


@dataclass(frozen=True, kw_only=True)
class SameShape(TrainingStage):
    """A network of the source's shape with new weights: `budget` updates, decaying from lr to their end."""

    kind = "same_shape"
    version = 1

    source: str = stage_input()
    budget: int
    lr: float

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("dense", self.budget),)

    def compute(self, work: Work) -> Result:
        data, spec = work.data(self), work.spec(self.source)
        torch.manual_seed(seed_of(self.seed, "initial weights"))
        network = spec.build().to(work.device)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # as qprune.networks initialises
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        updates, rate, seed = range(self.budget), cosine(self.lr, self.budget), seed_of(self.seed, "dense")
        work.partial.train("dense", network, data.train, recipe_of(self, data), updates, rate, seed)
        return {"network": spec.to_json()}, network.state_dict()


def same_shape(maker: Maker) -> Iterator[Made]:
    """same_shape -> quantize -> evaluate, of the networks that a criterion has pruned."""
    for ratio in SHAPES[maker.criterion.name]:
        yield _from_scratch(maker, maker.pruned(maker.dense(), ratio)[-1], ratio)


def same_shape_torch_pruning(maker: Maker) -> Iterator[Made]:
    """The same of those that Torch-Pruning has pruned."""
    for ratio in TORCH_PRUNING_SHAPES:
        yield _from_scratch(maker, pruned(maker, ratio)[-1], ratio)


def _from_scratch(maker: Maker, shape: Stage, ratio: float) -> Made:
    budget, label = maker.total_updates - maker.quantize_updates, f"train {maker.title} in the shape of {shape.label}"
    settings = {"source": shape.id, "budget": budget, "lr": maker.config.train.lr, "label": label}
    trained = maker.add(SameShape(**maker.common, recipe=maker.recipe, **settings))
    quantized = maker.quantized(trained, maker.dense(), "fp32", ratio)
    return Made("fp32", ratio, (trained, quantized, maker.evaluated(quantized, "fp32", ratio)))


def write_same_shape(config: SweepConfig, out: Path, folder: Path) -> pd.DataFrame:
    """Write same_shape.csv into a folder: these networks as pruned, and from scratch."""
    place, values = ["method", "ratio", "seed"], ["bit_gflops", "val_accuracy", "accuracy"]
    ways: dict[bool, list[dict]] = {False: [], True: []}
    for cell, row in rows_of(config, out):
        ways["same_shape" in cell.stages].append(row)
    as_pruned, alone = (pd.DataFrame(rows) for rows in ways.values())
    as_pruned = as_pruned[as_pruned.precision == "fp32"][[*place, "maps", *values]]
    table = as_pruned.merge(alone[[*place, *values, "updates"]], on=place, suffixes=("", "_from_scratch"))
    table.to_csv(folder / "same_shape.csv", index=False)
    return table
