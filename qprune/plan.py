"""Settings -> cells and the stages that they are made of.

A cell's stages are dense -> path -> recover -> quantize -> evaluate. Cells share every stage that they can: a stage is
named by the hash of its settings, its inputs and its code's version, so equal work has one name in all sweeps.
"""

import hashlib
import itertools
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from qprune.config import SweepConfig, place_of
from qprune.data import data_fingerprint, load_data
from qprune.errors import UserError
from qprune.models import model_fingerprint
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.path import PathSchedule, check_reachable
from qprune.saved import NetworkSpec
from qprune.setting_types import Choice
from qprune.stages import VERSION, Stage, dense_spec
from qprune.training import updates_per_epoch


@dataclass(frozen=True)
class Cell:
    """One point of the grid. stages: kind -> id of its stage; baseline: id of ratio 0 in FP32, same seed, evaluated."""

    id: str
    model: str
    data: str
    criterion: str
    precision: str
    ratio: float
    seed: int
    stages: dict[str, str]
    baseline: str


@dataclass(frozen=True)
class Plan:
    """A sweep's cells, and all stages that they need, each after its inputs."""

    config: SweepConfig
    cells: tuple[Cell, ...]
    stages: dict[str, Stage]

    def total_updates(self, cell: Cell) -> int:
        """N + P + F + Q: the same for every cell that shares model, data and settings."""
        budget = self.stages[cell.stages["recover"]].settings
        dense, quantize = self.stages[cell.stages["dense"]], self.stages[cell.stages["quantize"]]
        return dense.settings["updates"] + budget["path_updates"] + budget["updates"] + quantize.updates


@dataclass(frozen=True)
class Facts:
    """What a model on a data set has to be asked for. spec: the dense network; images: for training."""

    spec: NetworkSpec
    groups: ChannelGroups | None  # None: nothing is pruned
    images: int

    @property
    def maps(self) -> int:
        return self.groups.total if self.groups else 0


@lru_cache(maxsize=64)
def gather_facts(model: str, data: str, linear: bool, ignore: tuple[str, ...], prunes: bool) -> Facts:
    """Build the dense network once to find its maps. model, data: canonical JSON of their settings.

    Raises UserError where it can't be pruned as asked.
    """
    dataset = load_data(json.loads(data))
    spec = dense_spec({"model": json.loads(model)}, dataset)
    groups = GatedNetwork(spec.build(), spec.image_shape, linear, ignore).groups if prunes else None
    return Facts(spec, groups, len(dataset.train.labels))


def facts_of(config: SweepConfig, model: Choice, data: Choice) -> Facts:
    """The facts of one model and data set of a sweep. Raises UserError, with the place in the file, for a data set that
    can't be read, a model that can't take it or can't be pruned, and a path that can't be walked to its end."""
    prune = config.prune
    with _blame(config, "data", config.data.index(data)):
        _check_readable(data.canonical)
    with _blame(config, "model", config.model.index(model)):
        facts = gather_facts(model.canonical, data.canonical, prune.linear, prune.ignore, prune.until > 0)
    if facts.groups:
        largest = prune.ratios.index(max(prune.ratios))
        key = ("until",) if prune.until > max(prune.ratios) else ("ratios", largest)
        with _blame(config, "prune", *key):
            check_reachable(facts.groups, prune.until, prune.min_channels, prune.round_to)
    return facts


@lru_cache(maxsize=64)
def _check_readable(data: str) -> None:
    load_data(json.loads(data))


@contextmanager
def _blame(config: SweepConfig, *path: str | int):
    """Puts the place of a key before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place_of(config, *path)}: {error}") from error


def make_plan(config: SweepConfig) -> Plan:
    """All cells of the grid and the stages behind them. Trains nothing; raises UserError where a cell can't be made."""
    stages: dict[str, Stage] = {}
    cells = []
    names = short_names(config)
    for model, data, criterion, seed in itertools.product(
        config.model, config.data, config.prune.criterion, config.seeds
    ):
        chain = _Chain(config, model, data, criterion, seed, stages)
        baseline = chain.cell_stages(0.0, "fp32")["evaluate"]
        for precision, ratio in itertools.product(config.precisions, config.prune.ratios):
            label = f"{names[model]}-{names[data]}-{criterion}-{precision}-r{_ratio(ratio)}-s{seed}"
            cell_stages = chain.cell_stages(ratio, precision)
            cells.append(
                Cell(label, names[model], names[data], criterion, precision, ratio, seed, cell_stages, baseline)
            )
    return Plan(config, tuple(cells), stages)


class _Chain:
    """Makes the stages of one model, data set, criterion and seed."""

    def __init__(self, config: SweepConfig, model: Choice, data: Choice, criterion: str, seed: int, stages: dict):
        self.config, self.criterion, self.seed, self.stages = config, criterion, seed, stages
        prune, train = config.prune, config.train
        self.facts = facts_of(config, model, data)
        self.title = f"{model.name} on {data.name}, seed {seed}"
        self.common = {
            "data": data.settings,
            "data_fingerprint": _data_fingerprint(data.canonical),
            "seed": seed,
            "recipe": {
                "batch_size": train.batch_size,
                "momentum": train.momentum or 0.0,
                "weight_decay": train.weight_decay,
                "optimizer": train.optimizer,
            },
        }
        self.schedule = PathSchedule(
            self.facts.maps, prune.channels_per_step.channels(self.facts.maps), prune.updates_between
        )
        self.path_updates = self.schedule.updates_to(prune.until)
        settings = {
            "model": model.settings,
            "model_fingerprint": _model_fingerprint(model.canonical),
            "updates": self._updates(train),
            "lr": train.lr,
            "checkpoint": train.checkpoint,
        }
        if train.checkpoint:
            settings["checkpoint_sha256"] = _file_hash(train.checkpoint)
        made = 0 if train.checkpoint else settings["updates"]
        self.dense = self._add("dense", settings, (), made, f"train {self.title}")
        self.cut = {"linear": prune.linear, "ignore": list(prune.ignore)}

    def cell_stages(self, ratio: float, precision: str) -> dict[str, str]:
        """The cell's stages, added to the plan where they are new: kind -> id."""
        config = self.config
        ids = {"dense": self.dense}
        source, walked = self.dense, 0
        steps = self.schedule.steps_to(ratio)
        if steps:
            source = ids["path"] = self._path(steps)
            walked = steps * config.prune.updates_between
        settings = {
            "path_updates": self.path_updates,
            "path_lr": config.prune.lr,
            "updates": self._updates(config.finetune),
            "lr": config.finetune.lr,
            **(self.cut if steps else {}),
        }
        made = self.path_updates - walked + settings["updates"]
        where = f"{self.title}, ratio {_ratio(ratio)}"
        ids["recover"] = self._add("recover", settings, (source,), made, f"fine-tune {where}")
        settings = {
            "precision": get_precision(precision).name,
            "first_last_bits": config.quantize.first_last_bits,
            "updates": self._updates(config.quantize),
            "lr": config.quantize.lr,
        }
        made = settings["updates"]
        ids["quantize"] = self._add("quantize", settings, (ids["recover"],), made, f"{precision} {where}")
        ids["evaluate"] = self._add("evaluate", {}, (ids["quantize"],), 0, f"evaluate {precision} {where}")
        return ids

    def _path(self, steps: int) -> str:
        """A snapshot of the one path. Its identity has the path's end, but neither the other ratios nor what it starts from."""
        prune = self.config.prune
        settings = {
            **self.common,
            **self.cut,
            "dense": self.dense,
            "criterion": self.criterion,
            "per_step": self.schedule.per_step,
            "updates_between": prune.updates_between,
            "end": self.schedule.steps_to(prune.until),
            "lr": prune.lr,
            "min_channels": prune.min_channels,
            "round_to": prune.round_to,
        }
        prefix = f"path-{_hash('path', settings, ())}"
        name = f"{prefix}-{steps:05d}"
        if name not in self.stages:
            earlier = [step for step in (self.schedule.steps_to(ratio) for ratio in prune.ratios) if 0 < step < steps]
            start = max(earlier, default=0)
            source = self._path(start) if start else self.dense
            share = self.schedule.removed_after(steps) / self.facts.maps
            label = f"prune {self.title}, {self.criterion} to {share:.2f}"
            made = (steps - start) * prune.updates_between
            self.stages[name] = Stage(name, "path", {**settings, "step": steps}, (source,), made, label)
        return name

    def _add(self, kind: str, settings: dict, inputs: tuple[str, ...], updates: int, label: str) -> str:
        settings = {**self.common, **settings}
        name = f"{kind}-{_hash(kind, settings, inputs)}"
        self.stages.setdefault(name, Stage(name, kind, settings, inputs, updates, label))
        return name

    def _updates(self, budget) -> int:
        if budget.updates is not None:
            return budget.updates
        return budget.epochs * updates_per_epoch(self.facts.images, self.config.train.batch_size)


def _hash(kind: str, settings: dict, inputs: tuple[str, ...]) -> str:
    identity = json.dumps([kind, VERSION[kind], settings, inputs], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _data_fingerprint(canonical: str) -> str:
    return data_fingerprint(json.loads(canonical))


@lru_cache(maxsize=64)
def _model_fingerprint(canonical: str) -> str:
    return model_fingerprint(json.loads(canonical))


@lru_cache(maxsize=64)
def _file_hash(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"train.checkpoint: {path} can't be read: {error.strerror}") from None


def _ratio(ratio: float) -> str:
    """0.5 -> "0.50"; more digits only where they are needed, and then all, so that no two ratios look the same."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else repr(ratio)


def short_names(config: SweepConfig) -> dict[Choice, str]:
    """Short names for models and data sets that are fit for file names, and different where the choices are."""
    names: dict[Choice, str] = {}
    for axis in (config.model, config.data):
        plain = [re.sub(r"[^A-Za-z0-9_.]+", "_", choice.name.removeprefix("torchvision:")) for choice in axis]
        for choice, name in zip(axis, plain, strict=True):
            twin = plain.count(name) > 1
            names[choice] = f"{name}.{hashlib.sha256(choice.canonical.encode()).hexdigest()[:6]}" if twin else name
    return names
