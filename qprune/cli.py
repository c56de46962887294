"""The command line. Torch is imported only by the commands that need it."""

import os
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from qprune import stopping

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
File = Annotated[Path, typer.Argument(help="The sweep file (YAML).", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: prune.ratios=[0,0.5]", metavar="KEY=VALUE")
]
Where = Literal["local", "ray"]
Out = Annotated[
    Path, typer.Option(help="Folder for results: DIR/<name> for the sweep, DIR/stages for shared work.", metavar="DIR")
]


def _use_cache(folder: Path | None) -> Path | None:
    if folder is not None:
        os.environ["QPRUNE_CACHE"] = str(folder.expanduser().resolve())  # for workers, too
    return folder


Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder for decoded pictures (default: $QPRUNE_CACHE, else ~/.cache/qprune/cache).",
        metavar="DIR", callback=_use_cache, show_default=False,
    ),
]  # fmt: skip


def _show_version(asked: bool) -> None:
    if asked:
        from platform import python_version

        from qprune import __version__

        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "brevitas"))
        print(f"qprune {__version__} (Python {python_version()}, {packages})")
        raise typer.Exit


@app.callback()
def start(
    show: Annotated[
        bool, typer.Option("--version", help="Show the versions and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """How much can a CNN be pruned when it also runs in low precision? Sweeps precision x pruning, fairly."""


@app.command()
def init(file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("sweep.yaml")) -> None:
    """Write a commented sweep file."""
    from qprune.settings.config import write_template

    write_template(file)
    print(f"wrote {file}; try: qprune plan {file}")


@app.command()
def plan(
    file: File,
    set: Settings = None,
    out: Out = Path("results"),
    cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
    fit: Annotated[
        str | None,
        typer.Option(metavar="8h", show_default=False, help="Say which budget, seeds or ratios fit so long."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes to reckon with (0: one per core).")] = 0,
    exports: Annotated[
        bool, typer.Option("--exports", help="Try each network in every export format, not in ONNX alone.")
    ] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Time updates although this machine's times are kept.")] = False,
    cache: Cache = None,
) -> None:
    """Show the cells and stages of a sweep, what is done, and what the rest will cost. Trains nothing."""
    from qprune.registry.duration import seconds_of
    from qprune.registry.errors import UserError
    from qprune.settings.config import load_config

    seconds = None if fit is None else seconds_of(fit, "--fit")
    if cells and fit is not None:
        raise UserError("--cells lists what a sweep has, --fit what would fit instead; give one of the two")
    if exports and fit is not None:
        raise UserError("--exports tries what a sweep has, --fit says what would fit instead; give one of the two")
    config = load_config(file, set or [])
    os.environ["OMP_NUM_THREADS"] = "1"
    from rich.console import Console

    if seconds is not None:
        from qprune.sweep.fit import show_fits

        show_fits(config, out, seconds, workers or len(os.sched_getaffinity(0)), Console(), anew)
        return

    from qprune.sweep.forecast import show_plan

    show_plan(config, out, Console(), cells, workers, exports, anew)


@app.command()
def data(
    file: File,
    set: Settings = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", show_default=False, help="Write the list of files: split,class,label,file."
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default=False, help="Write images that are no picture files as PNG, and the list."
        ),
    ] = None,
    cache: Cache = None,
) -> None:
    """Show the splits of a sweep's data, images per class, how pictures become the network's input, and their files."""
    from qprune.settings.config import load_config

    config = load_config(file, set or [])
    os.environ["OMP_NUM_THREADS"] = "1"
    from rich.console import Console

    from qprune.sweep.data_files import show_data

    show_data(config, csv, write, Console())


@app.command(name="cache")
def show_cache(
    check: Annotated[bool, typer.Option("--check", help="Read all and delete what is damaged.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Delete all; sweeps decode their pictures anew.")] = False,
    cache: Cache = None,
) -> None:
    """List the decoded pictures that are kept on this machine for the next sweep."""
    from qprune.data.cache_command import cache_command

    raise typer.Exit(cache_command(check, clear))


Workers = Annotated[int, typer.Option(min=0, help="Worker processes (0: one per core).")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each worker; more helps large networks only.")]
On = Annotated[Where, typer.Option(help="local: processes on this machine; ray: a Ray cluster.")]
Address = Annotated[str | None, typer.Option(help="The Ray cluster's (default: one started here).", show_default=False)]
GpuShare = Annotated[float, typer.Option(min=0.01, max=1.0, help="Of a GPU, for each stage on Ray.")]
Figures = Annotated[
    Path | None, typer.Option(help="Also write the charts there as SVG and PNG.", metavar="DIR", show_default=False)
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")]


@app.command()
def sweep(
    file: File,
    set: Settings = None,
    out: Out = Path("results"),
    workers: Workers = 0,
    threads: Threads = 1,
    executor: On = "local",
    address: Address = None,
    gpu_share: GpuShare = 0.25,
    retry_failed: Retry = False,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="8h", show_default=False, help="Start no stage after so long (8h, 90m, 1h30m)."),
    ] = None,
    cache: Cache = None,
) -> None:
    """Run a sweep, or go on with one that was interrupted. Several at once on one folder share the work."""

    from qprune.registry.duration import seconds_of

    seconds = None if for_ is None else seconds_of(for_, "--for")
    make_executor = _executors(workers, threads, executor, address, gpu_share)

    def run(config, console) -> int:
        from qprune.sweep.run import run_sweep

        return run_sweep(config, out, make_executor, console, retry_failed, seconds)

    _run_stoppable(file, set, run)


@app.command()
def rank(
    file: File,
    set: Settings = None,
    out: Out = Path("results"),
    figures: Figures = None,
    workers: Workers = 0,
    threads: Threads = 1,
    executor: On = "local",
    address: Address = None,
    gpu_share: GpuShare = 0.25,
    retry_failed: Retry = False,
    cache: Cache = None,
) -> None:
    """Hold every criterion against the brute-force oracle in a sweep's dense networks; goes on where it was interrupted."""

    make_executor = _executors(workers, threads, executor, address, gpu_share)

    def run(config, console) -> int:
        from qprune.ranking.run import run_rank

        return run_rank(config, out, make_executor, console, retry_failed, figures)

    _run_stoppable(file, set, run)


def _executors(workers: int, threads: int, executor: Where, address: str | None, gpu_share: float):
    """(number of stages, folder of the store) -> Executor, as asked for."""

    def make_executor(stages: int, store_folder: Path):
        if executor == "ray":
            from qprune.executors.ray_tasks import RayExecutor

            return RayExecutor(threads, store_folder, address, gpu_share)
        from qprune.executors.local import LocalExecutor

        most = workers or max(1, len(os.sched_getaffinity(0)) // threads)
        return LocalExecutor(min(most, stages), threads, store_folder)

    return make_executor


def _run_stoppable(file: Path, overrides: list[str] | None, run: Callable) -> None:
    """Run a sweep file, by (config, console) -> exit code, and exit with that code; where it is stopped, say how to go on."""
    told = f"stopped; finished stages are kept. To go on: {shlex.join(['qprune', *sys.argv[1:]])}"
    stopping.heed(told)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from qprune.settings.config import load_config

        config = load_config(file, overrides or [])
        from rich.console import Console

        code = run(config, Console())
    except KeyboardInterrupt:
        stopping.say(told)
        code = stopping.exit_code()
    raise typer.Exit(code)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, e.g. results/quickstart.", metavar="DIR")],
) -> None:
    """Show how far a sweep is."""
    from rich.console import Console

    from qprune.analysis.tables import accuracy_tables
    from qprune.storage.results import read_cells

    cells = read_cells(folder)
    console = Console()
    for table in accuracy_tables(cells):
        console.print(table)
    counts = cells.status.value_counts()
    names = ("done", "failed", "pending", *(["skipped"] if "skipped" in counts else []))
    console.print(", ".join(f"{counts.get(name, 0)} {name}" for name in names), highlight=False)


Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust", help="Code of your own that the cell's network or data is made by.", metavar="MODULE:FUNCTION"
    ),
]


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, e.g. results/quickstart.", metavar="DIR")],
    cell: Annotated[str, typer.Argument(help="As in the column `cell`.")],
    format: Annotated[str, typer.Option(help="onnx, qonnx, torch or pt2.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write it (default: DIR/exports/CELL.*).", show_default=False)
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            help="Largest ONNX opset to use: 17 (weights in INT8), 21 (INT4, the default) or 25 (INT2).",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    trust: Trust = None,
    embed_preprocessing: Annotated[
        bool,
        typer.Option(
            "--embed-preprocessing", help="onnx: take uint8 pictures [batch, h, w, 3] of any size; resize inside."
        ),
    ] = False,
    cache: Cache = None,
) -> None:
    """Write a cell's network for another runtime, and check it there on all test images (exit code 4: it differs)."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from qprune.deploy.commands import export_command

    raise typer.Exit(export_command(folder, cell, format, output, trust or [], opset, embed_preprocessing))


@app.command()
def bench(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, e.g. results/quickstart.", metavar="DIR")],
    cells: Annotated[
        list[str] | None,
        typer.Argument(help="Cells (default: those on the fronts of its precisions).", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each runtime.")] = 1,
    batch: Annotated[str, typer.Option(help="Batch sizes.", metavar="N,N")] = "1,32",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 15,
    kit: Annotated[
        Path | None,
        typer.Option(
            help="Write a folder that measures on another device, instead.", metavar="FOLDER", show_default=False
        ),
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option("--import", help="Take in the table that such a folder made.", metavar="CSV", show_default=False),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", help="The device's name (default: the file's).", metavar="NAME", show_default=False),
    ] = None,
    trust: Trust = None,
    cache: Cache = None,
) -> None:
    """Measure latency against dense FP32, in PyTorch and ONNX Runtime; adds to DIR/latency.csv."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from qprune.deploy.commands import batch_sizes, bench_command, import_command
    from qprune.registry.errors import UserError

    if as_ is not None and import_ is None:
        raise UserError("--as names the device of a table; give it with --import")
    if import_ is not None and (kit is not None or cells):
        raise UserError("--import takes in what was measured elsewhere; give neither cells nor --kit with it")
    if import_ is not None:
        for option in ("threads", "batch", "rounds"):
            if (source := context.get_parameter_source(option)) and source.name != "DEFAULT":
                raise UserError(f"--{option} was settled where {import_} was measured; leave it out with --import")
        raise typer.Exit(import_command(folder, import_, as_))
    raise typer.Exit(bench_command(folder, cells, batch_sizes(batch), threads, rounds, trust or [], kit))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, e.g. results/quickstart.", metavar="DIR")],
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    figures: Figures = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="Also print what the studies answer, as Markdown.")
    ] = False,
) -> None:
    """Write DIR/report.html: one page with all results, that works offline."""
    from qprune.report.commands import report_command

    report_command(folder, open_page, figures, answers)


@app.command()
def pick(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, e.g. results/quickstart.", metavar="DIR")],
    max: Annotated[
        list[str] | None, typer.Option(help="Largest cost: bit_gflops=0.5, weight_bytes=200k.", metavar="COLUMN=NUMBER")
    ] = None,
    min: Annotated[
        list[str] | None,
        typer.Option(help="Smallest mean accuracy: val_accuracy=0.95, val_least_recall=0.8.", metavar="COLUMN=NUMBER"),
    ] = None,
    prefer: Annotated[str, typer.Option(help="most-accurate, cheapest, cheapest-within or knee.")] = "most-accurate",
    max_drop: Annotated[
        str | None,
        typer.Option(
            help="Most percentage points of validation accuracy under the baseline's.",
            metavar="POINTS",
            show_default=False,
        ),
    ] = None,
    cost: Annotated[str, typer.Option(help="What cheapest and knee go by.")] = "bit_gflops",
    data: Annotated[str | None, typer.Option(help="Of several data sets, this one.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Of several models, this one only.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose an operating point by limits on cost and validation accuracy (exit code 3: nothing fits)."""
    from qprune.report.pick_command import pick_command

    raise typer.Exit(pick_command(folder, max or [], min or [], prefer, as_json, cost, data, model, max_drop))


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of sweeps: two or more, or one with --published.", metavar="DIR ...")
    ],
    output: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("compare.html"),
    answers: Annotated[
        bool, typer.Option("--answers", help="Also print, as Markdown, how each differs from the first.")
    ] = False,
    published: Annotated[
        list[Path] | None,
        typer.Option(help="Also show these results of papers (a table).", metavar="FILE", show_default=False),
    ] = None,
    figures: Figures = None,
) -> None:
    """Put several sweeps on one page, and print the hypervolume of each; with --published, beside results of papers."""
    from qprune.report.commands import compare_command

    compare_command(folders, output, answers, published or [], figures)


def main() -> None:
    """Entry point: errors that a user can mend are printed without a traceback, exit code 2."""
    from qprune.registry.errors import UserError

    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
