"""What all peers share: the budgets (those of qprune's sweep), counted updates, and what is written of a network."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qprune.cost import Cost, count_cost
from qprune.data import Dataset, load_data
from qprune.precision import get_precision
from qprune.settings.config import SweepConfig
from qprune.stages import CALIBRATION_IMAGES, dense_spec
from qprune.stages.saved import NetworkSpec
from qprune.storage.store import Store
from qprune.sweep.plan import Cell, make_plan
from qprune.training import Recipe, cosine, evaluate, minibatch, seed_of, train

COLUMNS = (
    "method", "precision", "ratio", "achieved_ratio", "width", "seed", "val_accuracy", "accuracy", "bit_gflops",
    "gflops", "weight_bytes", "updates", "new_updates", "scoring_passes", "seconds", "maps",
)  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """The budgets of a sweep's cells, and where its finished stages are.

    dense, path, finetune, quantize: the updates N, P, F and Q; lr_*: of each; removals, between: the pruning path's removals
    to its end, and the updates of each; until: the share of maps gone then; ratios: those looked at.
    """

    data: dict
    model: dict
    recipe: Recipe
    dense: int
    path: int
    finetune: int
    quantize: int
    lr_dense: float
    lr_path: float
    lr_finetune: float
    lr_quantize: float
    removals: int
    between: int
    until: float
    ratios: tuple[float, ...]
    store: Path
    cells: tuple[Cell, ...]

    @property
    def total(self) -> int:
        """N + P + F + Q."""
        return self.dense + self.path + self.finetune + self.quantize

    def load(self, width: float = 1.0) -> tuple[Dataset, NetworkSpec]:
        """The data set and its unpruned network, or one of another width relative to that."""
        data = load_data(self.data)
        model = self.model if width == 1 else {**self.model, "width": self.model.get("width", 1.0) * width}
        return data, dense_spec({"model": model}, data)

    def stage(self, seed: int, kind: str) -> tuple[dict[str, Tensor], int]:
        """The tensors of a finished stage of the sweep's unpruned FP32 cell, and the updates made in it."""
        cell = next(cell for cell in self.cells if (cell.ratio, cell.precision, cell.seed) == (0, "fp32", seed))
        store = Store(self.store)
        return store.tensors(cell.stages[kind]), store.meta(cell.stages[kind])["updates"]


def budget_of(config: SweepConfig, out: Path) -> Budget:
    """The budget that all cells of a sweep of one model and one data set have. out: the folder of its results."""
    plan = make_plan(config)
    data = load_data(config.data[0].settings)
    cell = plan.cells[0]
    dense, recover, quantize = (plan.stages[cell.stages[kind]].settings for kind in ("dense", "recover", "quantize"))
    removals = recover["path_updates"] // config.prune.updates_between
    return Budget(
        data=dense["data"], model=dense["model"], recipe=Recipe(**dense["recipe"], augment=tuple(data.augment)),
        dense=dense["updates"], path=recover["path_updates"], finetune=recover["updates"], quantize=quantize["updates"],
        lr_dense=dense["lr"], lr_path=recover["path_lr"], lr_finetune=recover["lr"], lr_quantize=quantize["lr"],
        removals=removals, between=config.prune.updates_between, until=config.prune.until,
        ratios=tuple(config.prune.ratios), store=Path(out) / "stages", cells=plan.cells,
    )  # fmt: skip


@dataclass
class Point:
    """One trained network of a method, and its row of points.csv."""

    row: dict
    network: nn.Module


def make_updates(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    updates: range,
    rate: Callable[[int], float],
    seed: int,
) -> int:
    """Train in place; returns how many updates were really made."""
    made = 0

    def count(update: int, loss: float | None) -> None:
        nonlocal made
        made += 1

    train(network, data.train, recipe, updates, rate, seed, on_update=count)
    return made


def calibration_images(data: Dataset, seed: int) -> Tensor:
    """The images from which a seed's activation scales start, those of qprune's cells: float 0..1, [n, c, h, w]."""
    calm = Recipe(batch_size=min(CALIBRATION_IMAGES, len(data.train)))
    return minibatch(data.train, calm, seed_of(seed, "calibration"), 0)[0]


def at_precision(
    network: nn.Module, precision: str, data: Dataset, budget: Budget, seed: int
) -> tuple[nn.Module, Cost, int]:
    """Q updates at one of qprune's precisions: the network handed over, its cost, and the updates made."""
    number_format = get_precision(precision)
    trained = number_format.prepare(network, calibration_images(data, seed))
    made = last_updates(trained, data, budget, seed)
    return number_format.finish(trained.eval()).eval(), count_cost(trained, tuple(data.train.images.shape[1:])), made


def last_updates(network: nn.Module, data: Dataset, budget: Budget, seed: int) -> int:
    """The Q updates; returns how many were made."""
    rate = cosine(budget.lr_quantize, budget.quantize)
    return make_updates(network, data, budget.recipe, range(budget.quantize), rate, seed_of(seed, "quantize"))


class Clock:
    """Seconds and updates since the last point that this was asked for."""

    def __init__(self):
        self.started, self.updates = time.perf_counter(), 0

    def __call__(self) -> dict:
        now = time.perf_counter()
        values = {"new_updates": self.updates, "seconds": round(now - self.started, 2)}
        self.started, self.updates = now, 0
        return values


def point(network: nn.Module, cost: Cost, data: Dataset, clock: Clock, **values) -> Point:
    """A finished network's point: evaluated on validation and test images. values: the other columns."""
    evaluations = {
        "val_accuracy": evaluate(network, data.val).accuracy,
        "accuracy": evaluate(network, data.test).accuracy,
    }
    costs = {column: getattr(cost, column) for column in ("bit_gflops", "gflops", "weight_bytes")}
    maps = "-".join(str(layer.channels_out) for layer in cost.layers[:-1])
    row = dict.fromkeys(COLUMNS) | values | evaluations | costs | clock() | {"maps": maps}
    return Point(row, network)


def one_thread() -> None:
    """For worker processes: cores are shared between processes, not threads."""
    torch.set_num_threads(1)
