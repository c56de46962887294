"""The sweep driver: plan, compute what is missing, record each cell as it is finished."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qprune.analysis.front import front_cells
from qprune.executors.base import Event, Executor, dependants, run_stages
from qprune.registry.errors import UserError
from qprune.report.commands import write_report
from qprune.settings.config import SweepConfig, config_as_dict, place_of
from qprune.stages import Stage
from qprune.storage.durable import StorageError, remove_drafts, set_aside, write_whole, writing
from qprune.storage.results import network_file
from qprune.storage.seal import Damaged, read_sealed_json, sealed_json
from qprune.storage.store import Store
from qprune.sweep.changed import changed_lines
from qprune.sweep.data_lines import lacking_lines
from qprune.sweep.faults import EXPORTED, Faults
from qprune.sweep.plan import Cell, Plan, make_plan
from qprune.sweep.progress import READING, Progress, doing
from qprune.sweep.records import Records
from qprune.sweep.rehearsal import rehearse
from qprune.sweep.search import Search

LAYOUT = 2  # of a results folder; raised when stages get other names
TABLE_SHARE = 0.1  # of the time at most goes into rewriting cells.csv and the report while a sweep runs


def open_sweep(config: SweepConfig, out: Path) -> tuple[Plan, Store, Path]:
    """The plan of a sweep, the store of its stages and its folder. Refuses what would spoil finished work."""
    folder = Path(out) / config.name
    check_layout(folder)
    _check_protocol(config, folder)
    _check_until(config, folder)
    return make_plan(config), Store(Path(out) / "stages"), folder


def wanted_networks(plan: Plan, folder: Path, kept: Collection[str] = frozenset()) -> set[str]:
    """The stages whose networks the sweep's folder lacks: of the cells in `kept`, or with `keep: all` of all."""
    return {
        cell.network
        for cell in plan.cells
        if (plan.config.keep == "all" or cell.id in kept) and not network_file(folder, cell.id).is_file()
    }


def missing_stages(plan: Plan, store: Store, wanted: set[str], cells: Sequence[Cell] | None = None) -> dict[str, Stage]:
    """The stages that have to be computed, in order: for the records of the cells (None: all) and their baselines, and
    for the networks that are wanted."""
    needed: set[str] = set()

    def need(name: str, tensors: bool) -> None:
        if name in needed or (store.done(name) and (not tensors or store.has_tensors(name))):
            return
        needed.add(name)
        for source in plan.stages[name].inputs:
            need(source, tensors=plan.stages[source].keeps_tensors)

    for cell in plan.cells if cells is None else cells:
        need(cell.baseline, tensors=False)
        for name in cell.stages.values():  # the record has something of each
            need(name, tensors=False)
        need(cell.network, tensors=cell.network in wanted)
        if cell.network in needed:
            needed.add(cell.stages["evaluate"])  # unless it turns out to be of this very network
    return {name: stage for name, stage in plan.stages.items() if name in needed}


def run_sweep(
    config: SweepConfig,
    out: Path,
    make_executor: Callable[[int, Path], Executor],
    console: Console,
    retry_failed: bool = False,
    seconds: float | None = None,
) -> int:
    """Run a sweep to its end; returns the exit code: 0, or 1 where a cell failed.

    seconds: after so many no stage is started any more; those that run are finished, and the same call goes on.

    make_executor: (number of stages, folder of the store) -> Executor. Interrupted (KeyboardInterrupt), it stops its
    workers; the same call goes on where it stopped. What failed before is tried again only with retry_failed.
    """
    started = time.monotonic()
    doing(console, READING)
    plan, store, folder = open_sweep(config, out)
    for line in [*changed_lines(plan, store, folder), *lacking_lines(config), *plan.left_out_lines()]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    records = Records(folder, plan, store)

    def mend() -> list[str]:
        return [*_mend_sweep_file(folder), *filter(None, map(records.check, plan.cells))]

    open_folders(folder, store, plan.stages, console, retry_failed, mend)
    write_whole(folder / "sweep.json", sealed_json(_sweep_file(config)))
    _record_finished(plan, store, records)
    run = _Run(plan, store, records, make_executor, console, None if seconds is None else started + seconds)
    if not all(_finished(cell, store) for cell in plan.cells):
        records.write_table()  # for those who ask before the first cell is done
        trial = rehearse(plan, EXPORTED, console)
        run.lose(trial.faults)
        for line in trial.unwritten:
            console.print(f"tried: {line}", highlight=False, markup=False, soft_wrap=True)
    cells = run.search(wanted_networks(plan, folder)) if config.strategy == "front" else plan.cells
    if not run.left:
        run.compute(wanted_networks(plan, folder), cells)
    if run.left:
        pass  # which networks are kept is decided at the end
    elif config.keep == "front":
        kept = front_cells(records.frame())
        if not run.failed:  # networks on the front that were deleted when they were not on it
            run.compute(wanted_networks(plan, folder, kept), cells)
        records.keep_networks(kept)
    elif config.keep == "none":
        records.keep_networks(set())
    records.write_table(parquet=True)
    records.write_lambdas()
    _tidy(folder, store)
    _summary(plan, records, folder, run, time.monotonic() - started, console)
    write_report(folder)
    return 1 if run.failed else 0


def open_folders(
    folder: Path,
    store: Store,
    stages: Iterable[str],
    console: Console,
    retry_failed: bool,
    mend: Callable[[], list[str]] = list,
) -> None:
    """Make the folders of a run, and put right what was left in them: drafts, damage, and failures if asked for.

    mend: moves aside what is damaged of the run's own files; returns what to tell of it.
    """
    for needed in (folder, store.folder):
        with writing(needed):
            needed.mkdir(parents=True, exist_ok=True)
    _tidy(folder, store)
    for told in [*store.mend(stages), *mend()]:
        console.print(f"mended: {told}", markup=False, highlight=False, soft_wrap=True)
    for stage in stages if retry_failed else ():
        store.forgive(stage)


def _tidy(folder: Path, store: Store) -> None:
    for each in (folder, folder / "cells", folder / "networks"):
        remove_drafts(each)
    store.tidy()


class _Run:
    """Computes stages, and records each cell as it is finished.

    failed: whether any stage was; beside: what failed that is no cell's (a baseline), label -> reason;
    computed: stages, here; end: when, by time.monotonic(), nothing is started any more; left: stages that were left then.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        records: Records,
        make_executor: Callable,
        console: Console,
        end: float | None = None,
    ):
        self.plan, self.store, self.records, self.make_executor, self.console = (
            plan, store, records, make_executor, console,
        )  # fmt: skip
        self.users = _cells_of_stages(plan)
        self.failed, self.computed, self.end, self.left = False, 0, end, 0
        self.beside: dict[str, str] = {}
        self.lost: set[str] = set()  # cells that can't be made
        self.written = (0.0, 0.0)  # when the table was last written, and how long that took

    def lose(self, faults: Faults) -> None:
        """Give up the cells that aren't done and can't be: nothing is trained for them. faults: as try_all gives them."""
        for cell in self.plan.cells:
            fault = faults.get((cell.model, cell.data, cell.precision))
            if fault is not None and not _finished(cell, self.store):
                self.lost.add(cell.id)
                self.failed = True
                self.records.fail(cell, fault)

    def _missing(self, wanted: set[str], cells: Sequence[Cell]) -> dict[str, Stage]:
        able = [cell for cell in cells if cell.id not in self.lost]
        return self._without_failed(missing_stages(self.plan, self.store, wanted, able))

    def search(self, wanted: set[str]) -> list[Cell]:
        """Compute the cells that the search for the front asks for, round by round; mark the rest as skipped.

        Returns the cells that are done. One set of workers serves all rounds.
        """
        search = Search(self.plan)
        outcomes: dict[str, tuple[float, float] | None] = {}
        with ExitStack() as workers:
            executor = None
            while cells := search.advance(outcomes):
                todo = self._missing(wanted, cells)
                if todo:
                    if executor is None:
                        executor = workers.enter_context(self.make_executor(len(self.plan.stages), self.store.folder))
                    self._run(todo, executor, wanted)
                if self.left:  # what is neither done nor asked for is still to be decided
                    return [cell for cell in self.plan.cells if _finished(cell, self.store)]
                for stage in {name for cell in cells for name in (cell.stages["evaluate"], cell.baseline)}:
                    outcomes[stage] = self._outcome(stage)
        return self.records.skip_all_but(search.asked)

    def _in_time(self) -> bool:
        return self.end is None or time.monotonic() < self.end

    def _outcome(self, stage: str) -> tuple[float, float] | None:
        """(validation accuracy, bit_gflops) of an evaluation; None where it could not be computed."""
        if not self.store.done(stage):
            return None
        meta = self.store.meta(stage)
        return meta["val"]["accuracy"], meta["cost"]["bit_gflops"]

    def compute(self, wanted: set[str], cells: Sequence[Cell]) -> None:
        """Compute what is missing for these cells' records and the networks that are wanted, but for what failed before
        and what needs that."""
        todo = self._missing(wanted, cells)
        if todo:
            with self.make_executor(len(todo), self.store.folder) as executor:
                self._run(todo, executor, wanted)

    def _run(self, todo: dict[str, Stage], executor: Executor, wanted: set[str]) -> None:
        with Progress(todo, self.console) as progress:

            def on_event(event: Event) -> None:
                progress.show(event)
                self._record(event)

            try:
                self.left = run_stages(todo, executor, self.store, on_event, wanted, self._in_time)
                self.records.write_table()
            except KeyboardInterrupt:
                self.records.write_table()
                raise

    def _without_failed(self, todo: dict[str, Stage]) -> dict[str, Stage]:
        users: dict[str, list[str]] = {}
        for name, stage in todo.items():
            for source in stage.inputs:
                users.setdefault(source, []).append(name)
        lost = set()
        for name in todo:
            if failure := self.store.failure(name):
                for each in (name, *dependants(users, name)):
                    lost.add(each)
                    self._record(Event("failed", each, reason=failure["reason"], log=failure["log"]))
        return {name: stage for name, stage in todo.items() if name not in lost}

    def _record(self, event: Event) -> None:
        if event.kind == "failed":
            self.failed = True
            for cell in self.users.get(event.stage, ()):
                self.records.fail(cell, event.reason, event.log)
            if event.stage not in self.users:
                self.beside[self.plan.stages[event.stage].label] = event.reason
        elif event.kind == "done":
            self.computed += event.made
            for cell in self.users.get(event.stage, ()):
                if _finished(cell, self.store):
                    self.records.finish(cell)
            if self.plan.stages[event.stage].ends_cell:
                now = time.monotonic()
                if now - self.written[0] >= self.written[1] / TABLE_SHARE:
                    self.records.write_table()
                    try:
                        write_report(self.records.folder)
                    except StorageError:
                        raise
                    except UserError:
                        pass  # a damaged file that the page shows; it is told at the end, when all cells are safe
                    self.written = (time.monotonic(), time.monotonic() - now)


def _finished(cell: Cell, store: Store) -> bool:
    return all(store.done(name) for name in cell.stages.values())


def _record_finished(plan: Plan, store: Store, records: Records) -> None:
    for cell in plan.cells:
        records.forget(cell)
        if _finished(cell, store):
            records.finish(cell)


def _cells_of_stages(plan: Plan) -> dict[str, list]:
    """The cells whose record changes when a stage ends: by its evaluation, by the failure of any of its stages."""
    users: dict[str, list] = {}
    for cell in plan.cells:
        for name in {*cell.stages.values()}:
            users.setdefault(name, []).append(cell)
    return users


def _sweep_file(config: SweepConfig) -> dict:
    written = {"layout": LAYOUT, "settings": config_as_dict(config), "until": config.prune.until}
    if config.source is not None:
        written["file"] = {"path": config.source.path, "text": config.source.text, "set": list(config.source.overrides)}
    return written


def _mend_sweep_file(folder: Path) -> list[str]:
    path = folder / "sweep.json"
    try:
        read_sealed_json(path)
    except FileNotFoundError:
        return []
    except Damaged as error:
        return [f"{error}; moved to {set_aside(path, folder / 'damaged')}, written again"]
    return []


def check_layout(folder: Path) -> None:
    """Refuses to go on in a folder whose stages have names that this code doesn't give: all would be computed again."""
    layout = _layout(folder)
    if layout not in (None, LAYOUT):
        raise UserError(
            f"{folder} was made by a qprune whose stages have other names (layout {layout}, here {LAYOUT}), so nothing of "
            "it can be gone on with. Name another folder with --out, or another `name`; status, report, pick and compare still read it"
        )


def _layout(folder: Path) -> int | None:
    """Of what is in the folder; None where there is nothing."""
    for name, written in _written(folder):
        return written.get("layout", 1) if name == "sweep.json" else LAYOUT if "data_settings" in written else 1
    return None


def _written(folder: Path) -> Iterator[tuple[str, dict]]:
    """(name, content) of sweep.json and of the records, in this order; those that are damaged or not there are passed over."""
    for file in (folder / "sweep.json", *sorted((folder / "cells").glob("*.json"))):
        if file.name.endswith(".failed.json"):
            continue
        try:
            written = read_sealed_json(file)
        except (OSError, Damaged):
            continue
        yield file.name, written


def _check_protocol(config: SweepConfig, folder: Path) -> None:
    """Finished work is not done again unasked because a default has become another one."""
    before = _earlier_protocol(folder)
    if before in (None, config.protocol) or "protocol" in config.model_fields_set:
        return
    raise UserError(
        f"{folder} was made with protocol {before}, and {config.protocol} is the default now; --set protocol={before} goes "
        f"on with it, and --set protocol={config.protocol} computes all of it anew, best under a new `name`"
    )


def _earlier_protocol(folder: Path) -> str | None:
    """Of the last sweep in the folder; classic, where it is from before there were others; None where there is nothing."""
    for name, written in _written(folder):
        return (written["settings"] if name == "sweep.json" else written).get("protocol", "classic")
    return None


def _check_until(config: SweepConfig, folder: Path) -> None:
    """A path's end fixes the budget of every cell, so it must not move by accident when a ratio is added."""
    before = _earlier_until(folder)
    if before in (None, config.prune.until) or "until" in config.prune.model_fields_set:
        return
    what = (
        "the largest ratio"
        if config.prune.of == "maps"
        else f"the default of prune.until for shares of {config.prune.of}"
    )
    place = place_of(config, "prune", "ratios", config.prune.ratios.index(max(config.prune.ratios)))
    raise UserError(
        f"{place}: prune.ratios: {what}, {config.prune.until}, would move the end of the pruning path of "
        f"{folder}, which is {before}; every cell's updates depend on it, so all of them would be computed anew. "
        f"Keep to ratios up to {before} (with `until: {before}` under prune), "
        f"or set `until: {config.prune.until}` under prune to start over, best under a new `name`"
    )


def _earlier_until(folder: Path) -> float | None:
    """The path's end when this folder was last swept."""
    return next((written["until"] for _, written in _written(folder) if "until" in written), None)


def _summary(plan: Plan, records: Records, folder: Path, run: _Run, seconds: float, console: Console) -> None:
    from qprune.analysis.tables import accuracy_tables

    frame = records.frame()
    for table in accuracy_tables(frame):
        console.print(table)
    done = int((frame.status == "done").sum())
    skipped = int((frame.status == "skipped").sum())
    console.print(
        f"{done} of {len(frame)} cells done{f', {skipped} skipped' if skipped else ''}; {run.computed} stages computed "
        f"in {seconds:.0f} s",
        highlight=False,
    )
    if run.left:
        console.print(f"the time is over: {run.left} stages are left; the same command goes on", highlight=False)
    if skipped:
        console.print("a run with --set strategy=grid computes the skipped ones too", highlight=False)
    failed = [*frame.loc[frame.status == "failed", ["cell", "reason"]].itertuples(index=False), *run.beside.items()]
    for what, reason in failed:
        text = escape(f"{what}: {str(reason).splitlines()[0]}")
        console.print(f"[red]failed[/red] {text}", highlight=False, soft_wrap=True)
    if failed:
        console.print("what failed is left alone by the next run, unless it is given --retry-failed", highlight=False)
    for what, path in (
        ("cells:   ", "cells.csv"),
        ("records: ", "cells"),
        ("networks:", "networks"),
        ("report:  ", "report.html"),
    ):
        console.print(f"{what} {folder / path}", highlight=False, markup=False, soft_wrap=True)
