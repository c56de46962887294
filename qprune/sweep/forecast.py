"""What a sweep will cost, before it runs: bit_gflops where they are known, minutes from a short measurement, disk."""

import itertools
import json
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.table import Table

from qprune.analysis.tables import ratio_table
from qprune.cost import count_cost
from qprune.data import load_data
from qprune.precision import get_precision
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import select
from qprune.pruning.scoring import Scorer
from qprune.registry.choice import Choice
from qprune.settings.config import SweepConfig
from qprune.stages import CALIBRATION_IMAGES, Stage, recipe_of
from qprune.stages.saved import NetworkSpec
from qprune.storage.store import Store
from qprune.sweep.plan import Cell, Plan, facts_of
from qprune.sweep.run import missing_stages, open_sweep, wanted_networks
from qprune.training import constant, evaluate, train

WORKER_START_SECONDS = 6.0  # a worker's imports
MEASURED_UPDATES = 3
KNOWN_PATHS = 100  # pruned networks at most whose cost is looked up for the forecast


def show_plan(config: SweepConfig, out: Path, console: Console, cells: bool = False) -> None:
    """Print the forecast of a sweep, with `cells` each cell too; trains nothing (a few throw-away updates are timed)."""
    plan, store, folder = open_sweep(config, out)
    todo = missing_stages(plan, store, wanted_networks(plan, folder))
    done = sum(store.done(cell.stages["evaluate"]) for cell in plan.cells)
    most = "at most " if config.strategy == "front" else ""
    console.print(f"{config.name}: {most}{len(plan.cells)} cells, {done} done, in {folder}", highlight=False)
    if most:
        console.print("strategy: front chooses the cells as it goes; below is the whole grid", highlight=False)
    console.print(_stage_table(plan, todo))
    updates = sorted({plan.total_updates(cell) for cell in plan.cells})
    first = plan.cells[0]
    console.print(f"updates of each cell (N + P + F + Q): {', '.join(map(str, updates))}", highlight=False)
    measured = measure(config, plan.stages[first.stages["dense"]])
    costs = forecast_costs(plan, store, measured)
    for table in _cost_tables(plan, costs):
        console.print(table)
    if cells:
        _list_cells(plan, store, costs, console)
    seconds = forecast_seconds(plan, todo, measured)
    workers = len(os.sched_getaffinity(0))
    wall = _wall_seconds(seconds, plan, workers)
    console.print(
        f"about {wall / 60:.1f} minutes with {workers} worker(s) of 1 thread, {sum(seconds.values()) / 60:.1f} of computing",
        highlight=False,
    )
    console.print(f"disk: about {_megabytes(plan, todo, measured):.0f} MB more", highlight=False)


@dataclass(frozen=True)
class Measured:
    """One model on one data set. Seconds of: an update (dense, and pruned to the path's end), a scored update, an
    update and the making of each precision, an evaluation of one image; of what a teacher adds to an update, if there is
    one (its forward pass); bits: precision -> layer -> (w, a), without mixed precisions."""

    spec: NetworkSpec
    update: float
    pruned_update: float
    scored_update: float
    precision_update: dict[str, float]
    precision_start: dict[str, float]
    image: float
    images: int
    bits: dict[str, dict[str, tuple[float, float]]]
    bytes: int
    until: float
    teacher: float = 0.0

    def update_at(self, ratio: float) -> float:
        """Seconds of a plain update at a pruning ratio, between the two that were measured."""
        share = ratio / self.until if self.until else 0.0
        return self.update + share * (self.pruned_update - self.update)


def measure(config: SweepConfig, dense: Stage) -> dict[tuple[str, str], Measured]:
    """(model, data), as canonical settings -> its timings. dense: any dense stage, whose recipe is all FP32 stages'."""
    torch.set_num_threads(1)
    measured = {}
    prune = config.prune
    for model, data in itertools.product(config.model, config.data):
        facts = facts_of(config, model, data)
        dataset = load_data(data.settings)
        recipe = recipe_of(dense.settings, dataset)
        network = facts.spec.build()

        def seconds(network, scorer=None, dataset=dataset, recipe=recipe):
            train(network, dataset.train, recipe, range(1), constant(1e-6), 0, scorer=scorer)
            start = time.perf_counter()
            train(network, dataset.train, recipe, range(1, 1 + MEASURED_UPDATES), constant(1e-6), 0, scorer=scorer)
            return (time.perf_counter() - start) / MEASURED_UPDATES

        update = seconds(network)
        pruned_update = scored_update = update
        if prune.until > 0:
            gated = GatedNetwork(network, facts.spec.image_shape, prune.linear, prune.ignore)
            scorer = Scorer(
                gated.network, gated.groups, gated.gates, get_criterion(_as_chosen(config.prune.criterion[0]))
            )
            scored_update = seconds(gated.network, scorer)
            scores = torch.rand(facts.maps, generator=torch.Generator().manual_seed(0))
            gated.mask(select(scores, gated.alive, gated.groups, int(prune.until * facts.maps), prune.min_channels))
            pruned_update = seconds(gated.shrink().train())
        start = time.perf_counter()
        evaluate(network, _first(dataset.val, 256))
        image = (time.perf_counter() - start) / min(256, len(dataset.val.labels))
        precision_update, precision_start, bits = {}, {}, {}
        calibration = dataset.train.images[:CALIBRATION_IMAGES].float() / 255
        for name in config.precisions:
            start = time.perf_counter()
            precision = get_precision(name, config.quantize.first_last_bits).choose(network, calibration)
            trained = precision.prepare(network, calibration)
            precision_start[name] = time.perf_counter() - start
            precision_update[name] = seconds(trained, recipe=recipe.in_fp32)
            cost = count_cost(trained.eval(), facts.spec.image_shape)
            if not precision.layer_bits:  # those of a mixed precision depend on the trained weights
                bits[name] = {layer.name: (layer.w_bits, layer.a_bits) for layer in cost.layers}
        size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        images = len(dataset.val.labels) + len(dataset.test.labels)
        measured[model.canonical, data.canonical] = Measured(
            facts.spec, update, pruned_update, scored_update, precision_update, precision_start, image, images, bits,
            size, prune.until, recipe.batch_size * image if config.quantize.distill else 0.0,
        )  # fmt: skip
    return measured


def _as_chosen(criterion: Choice) -> dict:
    """The criterion's settings; of a lambda that is still to be chosen, any will do."""
    settings = criterion.settings
    return settings | {"lambda": 1.0} if settings.get("lambda") == "cv" else settings


def _first(split, count: int):
    return type(split)(split.images[:count], split.labels[:count])


def _measured_of(stage: Stage, measured: dict, plan: Plan) -> Measured:
    """The timings that a stage's model and data have; of a pretraining, those of its model on the first data set."""
    while "model" not in stage.settings:  # a dense stage and a fold have it
        stage = plan.stages[stage.inputs[0]]
    model, data = (json.dumps(stage.settings[axis], sort_keys=True) for axis in ("model", "data"))
    return measured.get((model, data)) or next(timing for key, timing in measured.items() if key[0] == model)


def _layer_macs(spec: NetworkSpec) -> dict[str, int]:
    """Layer -> MACs of the network with these widths."""
    return {layer.name: layer.macs for layer in count_cost(spec.build(), spec.image_shape).layers}


def forecast_costs(plan: Plan, store: Store, measured: dict) -> dict[str, float | None]:
    """bit_gflops of each cell: from its record where it is done, by computation for unpruned networks and for those
    whose pruning is done, else None (so in mixed precisions, whose widths aren't chosen yet)."""

    @cache
    def pruned_macs(recover: str) -> dict[str, int]:
        return _layer_macs(
            NetworkSpec.from_json(store.meta(recover)["network"], plan.config.user_code, store.folder / recover)
        )

    @cache
    def dense_macs(dense: str) -> dict[str, int]:
        return _layer_macs(_measured_of(plan.stages[dense], measured, plan).spec)

    def weighted(macs: dict[str, int], bits: dict) -> float:
        return sum(2 * count * bits[name][0] * bits[name][1] / 1024 / 1e9 for name, count in macs.items())

    costs: dict[str, float | None] = {}
    looked_up: set[str] = set()
    for cell in plan.cells:
        dense, recover = cell.stages["dense"], cell.stages["recover"]
        bits = _measured_of(plan.stages[dense], measured, plan).bits.get(cell.precision)
        if store.done(cell.stages["evaluate"]):
            costs[cell.id] = store.meta(cell.stages["evaluate"])["cost"]["bit_gflops"]
        elif bits is None:
            costs[cell.id] = None
        elif "path" not in cell.stages:
            costs[cell.id] = weighted(dense_macs(dense), bits)
        elif store.done(recover) and (recover in looked_up or len(looked_up) < KNOWN_PATHS):
            looked_up.add(recover)
            costs[cell.id] = weighted(pruned_macs(recover), bits)
        else:
            costs[cell.id] = None
    return costs


def forecast_seconds(plan: Plan, todo: dict[str, Stage], measured: dict) -> dict[str, float]:
    """Seconds of computing that each missing stage will take, on this machine, with one thread."""
    ratios = {}  # of the network that a stage trains
    for cell in plan.cells:
        for name in cell.stages.values():
            ratios[name] = 0.0 if plan.stages[name].kind in ("dense", "quantize_dense") else cell.ratio
    names = {get_precision(name).name: name for name in plan.config.precisions}
    seconds = {}
    for name, stage in todo.items():
        timing = _measured_of(stage, measured, plan)
        typed = names.get(stage.settings.get("precision"))  # None: FP32, also the baseline of a sweep without fp32
        each = timing.scored_update if stage.kind == "path" else timing.update_at(ratios.get(name, 0.0))
        factor = timing.precision_update[typed] / timing.update if typed else 1.0
        seconds[name] = stage.updates * (each * factor + timing.teacher * ("distill" in stage.settings))
        if typed:
            seconds[name] += timing.precision_start[typed]
        if stage.kind in ("dense", "evaluate"):
            seconds[name] += timing.image * timing.images
    return seconds


def _wall_seconds(seconds: dict[str, float], plan: Plan, workers: int) -> float:
    """The least that so many workers can take: the work shared out, or the longest chain."""
    if not seconds:
        return 0.0
    ends: dict[str, float] = {}
    for name in seconds:  # each stands after its inputs
        ends[name] = seconds[name] + max((ends.get(source, 0.0) for source in plan.stages[name].inputs), default=0.0)
    return max(sum(seconds.values()) / workers, *ends.values()) + WORKER_START_SECONDS


def _megabytes(plan: Plan, todo: dict[str, Stage], measured: dict) -> float:
    """Tensors that will be written: an upper bound, as if nothing were pruned. A path also keeps its optimizer."""
    total = 0.0
    for stage in todo.values():
        size = _measured_of(stage, measured, plan).bytes
        if stage.kind == "quantize" and plan.config.keep == "none":
            continue
        total += {"path": 2 * size, "evaluate": 20_000}.get(stage.kind, size)
    return (total + 30_000 * len(plan.cells)) / 1e6


def _stage_table(plan: Plan, todo: dict[str, Stage]) -> Table:
    table = Table(title="stages, each computed once")
    for column in ("kind", "all", "done", "to do", "updates to do"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in dict.fromkeys(stage.kind for stage in plan.stages.values()):
        members = [name for name, stage in plan.stages.items() if stage.kind == kind]
        left = [name for name in members if name in todo]
        updates = sum(todo[name].updates for name in left)
        table.add_row(kind, str(len(members)), str(len(members) - len(left)), str(len(left)), f"{updates:,}")
    return table


def _cost_tables(plan: Plan, costs: dict[str, float | None]) -> list[Group]:
    """Ratio x precision, means over seeds, one table per model, data set and criterion."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.model, cell.data, cell.criterion, cell.method), []).append(cell)
    tables = []
    for (model, data, criterion, method), cells in groups.items():
        first = "" if method == "prune_first" else f", {method}"
        title = f"{model} on {data}, {criterion}{first}: bit_gflops, mean over seeds ('?' until the path is walked and widths are chosen)"
        known: dict[tuple[str, float], list[float]] = {}
        for cell in cells:
            if costs[cell.id] is not None:
                known.setdefault((cell.precision, cell.ratio), []).append(costs[cell.id])

        def entry(precision: str, ratio: float, known=known) -> str:
            seeds = known.get((precision, ratio))
            return f"{sum(seeds) / len(seeds):.4g}" if seeds else "?"

        tables.append(ratio_table(title, plan.config.precisions, plan.config.prune.ratios, entry))
    return tables


def _list_cells(plan: Plan, store: Store, costs: dict[str, float | None], console: Console) -> None:
    for cell in plan.cells:
        state = "done" if store.done(cell.stages["evaluate"]) else "to do"
        cost = "?" if costs[cell.id] is None else f"{costs[cell.id]:.6g}"
        console.print(f"{cell.id}  {state}  bit_gflops {cost}", highlight=False, soft_wrap=True)
