"""Settings -> cells and the stages that they are made of.

A cell's stages are dense -> path -> recover -> quantize -> evaluate, or with order quantize_first dense ->
quantize_dense -> path -> recover -> evaluate, of which the last three are in the cell's precision. Cells share every stage that they can: a stage is
named by the hash of its settings, its inputs and its code's version, so equal work has one name in all sweeps.
"""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from qprune.data import check_data, load_data
from qprune.precision import get_precision
from qprune.pruning.criteria import criterion_label
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.path import PathSchedule, check_reachable
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.user_code import is_user_code, refusing_failures
from qprune.settings.config import SweepConfig, place_of
from qprune.stages import (
    VERSION,
    Stage,
    cross_validation,
    data_fingerprint_of,
    dense_spec,
    file_hash,
    model_fingerprint_of,
)
from qprune.stages.saved import NetworkSpec
from qprune.training import TEACHER_SHARE, TEMPERATURE, updates_per_epoch

MAX_CELLS = 100_000  # of one sweep; planning them takes about 15 seconds
MAX_NETWORKS = 100  # networks on data sets; each is built once to be planned


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    stages: kind -> id of its stage; network: the one of them whose network is evaluated; baseline: id of ratio 0 in
    FP32, same seed, evaluated; scratch: id of the dense network trained as long under one schedule, if asked for.
    """

    id: str
    model: str
    data: str
    criterion: str
    method: str
    precision: str
    ratio: float
    seed: int
    stages: dict[str, str]
    baseline: str
    scratch: str | None

    @property
    def network(self) -> str:
        return self.stages["quantize" if self.method == "prune_first" else "recover"]


@dataclass(frozen=True)
class Plan:
    """A sweep's cells, and all stages that they need, each after its inputs."""

    config: SweepConfig
    cells: tuple[Cell, ...]
    stages: dict[str, Stage]

    def needed_by(self, stages: Iterable[str]) -> set[str]:
        """These stages and all that they are computed from."""
        found: set[str] = set()
        frontier = list(stages)
        while frontier:
            if (name := frontier.pop()) not in found:
                found.add(name)
                frontier += self.stages[name].inputs
        return found

    def updates_of(self, stages: Iterable[str]) -> int:
        """What these stages train, in all."""
        return sum(self.stages[name].updates for name in stages)

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


@lru_cache(maxsize=MAX_NETWORKS)
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
    with _blame(config, "data", config.data.index(data)), _guard("data", data):
        _check_readable(data.canonical)
    with _blame(config, "model", config.model.index(model)), _guard("model", model):
        facts = gather_facts(model.canonical, data.canonical, prune.linear, prune.ignore, prune.until > 0)
    if facts.groups:
        largest = prune.ratios.index(max(prune.ratios))
        key = ("until",) if prune.until > max(prune.ratios) else ("ratios", largest)
        with _blame(config, "prune", *key):
            check_reachable(facts.groups, prune.until, prune.min_channels, prune.round_to)
    return facts


@lru_cache(maxsize=MAX_NETWORKS)
def _check_readable(data: str) -> None:
    load_data(json.loads(data))


def _guard(what: str, choice: Choice):
    """Around what runs the user's own code, if it is that."""
    return refusing_failures(what, choice.name) if is_user_code(choice.name) else nullcontext()


@contextmanager
def _blame(config: SweepConfig, *path: str | int):
    """Puts the place of a key before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place_of(config, *path)}: {' '.join(str(error).split())}") from error


def make_plan(config: SweepConfig) -> Plan:
    """All cells of the grid and the stages behind them. Trains nothing; raises UserError where a cell can't be made."""
    _check_size(config)
    stages: dict[str, Stage] = {}
    cells = []
    names = short_names(config)
    for model, data, criterion, seed in itertools.product(
        config.model, config.data, config.prune.criterion, config.seeds
    ):
        chain = _Chain(config, model, data, criterion, seed, stages)
        baseline = chain.cell_stages(0.0, "fp32", "prune_first")["evaluate"]
        scratch = chain.scratch() if config.train.scratch_baseline else None
        ranking = criterion_label(criterion.settings)
        for order, precision, ratio in itertools.product(config.order, config.precisions, config.prune.ratios):
            first = "" if order == "prune_first" else f"-{order}"
            label = f"{names[model]}-{names[data]}-{ranking}{first}-{precision}-r{_ratio(ratio)}-s{seed}"
            chosen = (names[model], names[data], ranking, order, precision, ratio, seed)
            cells.append(Cell(label, *chosen, chain.cell_stages(ratio, precision, order), baseline, scratch))
    stages = {name: replace(stage, trust=config.user_code) for name, stage in stages.items()}
    return Plan(config, tuple(cells), stages)


def _check_size(config: SweepConfig) -> None:
    """Raises UserError where the grid is larger than anyone can train."""
    networks = len(config.model) * len(config.data)
    axes = {
        ("model",): (len(config.model), "network"),
        ("data",): (len(config.data), "data set"),
        ("seeds",): (len(config.seeds), "seed"),
        ("prune", "criterion"): (len(config.prune.criterion), "criterion"),
        ("prune", "ratios"): (len(config.prune.ratios), "ratio"),
        ("precisions",): (len(config.precisions), "precision"),
        ("order",): (len(config.order), "order"),
    }
    if networks > MAX_NETWORKS:
        place = place_of(config, "model" if len(config.model) >= len(config.data) else "data")
        problem = f"{networks:,} networks on data sets are more than {MAX_NETWORKS}, the most that one sweep takes"
    elif (cells := math.prod(length for length, _ in axes.values())) > MAX_CELLS:
        place = place_of(config, *max(axes, key=axes.get))
        counted = " x ".join(f"{length:,} {noun}{'s' if length > 1 else ''}" for length, noun in axes.values())
        counted = counted.replace("criterions", "criteria")
        problem = f"{cells:,} cells ({counted}) are more than {MAX_CELLS:,}, the most that one sweep takes"
    else:
        return
    raise UserError(f"{place}: {problem}; shorten this list, or split it over several sweeps: stages are shared")


class _Chain:
    """Makes the stages of one model, data set, criterion and seed."""

    def __init__(self, config: SweepConfig, model: Choice, data: Choice, criterion: Choice, seed: int, stages: dict):
        self.config, self.criterion, self.seed, self.stages = config, criterion, seed, stages
        prune, train = config.prune, config.train
        self.facts = facts_of(config, model, data)
        self.title = f"{model.name} on {data.name}, seed {seed}"
        recipe = {
            "batch_size": train.batch_size,
            "momentum": train.momentum or 0.0,
            "weight_decay": train.weight_decay,
            "optimizer": train.optimizer,
        }
        if train.math != "fp32":
            recipe["math"] = train.math
        if train.channels_last:
            recipe["channels_last"] = True
        self.common = {
            "data": data.settings,
            "data_fingerprint": data_fingerprint_of(data.canonical),
            "seed": seed,
            "recipe": recipe,
        }
        self.schedule = PathSchedule(
            self.facts.maps, prune.channels_per_step.channels(self.facts.maps), prune.updates_between
        )
        self.path_updates = self.schedule.updates_to(prune.until)
        self.dense_settings = {
            "model": model.settings,
            "model_fingerprint": model_fingerprint_of(model.canonical),
            "updates": self._updates(train),
            "lr": train.lr,
            "checkpoint": train.checkpoint,
        }
        if train.checkpoint:
            self.dense_settings["checkpoint_sha256"] = file_hash(train.checkpoint)
        made = 0 if train.checkpoint else self.dense_settings["updates"]
        self.pretrained = (self._pretraining(model),) if config.pretrain else ()
        self.dense = self._add("dense", self.dense_settings, self.pretrained, made, f"train {self.title}")
        self.cut = {"linear": prune.linear, "ignore": list(prune.ignore)}

    def _pretraining(self, model: Choice) -> str:
        """The dense stage of the same model on the data set of `pretrain`: what a sweep on that would begin with."""
        before = self.config.pretrain
        settings = {
            "data": before.data.settings,
            "data_fingerprint": data_fingerprint_of(before.data.canonical),
            "seed": before.seed,
            "recipe": {**self.common["recipe"], "batch_size": before.batch_size},
            "updates": before.updates,
            "lr": before.lr,
        }
        label = f"pretrain {model.name} on {before.data.name}"
        with _blame(self.config, "pretrain", "data"):
            check_data(before.data.settings)
        return self._add("dense", {**self.dense_settings, **settings}, (), before.updates, label)

    def scratch(self) -> str:
        """The dense network trained under one schedule for as many updates as a cell has in all."""
        quantize, finetune = self._updates(self.config.quantize), self._updates(self.config.finetune)
        updates = self.dense_settings["updates"] + self.path_updates + finetune + quantize
        settings = {**self.dense_settings, "updates": updates}
        return self._add("dense", settings, self.pretrained, updates, f"train {self.title}, one schedule")

    def cell_stages(self, ratio: float, precision: str, order: str) -> dict[str, str]:
        """The cell's stages, added to the plan where they are new: kind -> id."""
        ids = {"dense": self.dense}
        number_format = self._format(precision)
        where = f"{self.title}, ratio {_ratio(ratio)}"
        if order == "prune_first":
            ids |= self._pruned(ratio, self.dense, {}, where)
            settings = {**number_format, **self._quantizing(), "method": self.config.quantize.method}
            teacher = (self.dense,) if "distill" in settings else ()
            ids["quantize"] = self._add(
                "quantize", settings, (ids["recover"], *teacher), settings["updates"], f"{precision} {where}"
            )
        else:
            settings = {**number_format, **self._quantizing(), **self.cut}
            label = f"{precision} {self.title}, dense"
            ids["quantize"] = self._add("quantize_dense", settings, (self.dense,), settings["updates"], label)
            ids |= self._pruned(ratio, ids["quantize"], number_format, f"{precision} {where}")
        network = ids["quantize" if order == "prune_first" else "recover"]
        ids["evaluate"] = self._add("evaluate", {}, (network,), 0, f"evaluate {precision} {where}")
        return ids

    def _format(self, precision: str) -> dict:
        return {
            "precision": get_precision(precision).name,
            "first_last_bits": self.config.quantize.first_last_bits,
        }

    def _quantizing(self) -> dict:
        settings = {"updates": self._updates(self.config.quantize), "lr": self.config.quantize.lr}
        if self.config.quantize.distill:
            settings["distill"] = {"temperature": TEMPERATURE, "share": TEACHER_SHARE}
        return settings

    def _pruned(self, ratio: float, source: str, number_format: dict, where: str) -> dict[str, str]:
        """The stages that prune and fine-tune the network of a stage, in FP32 or in a number format."""
        prune = self.config.prune
        ids, walked = {}, 0
        if steps := self.schedule.steps_to(ratio):
            if prune.schedule == "one_shot":
                source = self._snapshot(
                    PathSchedule(self.facts.maps, round(ratio * self.facts.maps), prune.updates_between),
                    1,
                    (),
                    source,
                    number_format,
                )
                walked = prune.updates_between
            else:
                earlier = [self.schedule.steps_to(each) for each in prune.ratios]
                source = self._snapshot(self.schedule, steps, earlier, source, number_format)
                walked = steps * prune.updates_between
            ids["path"] = source
        settings = {
            **number_format,
            "path_updates": self.path_updates,
            "path_lr": prune.lr,
            "updates": self._updates(self.config.finetune),
            "lr": self.config.finetune.lr,
            **(self.cut if steps or number_format else {}),
        }
        made = self.path_updates - walked + settings["updates"]
        ids["recover"] = self._add("recover", settings, (source,), made, f"fine-tune {where}")
        return ids

    def _snapshot(
        self, schedule: PathSchedule, steps: int, others: Iterable[int], source: str, number_format: dict
    ) -> str:
        """A snapshot of one path. Its identity has the path's end, but neither the other ratios nor what it starts from.

        others: steps of the path's other snapshots; source: the stage whose network the path begins with.
        """
        prune = self.config.prune
        settings = {
            **self.common,
            **self.cut,
            **number_format,
            "source": source,
            "criterion": self.criterion.settings,
            "normalize": prune.normalize,
            "per_step": schedule.per_step,
            "updates_between": prune.updates_between,
            "end": self.path_updates,
            "lr": prune.lr,
            "min_channels": prune.min_channels,
            "round_to": prune.round_to,
        }
        extra = ()
        if self.criterion.settings.get("lambda") == "cv":
            settings["lambda_stage"] = self._lambda()
            extra = (settings["lambda_stage"],)
        name = f"path-{_hash('path', settings, ())}-{steps:05d}"
        if name not in self.stages:
            start = max((step for step in others if 0 < step < steps), default=0)
            before = self._snapshot(schedule, start, others, source, number_format) if start else source
            share = schedule.removed_after(steps) / self.facts.maps
            precision = f"{number_format['precision']} " if number_format else ""
            label = f"prune {precision}{self.title}, {criterion_label(self.criterion.settings)} to {share:.2f}"
            made = (steps - start) * prune.updates_between
            self.stages[name] = Stage(name, "path", {**settings, "step": steps}, (before, *extra), made, label)
        return name

    def _lambda(self) -> str:
        """The choice of a criterion's lambda, from its folds; its identity has all the ratios above 0."""
        prune, tuning = self.config.prune, self._updates(self.config.finetune)
        settings = {
            **self.dense_settings,
            **self.cut,
            "criterion": self.criterion.settings,
            "normalize": prune.normalize,
            "per_step": self.schedule.per_step,
            "updates_between": prune.updates_between,
            "path_lr": prune.lr,
            "min_channels": prune.min_channels,
            "round_to": prune.round_to,
            "ratios": sorted(ratio for ratio in prune.ratios if ratio),
            "finetune_updates": tuning,
            "finetune_lr": self.config.finetune.lr,
        }
        walked = self.schedule.updates_to(max(settings["ratios"]))
        tried = len(cross_validation.LAMBDAS) * (walked + len(settings["ratios"]) * tuning)
        updates = self.dense_settings["updates"] + tried
        folds = tuple(
            self._add(
                "fold",
                {**settings, "fold": fold},
                self.pretrained,
                updates,
                f"fold {fold} of {self.title}, for lambda",
            )
            for fold in range(cross_validation.FOLDS)
        )
        return self._add("lambda", {}, folds, 0, f"choose lambda for {self.title}")

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


def _ratio(ratio: float) -> str:
    """0.5 -> "0.50"; more digits only where they are needed, and then all, so that no two ratios look the same."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else repr(ratio)


def _own_name(choice: Choice) -> str:
    """Its name; of a folder of images, the folder's."""
    root = choice.settings.get("root") if choice.name == "imagefolder" else None
    return (Path(root).name if isinstance(root, str) else "") or choice.name


def short_names(config: SweepConfig) -> dict[Choice, str]:
    """Short names for models and data sets that are fit for file names, and different where the choices are.

    ASCII letters, digits, "_" and "." (not first), at most 67 of them: a cell's id, made of two, can be a file's name.
    """
    names: dict[Choice, str] = {}
    for axis in (config.model, config.data):
        whole = [re.sub(r"[^A-Za-z0-9_.]+", "_", _own_name(choice).removeprefix("torchvision:")) for choice in axis]
        plain = [re.sub(r"^\.", "_", name[:60]) for name in whole]
        count = Counter(plain)
        for choice, name, long in zip(axis, plain, whole, strict=True):
            alone = count[name] == 1 and len(long) <= 60
            names[choice] = name if alone else f"{name}.{hashlib.sha256(choice.canonical.encode()).hexdigest()[:6]}"
    return names
