"""The sweep driver: plan, compute what is missing, record each cell as it is finished."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qprune.analysis.front import front_cells
from qprune.config import SweepConfig, config_as_dict, place_of
from qprune.errors import UserError
from qprune.executors.local import Event, LocalExecutor
from qprune.plan import Cell, Plan, make_plan
from qprune.progress import Progress
from qprune.records import Records, network_file
from qprune.report.commands import write_report
from qprune.stages import Stage
from qprune.store import Store, write_whole

TABLE_SHARE = 0.1  # of the time at most goes into rewriting cells.csv and the report while a sweep runs


def open_sweep(config: SweepConfig, out: Path) -> tuple[Plan, Store, Path]:
    """The plan of a sweep, the store of its stages and its folder. Refuses what would spoil finished work."""
    folder = Path(out) / config.name
    _check_until(config, folder)
    return make_plan(config), Store(Path(out) / "stages"), folder


def missing_stages(plan: Plan, store: Store, folder: Path, kept: set[str] = frozenset()) -> dict[str, Stage]:
    """The stages that have to be computed, in order: for the records of all cells (and their baselines), and for the
    networks of the cells in `kept` (with `keep: all`, of all cells) that are not in the sweep's folder."""
    needed: set[str] = set()

    def need(name: str, tensors: bool) -> None:
        if name in needed or (store.done(name) and (not tensors or store.has_tensors(name))):
            return
        needed.add(name)
        for source in plan.stages[name].inputs:
            need(source, tensors=True)

    for cell in plan.cells:
        need(cell.baseline, tensors=False)
        for name in cell.stages.values():  # the record has something of each
            need(name, tensors=False)
        if plan.config.keep == "all" or cell.id in kept:
            need(cell.stages["quantize"], tensors=not network_file(folder, cell.id).is_file())
    return {name: stage for name, stage in plan.stages.items() if name in needed}


def run_sweep(config: SweepConfig, out: Path, workers: int, threads: int, console: Console) -> int:
    """Run a sweep to its end; returns the exit code: 0, or 1 where a cell failed.

    Interrupted (KeyboardInterrupt), it stops its workers; the same call goes on where it stopped.
    """
    started = time.monotonic()
    plan, store, folder = open_sweep(config, out)
    for needed in (folder, store.folder):
        try:
            needed.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out}: {needed} can't be made: {error.strerror}; name another folder") from error
    records = Records(folder, plan, store)
    _write_sweep_file(config, folder)
    _record_finished(plan, store, records)
    todo = missing_stages(plan, store, folder)

    def compute(stages: dict[str, Stage]) -> bool:
        executor = LocalExecutor(min(workers, len(stages)), threads, store.folder)
        return _compute(stages, plan, store, records, executor, console)

    failed = compute(todo)
    computed = len(todo)
    if config.keep == "front":
        kept = front_cells(records.frame())
        if not failed:  # networks on the front that were deleted when they were not on it
            late = missing_stages(plan, store, folder, kept)
            failed = compute(late)
            computed += len(late)
        records.keep_networks(kept)
    elif config.keep == "none":
        records.keep_networks(set())
    records.write_table(parquet=True)
    write_report(folder)
    _summary(plan, records, folder, computed, time.monotonic() - started, console)
    return 1 if failed else 0


def _compute(
    todo: dict[str, Stage], plan: Plan, store: Store, records: Records, executor: LocalExecutor, console: Console
) -> bool:
    """Compute the stages, and record each cell as it is finished; returns whether any failed."""
    if not todo:
        return False
    users = _cells_of_stages(plan)
    failed = False
    written = (0.0, 0.0)  # when the table was last written, and how long that took
    with executor, Progress(plan, todo, console) as progress:

        def on_event(event: Event) -> None:
            nonlocal failed, written
            progress.show(event)
            if event.kind == "failed":
                failed = True
                for cell in users.get(event.stage, ()):
                    records.fail(cell, event.reason)
            elif event.kind == "done":
                for cell in users.get(event.stage, ()):
                    if _finished(cell, store):
                        records.finish(cell)
                if plan.stages[event.stage].kind == "evaluate":
                    now = time.monotonic()
                    if now - written[0] >= written[1] / TABLE_SHARE:
                        records.write_table()
                        write_report(records.folder)
                        written = (time.monotonic(), time.monotonic() - now)

        try:
            executor.run(todo, on_event)
        finally:
            records.write_table()
    return failed


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


def _write_sweep_file(config: SweepConfig, folder: Path) -> None:
    written = {"settings": config_as_dict(config), "until": config.prune.until}
    if config.source is not None:
        written["file"] = {"path": config.source.path, "text": config.source.text, "set": list(config.source.overrides)}
    write_whole(folder / "sweep.json", json.dumps(written, indent=1).encode())


def _check_until(config: SweepConfig, folder: Path) -> None:
    """A path's end fixes the budget of every cell, so it must not move by accident when a ratio is added."""
    try:
        before = json.loads((folder / "sweep.json").read_text())["until"]
    except (OSError, ValueError, KeyError):
        return
    if before == config.prune.until or "until" in config.prune.model_fields_set:
        return
    place = place_of(config, "prune", "ratios", config.prune.ratios.index(max(config.prune.ratios)))
    raise UserError(
        f"{place}: prune.ratios: the largest ratio, {config.prune.until}, would move the end of the pruning path of "
        f"{folder}, which is {before}; every cell's updates depend on it, so all of them would be computed anew. "
        f"Keep to ratios up to {before} (with `until: {before}` under prune), "
        f"or set `until: {config.prune.until}` under prune to start over, best under a new `name`"
    )


def _summary(plan: Plan, records: Records, folder: Path, computed: int, seconds: float, console: Console) -> None:
    from qprune.tables import accuracy_tables

    frame = records.frame()
    for table in accuracy_tables(frame):
        console.print(table)
    done = int((frame.status == "done").sum())
    console.print(f"{done} of {len(frame)} cells done; {computed} stages computed in {seconds:.0f} s", highlight=False)
    for cell, reason in frame.loc[frame.status == "failed", ["cell", "reason"]].itertuples(index=False):
        text = escape(f"{cell}: {str(reason).splitlines()[0]}")
        console.print(f"[red]failed[/red] {text}", highlight=False, soft_wrap=True)
    for what, path in (
        ("cells:   ", "cells.csv"),
        ("records: ", "cells"),
        ("networks:", "networks"),
        ("report:  ", "report.html"),
    ):
        console.print(f"{what} {folder / path}", highlight=False, markup=False, soft_wrap=True)
