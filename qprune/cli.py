"""The command line: init, plan, sweep, status. Torch is imported only by the commands that need it."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="How much can a CNN be pruned when it also runs in low precision? Sweeps precision x pruning, fairly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
File = Annotated[Path, typer.Argument(help="The sweep file (YAML).", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: prune.ratios=[0,0.5]", metavar="KEY=VALUE")
]
Out = Annotated[
    Path, typer.Option(help="Folder for results: DIR/<name> for the sweep, DIR/stages for shared work.", metavar="DIR")
]


@app.command()
def init(file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("sweep.yaml")) -> None:
    """Write a commented sweep file."""
    from qprune.config import write_template

    write_template(file)
    print(f"wrote {file}; try: qprune plan {file}")


@app.command()
def plan(
    file: File,
    set: Settings = None,
    out: Out = Path("results"),
    cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
) -> None:
    """Show the cells and stages of a sweep, what is done, and what the rest will cost. Trains nothing."""
    from qprune.config import load_config

    config = load_config(file, set or [])
    os.environ["OMP_NUM_THREADS"] = "1"
    from rich.console import Console

    from qprune.forecast import show_plan

    show_plan(config, out, Console(), cells)


@app.command()
def sweep(
    file: File,
    set: Settings = None,
    out: Out = Path("results"),
    workers: Annotated[int, typer.Option(min=0, help="Worker processes (0: one per core).")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker; more helps large networks only.")] = 1,
) -> None:
    """Run a sweep, or go on with one that was interrupted."""
    from qprune.config import load_config

    config = load_config(file, set or [])
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = workers or max(1, len(os.sched_getaffinity(0)) // threads)
    try:
        from rich.console import Console

        from qprune.sweep import run_sweep

        code = run_sweep(config, out, workers, threads, Console())
    except KeyboardInterrupt:
        again = shlex.join(["qprune", *sys.argv[1:]])
        print(f"\nstopped; finished stages are kept. To go on: {again}", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, e.g. results/quickstart.", metavar="DIR")],
) -> None:
    """Show how far a sweep is."""
    from rich.console import Console

    from qprune.records import read_cells
    from qprune.tables import accuracy_tables

    cells = read_cells(folder)
    console = Console()
    for table in accuracy_tables(cells):
        console.print(table)
    counts = cells.status.value_counts()
    console.print(", ".join(f"{counts.get(name, 0)} {name}" for name in ("done", "failed", "pending")), highlight=False)


def main() -> None:
    """Entry point: errors that a user can mend are printed without a traceback, exit code 2."""
    from qprune.errors import UserError

    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
