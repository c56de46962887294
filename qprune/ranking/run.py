"""The ranking's driver: plan, compute what is missing, then write tables and page of what is there."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qprune.executors.base import Event, Executor, dependants, run_stages
from qprune.ranking.findings import findings
from qprune.ranking.measured import read_network
from qprune.ranking.page import write_rank_page
from qprune.ranking.plan import RankPlan, make_rank_plan
from qprune.ranking.tables import COLUMNS, TARGETS, make_tables
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig
from qprune.stages import Stage
from qprune.storage.durable import write_whole
from qprune.storage.sealed_table import sealed_table
from qprune.storage.store import Store
from qprune.sweep.progress import Progress
from qprune.sweep.run import check_layout, open_folders


def missing_stages(plan: RankPlan, store: Store) -> dict[str, Stage]:
    """The stages that have to be computed, in order; dense networks only where a stage that is missing needs them."""
    needed: set[str] = set()

    def need(name: str) -> None:
        if name not in needed and not (store.done(name) and store.has_tensors(name)):
            needed.add(name)
            for source in plan.stages[name].inputs:
                need(source)

    for network in plan.networks:
        for name in network.stages:
            if name != network.dense or not store.done(name):
                need(name)
    return {name: stage for name, stage in plan.stages.items() if name in needed}


def run_rank(
    config: SweepConfig,
    out: Path,
    make_executor: Callable[[int, Path], Executor],
    console: Console,
    retry_failed: bool = False,
    figures: Path | None = None,
) -> int:
    """Rank the maps of a sweep file's dense networks; returns the exit code: 0, or 1 where a stage failed.

    make_executor: (number of stages, folder of the store) -> Executor. Interrupted (KeyboardInterrupt), the same call
    goes on where it stopped. Tables and page are of the networks whose stages are done. figures: a folder for the
    charts as SVG and PNG. What failed before is tried again only with retry_failed.
    """
    started = time.monotonic()
    check_layout(Path(out) / config.name)
    plan = make_rank_plan(config)
    store, folder = Store(Path(out) / "stages"), Path(out) / config.name / "rank"
    open_folders(folder, store, plan.stages, console, retry_failed)
    failed, computed = _compute(plan, store, make_executor, console)
    networks, left_out = [], dict(failed)
    for ranked in plan.networks:
        if network := read_network(ranked, store):
            networks.append(network)
            left_out |= {f"{label} on {network.title}": reason for label, reason in network.left_out.items()}
    for what, reason in left_out.items():
        console.print(f"left out: {what}: {reason.splitlines()[0]}", markup=False, highlight=False, soft_wrap=True)
    if not networks:
        raise UserError(f"no network of {config.name} could be ranked: {next(iter(failed.values())).splitlines()[0]}")
    tables = make_tables(networks)
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", sealed_table(table.to_csv(index=False)))
    sentences = findings(tables)
    page = folder / "rank.html"
    write_rank_page(page, config, networks, tables, sentences, left_out)
    _show(tables, sentences, console)
    count = f"{len(networks)} of {len(plan.networks)} networks ranked"
    console.print(f"{count}; {computed} stages computed in {time.monotonic() - started:.0f} s", highlight=False)
    written = [page, *(folder / f"{name}.csv" for name in tables)]
    if figures is not None:
        from qprune.report.figures import write_figures

        written += write_figures(page, figures)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


def _compute(plan: RankPlan, store: Store, make_executor, console: Console) -> tuple[dict[str, str], int]:
    """Compute what is missing: label -> why it failed, and how many stages were computed."""
    todo = missing_stages(plan, store)
    users: dict[str, list[str]] = {}
    for name, stage in todo.items():
        for source in stage.inputs:
            users.setdefault(source, []).append(name)
    failed: dict[str, str] = {}
    for name in list(todo):
        if failure := store.failure(name):
            for lost in (name, *dependants(users, name)):
                failed[plan.stages[lost].label] = failure["reason"]
                todo.pop(lost, None)
    if not todo:
        return failed, 0
    computed = 0
    with make_executor(len(todo), store.folder) as executor, Progress(todo, console) as progress:

        def on_event(event: Event) -> None:
            nonlocal computed
            progress.show(event)
            computed += event.kind == "done" and event.made
            if event.kind == "failed":
                failed[plan.stages[event.stage].label] = event.reason

        run_stages(todo, executor, store, on_event, wanted=todo)
    return failed, computed


def _show(tables: dict, sentences: list[str], console: Console) -> None:
    spearman = tables["spearman"]
    for (model, data), group in spearman.groupby(["model", "data"], sort=False):
        for target, words in list(TARGETS.items())[:2]:
            part = group[group.target == target]
            seeds = int(part.seeds.max())
            console.print(
                f"{model} on {data}: Spearman's rank correlation with {words}, mean ± half of the 95% interval, {seeds} seed(s)",
                highlight=False,
                soft_wrap=True,
            )
            table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)  # narrow enough for 80 columns
            table.add_column("criterion", no_wrap=True)
            for _, heading in COLUMNS:
                table.add_column(heading, justify="right", min_width=len("-0.00 ±0.00"))
            for criterion, rows in part.groupby("criterion", sort=False):
                cells = rows.set_index("column")
                table.add_row(criterion, *(_entry(cells.loc[column]) for column, _ in COLUMNS))
            console.print(table)
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _entry(row) -> str:
    if row["mean"] != row["mean"]:
        return "-"
    spread = f" ±{(row.high - row.low) / 2:.2f}" if row.low == row.low else ""
    return f"{row['mean']:.2f}{spread}"
