"""What a sweep will cost, before it runs: bit_gflops where they are known, minutes from a short measurement, disk."""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from qprune.analysis.tables import ratio_table, with_method
from qprune.data import load_data
from qprune.deploy.formats import FORMATS
from qprune.methods.facts import is_known_model
from qprune.precision import get_precision
from qprune.pruning.criteria import get_criterion
from qprune.recipe import constant
from qprune.registry.choice import Choice
from qprune.registry.identity import plain
from qprune.registry.packages import have
from qprune.settings.config import SweepConfig
from qprune.stages import KINDS, Phase, Stage
from qprune.stages.dense import Dense
from qprune.stages.narrow import Narrow
from qprune.stages.provenance import processor_name
from qprune.stages.saved import NetworkSpec
from qprune.storage.kept import keep, kept, once
from qprune.storage.store import Store
from qprune.sweep.by_method import costs_by_method, method_table
from qprune.sweep.changed import changed_lines
from qprune.sweep.data_lines import data_lines
from qprune.sweep.faults import EXPORTED, NONE, Faults, Trial, able_cells
from qprune.sweep.plan import Cell, Plan
from qprune.sweep.progress import READING, doing
from qprune.sweep.rehearsal import rehearse
from qprune.sweep.run import missing_stages, open_sweep, wanted_networks

WORKER_START_SECONDS = 3.0  # until the first worker computes; each further one is forked in a tenth
MEASURED_UPDATES = 3
TIMING = "timing a few updates of each network"
KEPT = "timings"
LOADED = 0.15  # share of its time that a timed update waits, from which on the machine is called loaded
REPORT_BYTES, RECORD_BYTES = 20_000, 30_000  # of a stage, and of a cell
KNOWN_PATHS = 100  # pruned networks at most whose cost is looked up for the forecast


def show_plan(
    config: SweepConfig,
    out: Path,
    console: Console,
    cells: bool = False,
    workers: int = 0,
    exports: bool = False,
    anew: bool = False,
) -> None:
    """Print the forecast of a sweep, with `cells` each cell too; trains nothing (a few throw-away updates are timed).

    workers: processes that share the work; 0: one per core. exports: try every format, not only ONNX. anew: time updates
    although this machine's times are kept.
    """
    doing(console, READING)
    plan, store, folder = open_sweep(config, out)
    wanted, trial = wanted_networks(plan, folder), Trial()
    todo = missing_stages(plan, store, wanted)
    if exports or todo:
        trial = rehearse(plan, FORMATS.names() if exports else EXPORTED, console)
    faults = trial.faults
    if faults:
        todo = missing_stages(plan, store, wanted, able_cells(plan, faults))
    done = sum(store.done(cell.stages["evaluate"]) for cell in plan.cells)
    most = "at most " if config.strategy == "front" else ""
    console.print(f"{config.name}: {most}{len(plan.cells)} cells, {done} done, in {folder}", highlight=False)
    if most:
        console.print("strategy: front chooses the cells as it goes; below is the whole grid", highlight=False)
    changed = changed_lines(plan, store, folder)
    for line in [*changed, *data_lines(config, every_class=cells), *plan.left_out_lines()]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _show_faults(plan, faults, console)
    for line in trial.unwritten:
        console.print(f"[yellow]tried[/yellow] {escape(line)}", highlight=False, soft_wrap=True)
    for form in FORMATS.entries() if exports else ():
        if not have(*form.packages):
            console.print(
                f"not tried: {form.name}, which needs {', '.join(form.packages)} (pip install 'qprune[onnx]')",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
    for line in updates_lines(plan):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_stage_table(plan, todo))
    measured = {}
    if todo:
        measured = time_updates(plan, faults, console, anew)
    costs = forecast_costs(plan, store, measured)
    for table in _cost_tables(plan, costs):
        console.print(table)
    if cells:
        _list_cells(plan, store, costs, console)
    if not todo:
        console.print("nothing is left to compute", highlight=False)
        return
    seconds = forecast_seconds(plan, todo, measured)
    methods = costs_by_method(plan, todo, seconds)
    if len(methods) > 1:
        console.print(method_table(methods))
    workers = workers or _cores()
    wall = _wall_seconds(seconds, plan, workers)
    console.print(
        f"about {wall / 60:.1f} minutes with {workers} worker(s) of 1 thread, {sum(seconds.values()) / 60:.1f} of computing",
        highlight=False,
    )
    for line in timing_lines(measured):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"disk: about {_megabytes(plan, todo, measured):.0f} MB more", highlight=False)


def updates_lines(plan: Plan) -> Iterator[str]:
    """For each network on each data set, the updates of its cells, and of which phases they are."""
    letters = {"dense": "N", "prune": "P", "finetune": "F", "quantize": "Q"}
    longest: dict[tuple[str, str], dict[str, int]] = {}
    for cell in plan.cells:
        if cell.equal == "updates":
            place, phases = (cell.model, cell.data), plan.updates_by_phase(cell)
            if phases.keys() <= letters.keys() and len(phases) > len(longest.get(place, ())):
                longest[place] = phases
    for (model, data), phases in longest.items():
        parts = " + ".join(f"{letters[name]} {count:,}" for name, count in phases.items())
        where = f" of {model} on {data}" if len(longest) > 1 else ""
        total, budget = sum(phases.values()), plan.config.budget
        if budget and phases.get("prune", 0) > 2 * budget.shares.prune * total:
            parts += (
                f" (P has {phases['prune'] / total:.0%}, not {budget.shares.prune:.0%}, since each step needs an update: "
                "raise prune.channels_per_step or budget)"
            )
        yield f"updates of each cell{where}: {sum(phases.values()):,} = {parts}"


def _show_faults(plan: Plan, faults: Faults, console: Console) -> None:
    """Which cells will be marked as failed without training, and why."""
    for place, fault in faults.items():
        lost = sum((cell.model, cell.data, cell.precision) == place for cell in plan.cells)
        text = escape(f"{place[0]} on {place[1]}: {lost} cells can't be made, {fault}")
        console.print(f"[red]tried[/red] {text}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Measured:
    """One model on one data set. Seconds of: an update (dense, and pruned to the path's end), a scored update, an
    update and the making of each precision (by its canonical name), an evaluation of one image; of what a teacher adds to
    an update, if there is one (its forward pass). bits: precision -> layer -> (w, a), without those that choose widths.
    waited: the share of the time in which the timed updates had no processor; when: of the measurement, if it was kept."""

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
    waited: float = 0.0
    when: str | None = None

    def update_at(self, ratio: float) -> float:
        """Seconds of a plain update at a pruning ratio, between the two that were measured."""
        share = ratio / self.until if self.until else 0.0
        return self.update + share * (self.pruned_update - self.update)

    def seconds(self, phase: Phase, ratio: float) -> float:
        """Of a phase of training, of a network at a pruning ratio."""
        each = self.scored_update if phase.scored else self.update_at(ratio)
        factor = self.precision_update[phase.precision] / self.update if phase.precision != "fp32" else 1.0
        return phase.updates * (each * factor + self.teacher * phase.teacher)


def time_updates(plan: Plan, faults: Faults, console: Console, anew: bool = False) -> dict[tuple[str, str], Measured]:
    """As `measure`, but what was measured on this machine, by this very code, isn't measured again (but for `anew`): what was
    while the machine was loaded, as long as it is. Of the user's own code nothing is kept. Without the networks of which no
    cell can be made.
    """
    places = list(dict.fromkeys((cell.model, cell.data) for cell in able_cells(plan, faults)))
    follows_from = {place: _timing_follows_from(plan, place, faults) for place in places}
    found: dict[tuple[str, str], Measured] = {}
    for place, known in follows_from.items():
        values = None if known is None or anew else kept(KEPT, known)
        if values is not None and (values["waited"] < LOADED or os.getloadavg()[0] > _cores()):
            found[place] = Measured(**values | {"spec": plan.facts[place].spec})
    left = [place for place in places if place not in found]
    if left:
        doing(console, TIMING)
        when = time.strftime("%Y-%m-%d %H:%M")
        for place, measured in measure(plan, faults, left).items():
            found[place] = measured
            if follows_from[place] is not None:
                keep(KEPT, follows_from[place], asdict(replace(measured, when=when)))
    return {place: found[place] for place in places}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _timing_follows_from(plan: Plan, place: tuple[str, str], faults: Faults) -> dict | None:
    """What a timing is kept by beside the code; None where that isn't all known."""
    config, facts = plan.config, plan.facts[place]
    if facts.follows_from is None:
        return None
    prune = config.prune
    return {
        "machine": [platform.node(), processor_name(), _cores()],
        "facts": facts.follows_from,
        "recipe": plain(_dense_of(plan, place).recipe),
        "path": [prune.until, prune.min_channels, prune.round_to, prune.max_layer_ratio],
        "criterion": _as_chosen(prune.criterion[0]),
        "precisions": [typed for typed in config.precisions if (*place, typed) not in faults],
        "first_last_bits": config.quantize.first_last_bits,
        "distill": config.quantize.distill,
    }


def timing_lines(measured: dict[tuple[str, str], Measured]) -> Iterator[str]:
    """When the updates were timed that the minutes follow from, and whether the machine did other work meanwhile."""
    dates = sorted({timing.when or "" for timing in measured.values()} - {""})
    if dates:
        some = "" if all(timing.when for timing in measured.values()) else "some of the "
        days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        yield f"{some}updates were timed on this machine on {days} (--anew times them again)"
    waited = max((timing.waited for timing in measured.values()), default=0.0)
    if waited >= LOADED:
        yield (
            f"[yellow]loaded[/yellow] the timed updates waited for a processor {waited:.0%} of their time, for other work on this "
            "machine, so the minutes are too long for a sweep that has it for itself"
        )


def _dense_of(plan: Plan, place: tuple[str, str]) -> Dense:
    dense = plan.stages[next(cell.dense for cell in plan.cells if (cell.model, cell.data) == place)]
    assert isinstance(dense, Dense)
    return dense


def measure(
    plan: Plan, faults: Faults = NONE, places: Sequence[tuple[str, str]] | None = None
) -> dict[tuple[str, str], Measured]:
    """(model, data), as they are called in the plan -> its timings; not of precisions that can't be made. places: of these
    alone."""
    import torch

    from qprune.cost import count_cost
    from qprune.pruning.gated import GatedNetwork
    from qprune.pruning.path import select
    from qprune.pruning.scoring import Scorer
    from qprune.stages.work import CALIBRATION_IMAGES, recipe_of
    from qprune.training import evaluate, train

    torch.set_num_threads(1)
    measured = {}
    config, prune = plan.config, plan.config.prune
    for model, data in plan.facts if places is None else places:
        facts, dense = plan.facts[model, data], _dense_of(plan, (model, data))
        dataset = load_data(dense.data.settings)
        recipe = recipe_of(dense, dataset)
        network = facts.spec.build()
        spent = [0.0, 0.0]  # in the timed updates: seconds, and those of them on a processor

        def seconds(network, scorer=None, dataset=dataset, recipe=recipe, spent=spent):
            train(network, dataset.train, recipe, range(1), constant(1e-6), 0, scorer=scorer)
            start, worked = time.perf_counter(), time.process_time()
            train(network, dataset.train, recipe, range(1, 1 + MEASURED_UPDATES), constant(1e-6), 0, scorer=scorer)
            took = time.perf_counter() - start
            spent[0] += took
            spent[1] += min(time.process_time() - worked, took)
            return took / MEASURED_UPDATES

        update = seconds(network)
        pruned_update = scored_update = update
        if prune.until > 0:
            gated = GatedNetwork(network, facts.spec.image_shape, prune.linear, prune.ignore)
            scorer = Scorer(
                gated.network, gated.groups, gated.gates, get_criterion(_as_chosen(config.prune.criterion[0]))
            )
            scored_update = seconds(gated.network, scorer)
            scores = torch.rand(facts.maps, generator=torch.Generator().manual_seed(0))
            kept = (prune.min_channels, prune.round_to, prune.max_layer_ratio)
            gated.mask(select(scores, gated.alive, gated.groups, int(prune.until * facts.maps), *kept))
            pruned_update = seconds(gated.shrink().train())
        start = time.perf_counter()
        evaluate(network, dataset.val.first(256))
        image = (time.perf_counter() - start) / min(256, len(dataset.val.labels))
        precision_update, precision_start, bits = {}, {}, {}
        calibration = dataset.train.images[:CALIBRATION_IMAGES].float() / 255
        for typed in config.precisions:
            if (model, data, typed) in faults:
                continue
            start = time.perf_counter()
            precision = get_precision(typed, config.quantize.first_last_bits).choose(network, calibration)
            name = precision.name
            trained = precision.prepare(network, calibration)
            precision_start[name] = time.perf_counter() - start
            precision_update[name] = seconds(trained, recipe=recipe.in_fp32)
            cost = count_cost(trained.eval(), facts.spec.image_shape)
            if not precision.layer_bits:  # those of a mixed precision depend on the trained weights
                bits[name] = {layer.name: (layer.w_bits, layer.a_bits) for layer in cost.layers}
        layers = count_cost(network.eval(), facts.spec.image_shape).layers
        bits.setdefault("fp32", {layer.name: (layer.w_bits, layer.a_bits) for layer in layers})  # of baselines
        size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        images = len(dataset.val.labels) + len(dataset.test.labels)
        measured[model, data] = Measured(
            facts.spec, update, pruned_update, scored_update, precision_update, precision_start, image, images, bits,
            size, prune.until, recipe.batch_size * image if config.quantize.distill else 0.0, 1 - spent[1] / spent[0],
        )  # fmt: skip
    return measured


def _as_chosen(criterion: Choice) -> dict:
    """The criterion's settings; of a lambda that is still to be chosen, any will do."""
    settings = criterion.settings
    return settings | {"lambda": 1.0} if settings.get("lambda") == "cv" else settings


def _layer_macs(spec: NetworkSpec) -> dict[str, int]:
    """Layer -> MACs of the network with these widths. They are kept for the next command."""

    def count() -> dict[str, int]:
        from qprune.cost import count_cost

        return {layer.name: layer.macs for layer in count_cost(spec.build(), spec.image_shape).layers}

    return once("layer_macs", spec.to_json(), count) if is_known_model(spec.model["name"]) else count()


def forecast_costs(plan: Plan, store: Store, measured: dict) -> dict[str, float | None]:
    """bit_gflops of each cell: from its record where it is done, by computation for unpruned networks and for those
    whose pruning is done, else None (so in mixed precisions, whose widths aren't chosen yet)."""

    @cache
    def pruned_macs(tuned: str) -> dict[str, int]:
        return _layer_macs(
            NetworkSpec.from_json(store.meta(tuned)["network"], plan.config.user_code, store.folder / tuned)
        )

    @cache
    def planned_macs(model: str, data: str, ratio: float) -> dict[str, int]:
        prune, facts = plan.config.prune, plan.facts[model, data]
        return _layer_macs(
            facts.narrow_spec(prune.of, ratio, prune.min_channels, prune.round_to) if ratio else facts.spec
        )

    def weighted(macs: dict[str, int], bits: dict) -> float:
        return sum(2 * count * bits[name][0] * bits[name][1] / 1024 / 1e9 for name, count in macs.items())

    costs: dict[str, float | None] = {}
    looked_up: set[str] = set()
    for cell in plan.cells:
        evaluated, tuned = cell.stages["evaluate"], cell.stages.get("finetune")
        timings = measured.get((cell.model, cell.data))  # there are none where nothing is to do
        bits = timings.bits.get(get_precision(cell.precision).name) if timings else None
        if store.done(evaluated):
            costs[cell.id] = store.meta(evaluated)["cost"]["bit_gflops"]
        elif bits is None:
            costs[cell.id] = None
        elif cell.ratio == 0 or _is_uniform(plan, cell):
            costs[cell.id] = weighted(planned_macs(cell.model, cell.data, cell.ratio), bits)
        elif tuned and store.done(tuned) and (tuned in looked_up or len(looked_up) < KNOWN_PATHS):
            looked_up.add(tuned)
            costs[cell.id] = weighted(pruned_macs(tuned), bits)
        else:
            costs[cell.id] = None
    return costs


def _is_uniform(plan: Plan, cell: Cell) -> bool:
    narrow = plan.stages.get(cell.stages.get("narrow", ""))
    return isinstance(narrow, Narrow) and narrow.uniform is not None


def forecast_seconds(plan: Plan, todo: dict[str, Stage], measured: dict) -> dict[str, float]:
    """Seconds of computing that each missing stage will take, on this machine, with one thread."""
    timing_of = _timings(plan, measured)
    ratios: dict[str, float] = {}
    for cell in plan.cells:
        smaller = ("narrow", "finetune", "quantize")  # the stages that train the smaller network
        ratios |= {cell.stages[kind]: cell.ratio for kind in smaller if kind in cell.stages}
    seconds = {}
    for name, stage in todo.items():
        timing = timing_of[name]
        own = [timing.seconds(phase, ratios.get(name, 0.0)) for phase in stage.phases if not phase.elsewhere]
        making = timing.precision_start.get(stage.makes, 0.0) if stage.makes else 0.0
        seconds[name] = sum(own) + making + stage.evaluates * timing.image * timing.images
    return seconds


def _timings(plan: Plan, measured: dict[tuple[str, str], Measured]) -> dict[str, Measured]:
    """Stage -> the timings that its model and data set have; of a pretraining, those of its model on the first data set."""
    timings: dict[str, Measured] = {}
    for cell in plan.cells:
        for name in (cell.stages["evaluate"], cell.baseline):
            if (cell.model, cell.data) in measured:  # else no cell of it can be made
                timings.setdefault(name, measured[cell.model, cell.data])
    for name, stage in reversed(
        plan.stages.items()
    ):  # each stands after its inputs, and the first data set's last here
        if name in timings:
            timings |= dict.fromkeys(stage.inputs, timings[name])
    return timings


def wall_seconds_of(
    plan: Plan, store: Store, folder: Path, measured: dict, workers: int, faults: Faults = NONE
) -> float:
    """The least wall time in which so many workers can compute what is missing of a sweep."""
    todo = missing_stages(plan, store, wanted_networks(plan, folder), able_cells(plan, faults))
    return _wall_seconds(forecast_seconds(plan, todo, measured), plan, workers)


def _wall_seconds(seconds: dict[str, float], plan: Plan, workers: int) -> float:
    """The least that so many workers can take: the work shared out, or the longest chain."""
    if not seconds:
        return 0.0
    ends: dict[str, float] = {}
    for name in seconds:  # each stands after its inputs
        ends[name] = seconds[name] + max((ends.get(source, 0.0) for source in plan.stages[name].inputs), default=0.0)
    return max(sum(seconds.values()) / workers, *ends.values()) + WORKER_START_SECONDS


def _megabytes(plan: Plan, todo: dict[str, Stage], measured: dict) -> float:
    """What will be written: an upper bound, as if nothing were pruned. Networks of cells go where the sweep keeps none."""
    spared = {cell.network for cell in plan.cells} if plan.config.keep == "none" else set()
    timing_of = _timings(plan, measured)
    networks = sum(stage.networks_kept * timing_of[name].bytes for name, stage in todo.items() if name not in spared)
    return (networks + REPORT_BYTES * len(todo) + RECORD_BYTES * len(plan.cells)) / 1e6


def _stage_table(plan: Plan, todo: dict[str, Stage]) -> Table:
    table = Table(title="stages, each computed once")
    for column in ("kind", "all", "done", "to do", "updates to do"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in KINDS.names():
        members = [name for name, stage in plan.stages.items() if stage.kind == kind]
        if not members:
            continue
        left = [name for name in members if name in todo]
        updates = plan.updates_of(left)
        table.add_row(kind, str(len(members)), str(len(members) - len(left)), str(len(left)), f"{updates:,}")
    return table


def _cost_tables(plan: Plan, costs: dict[str, float | None]) -> list[Group]:
    """Ratio x precision, means over seeds, one table per model, data set and criterion."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.model, cell.data, cell.criterion, cell.variant), []).append(cell)
    tables = []
    for (model, data, criterion, method), cells in groups.items():
        what = f"{model} on {data}, {with_method(criterion, method)}"
        title = f"{what}: bit_gflops, mean over seeds ('?' until the path is walked and widths are chosen)"
        known: dict[tuple[str, float], list[float]] = {}
        for cell in cells:
            if (cost := costs[cell.id]) is not None:
                known.setdefault((cell.precision, cell.ratio), []).append(cost)

        def entry(precision: str, ratio: float, known=known) -> str:
            seeds = known.get((precision, ratio))
            return f"{sum(seeds) / len(seeds):.4g}" if seeds else "?"

        precisions, ratios = (
            dict.fromkeys(values) for values in zip(*((c.precision, c.ratio) for c in cells), strict=True)
        )
        tables.append(ratio_table(title, precisions, ratios, entry))
    return tables


def _list_cells(plan: Plan, store: Store, costs: dict[str, float | None], console: Console) -> None:
    for cell in plan.cells:
        state = "done" if store.done(cell.stages["evaluate"]) else "to do"
        cost = "?" if costs[cell.id] is None else f"{costs[cell.id]:.6g}"
        console.print(f"{cell.id}  {state}  bit_gflops {cost}", highlight=False, soft_wrap=True)
