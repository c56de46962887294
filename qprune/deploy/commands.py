"""`qprune export` and `qprune bench`: checks what can be checked without torch, does it, prints it."""

from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import Any

from qprune.deploy.formats import FORMATS, NARROWEST, check_pair
from qprune.precision import PRECISIONS
from qprune.registry.errors import UserError

EMBEDDED = ".uint8"  # in the name of a file that takes pictures of bytes
UNVERIFIED = 4  # exit code of an export that doesn't agree with the evaluated network


def export_command(
    folder: Path,
    cell: str,
    format: str,
    output: Path | None = None,
    trust: Collection[str] = (),
    opset: int | None = None,
    embed_preprocessing: bool = False,
) -> int:
    """Export a cell and print path, size, accuracy and agreement. Returns 0, or 4 where the file failed its check.

    opset: the largest that an ONNX file may need (None: qprune.deploy.onnx_file.DEFAULT_OPSET); embed_preprocessing: write a
    graph that takes uint8 pictures of any size (onnx), by default as CELL.uint8.onnx.
    """
    form = FORMATS.get(format)
    options: dict[str, Any] = {} if opset is None else {"opset": _checked_opset(opset, form.name)}
    folder = Path(folder)
    if embed_preprocessing and form.name != "onnx":
        raise UserError(f"--embed-preprocessing is there for --format onnx, not for {form.name}")
    if embed_preprocessing and opset == min(NARROWEST):
        raise UserError(
            f"--opset {opset}: its Resize can't do what --embed-preprocessing needs; leave one of the two out"
        )
    from qprune.deploy.cells import open_cell, read_record, with_pictures

    check_pair(form, PRECISIONS.get(read_record(folder, cell)["precision"]).name, cell)
    module = form.load()
    path = (
        folder / "exports" / f"{cell}{EMBEDDED if embed_preprocessing else ''}{module.SUFFIX}"
        if output is None
        else Path(output)
    )
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; name a file, such as {path / (cell + module.SUFFIX)}")
    if path.suffix == ".json":
        raise UserError(f"--output {path}: what is said of the file goes there; end it in {module.SUFFIX}")
    if output is not None and not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}; make it first")
    from qprune.deploy.check import REQUIRED_AGREEMENT
    from qprune.deploy.export import export_cell
    from qprune.deploy.exports import note_export
    from qprune.deploy.sidecar import write_sidecar

    opened = open_cell(folder, cell, trust)
    if embed_preprocessing:
        opened = with_pictures(folder, opened)
    exported = export_cell(opened, form, path, **options)
    parity = exported.parity
    print(f"{exported.path} ({_size(exported.size)})")
    assert parity.accuracy is not None and parity.evaluated_accuracy is not None  # a cell's test images have labels
    print(
        f"{form.name}, {opened.spec.precision}, {parity.images} test images: accuracy {100 * parity.accuracy:.2f}%, "
        f"evaluated network {100 * parity.evaluated_accuracy:.2f}%, top-1 agreement {100 * parity.agreement:.2f}%, "
        f"largest difference of a logit {parity.largest:.2g}"
    )
    if parity.evaluated_accuracy != opened.record["accuracy"]:
        recorded = f"{100 * opened.record['accuracy']:.2f}%"
        print(f"note: the network's record says {recorded}: its kernels differ on this machine, or its data changed")
    if parity.holds:
        if output is None and not embed_preprocessing:  # whose bytes hold a resizer too
            note_export(folder, opened.record, form, exported)
        print(f"preprocessing, classes, versions: {write_sidecar(opened, form, exported.path, parity)}")
        return 0
    if not parity.is_recorded:
        assert parity.recorded is not None
        print(
            f"error: here the network answers {100 * parity.recorded:.1f}% of the test images as it did when it was evaluated: "
            f"its data or a library has changed. The file is left as {exported.path.name}; run the sweep again"
        )
        return UNVERIFIED
    print(
        f"error: the file disagrees with the evaluated network on more than {100 * (1 - REQUIRED_AGREEMENT):.0f}% of "
        f"the test images, and is left as {exported.path.name}; --format torch gives the evaluated network itself"
    )
    return UNVERIFIED


def _checked_opset(opset: int, format: str) -> int:
    if format != "onnx":
        raise UserError(f"--opset {opset}: a file of format {format} has none to choose; it goes with --format onnx")
    if opset not in NARROWEST:
        raise UserError(f"--opset {opset}: give one of {', '.join(map(str, NARROWEST))}")
    return opset


def bench_command(
    folder: Path,
    cells: list[str] | None = None,
    batches: tuple[int, ...] = (1, 32),
    threads: int = 1,
    rounds: int = 15,
    trust: Collection[str] = (),
    kit: Path | None = None,
) -> int:
    """Time cells (default: those on the front) against their dense FP32 network; print and keep DIR/latency.csv.

    kit: a folder to be written for another device, instead.
    """
    folder = Path(folder)
    if kit is not None:
        return _write_kit(folder, cells or _one_of_each_point(folder), Path(kit), trust, batches, threads, rounds)
    from qprune.registry.packages import have

    runtimes = ("torch", "onnxruntime") if have(*FORMATS.get("onnx").packages) else ("torch",)
    from qprune.deploy.cells import open_cell
    from qprune.deploy.latency import EMULATED, measure, write_latency

    opened = [open_cell(folder, cell, trust) for cell in dict.fromkeys(cells or _front(folder).cell)]
    emulated = [cell for cell in opened if not PRECISIONS.get(cell.spec.precision).timed]
    if "onnxruntime" not in runtimes:
        print("note: ONNX Runtime is not installed (pip install 'qprune[onnx]'): only PyTorch is timed")
        opened = [cell for cell in opened if cell not in emulated]
        for cell in emulated:
            print(f"not timed: {cell.name}: {cell.spec.precision} is {EMULATED}")
        if not opened:
            raise UserError("nothing to time: install ONNX Runtime with pip install 'qprune[onnx]'")
    elif emulated:
        print(f"note: {', '.join(sorted({cell.spec.precision for cell in emulated}))} {EMULATED}: ONNX Runtime only")
    why: dict[str, list[str]] = {}
    rows = measure(opened, tuple(batches), threads, rounds, runtimes, why.__setitem__)
    _show(rows, threads, rounds)
    for name, sentences in why.items():
        for sentence in sentences:
            print(f"{name}: {sentence}")
    print(f"-> {write_latency(folder, rows)} (for the page: qprune report {folder})")
    return 0


def _write_kit(folder: Path, cells: list[str], kit: Path, trust: Collection[str], *measured) -> int:
    FORMATS.get("onnx").require()
    from qprune.deploy.cells import open_cell
    from qprune.deploy.kit import write_kit

    opened = [open_cell(folder, cell, trust) for cell in dict.fromkeys(cells)]
    for path in write_kit(opened, kit, *measured):
        print(f"{path} ({_size(path.stat().st_size)})")
    print(
        f"copy {kit} to the device and run there: python bench.py (it needs numpy and onnxruntime); then here: "
        f"qprune bench {folder} --import latency.csv --as NAME"
    )
    return 0


def import_command(folder: Path, table: Path, device: str | None) -> int:
    """Take in what a kit's bench.py measured on another device, by the device's name; prints where it is."""
    from qprune.deploy.kit import import_latency

    name = Path(table).stem if device is None else device
    print(f"-> {import_latency(Path(folder), Path(table), name)}: columns latency_ms@{name} and speedup@{name}")
    print(
        f"for the page: qprune report {folder}; to choose: qprune pick {folder} --prefer cheapest --cost latency_ms@{name}"
    )
    return 0


def _front(folder: Path):
    """The rows of the cells on the fronts of a sweep's precisions whose networks were kept: what is fast on a device isn't always what
    has the fewest bit-weighted operations."""
    from qprune.analysis.front import front_cells
    from qprune.storage.results import network_file, read_cells

    table = read_cells(folder)
    on_front = set().union(*(front_cells(some) for _, some in table.groupby("precision")))
    kept = table[[cell in on_front and network_file(folder, cell).is_file() for cell in table.cell]]
    if kept.empty:
        raise UserError(f"{folder} has no network of a cell on its front: `keep: none` keeps none; use front or all")
    return kept


def _one_of_each_point(folder: Path) -> list[str]:
    """Of the cells on the fronts, the one of each point that pick would hand over first."""
    from qprune.analysis.front import POINT, from_the_median

    return list(from_the_median(_front(folder)).drop_duplicates(POINT).cell)


def _show(rows: list[dict], threads: int, rounds: int) -> None:
    print(
        f"latency of one batch: median (quartiles) of {rounds} interleaved rounds, {threads} thread(s);\n"
        "speedup: against dense FP32 in the same runtime and run"
    )
    for cell, of_cell in groupby(sorted(rows, key=lambda row: row["cell"]), key=lambda row: row["cell"]):
        print(cell)
        for row in of_cell:
            times = f"{row['latency_ms']:.3g} ({row['latency_ms_q1']:.3g}..{row['latency_ms_q3']:.3g}) ms"
            print(
                f"  {row['runtime']:<11} batch {row['batch']:<3} {times:<29} {row['images_per_second']:>7.0f} images/s  "
                f"{row['speedup']:.2f}x  {row['arithmetic']}"
            )


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def batch_sizes(text: str) -> tuple[int, ...]:
    """ "1,32" -> (1, 32). Raises UserError for anything that isn't whole numbers from 1 on."""
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise UserError(f"--batch {text}: give whole numbers from 1 on, such as 1,32")
    return tuple(dict.fromkeys(map(int, sizes)))
