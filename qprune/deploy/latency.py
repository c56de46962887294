"""Measured latency of cells against their dense FP32 network, in PyTorch and ONNX Runtime, in one interleaved run.

A time counts only for arithmetic that really runs: PyTorch is timed for fp32 and int8 (torch.ao's integer kernels), as
PrecisionEntry.timed says; what is emulated there in FP32 is timed in ONNX Runtime alone, and `arithmetic` says how many
of the layers its optimised graph runs on integer kernels.
"""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from qprune.cost import count_cost
from qprune.deploy import onnx_file
from qprune.deploy.cells import DeployedCell
from qprune.deploy.exports import LATENCY_FILE, TEXTS
from qprune.deploy.kit_bench import arithmetic, figures, interleaved, open_session, processor, profile_of, reasons
from qprune.precision import PRECISIONS
from qprune.registry.errors import UserError
from qprune.registry.packages import versions_of
from qprune.storage.durable import write_whole
from qprune.storage.sealed_table import read_table as read_checked
from qprune.storage.sealed_table import sealed_table

FILE = LATENCY_FILE
COLUMNS = (
    "cell", "precision", "runtime", "arithmetic", "batch", "threads", "latency_ms", "latency_ms_q1", "latency_ms_q3",
    "images_per_second", "dense_latency_ms", "speedup", "speedup_q1", "speedup_q3", "rounds", "machine", "versions", "device", "network_sha256",
)  # fmt: skip
HERE = ""  # the device of what was measured where the sweep is; other devices have names
KEY = ["device", "cell", "runtime", "batch", "threads"]
EMULATED = "emulated in FP32 by PyTorch, so not timed there"


Tell = Callable[[str, list[str]], object]  # is told a cell, and why it isn't faster


@dataclass(frozen=True)
class Subject:
    """Something to time. dense: the subject of the same runtime that it is compared with (itself: a reference)."""

    cell: str
    precision: str
    runtime: str
    arithmetic: str
    dense: str
    run: Callable[[Tensor], object]

    @property
    def name(self) -> str:
        return f"{self.cell} {self.runtime}"


def subjects_of(
    cell: DeployedCell, reference: str, folder: Path, threads: int, runtimes: tuple[str, ...], tell: Tell | None = None
) -> list[Subject]:
    """What can be timed of a cell. reference: the cell name of its dense network; folder: for files; tell: as for measure."""
    found = []
    entry = PRECISIONS.get(cell.spec.precision)
    if "torch" in runtimes and entry.timed:
        found.append(Subject(cell.name, entry.name, "torch", entry.timed, f"{reference} torch", cell.network))
    if "onnxruntime" in runtimes:
        path = folder / "network.onnx"
        onnx_file.write(cell, path)
        profile = profile_of(path, batch_of(cell.test.images, 1).numpy(), threads)
        if tell is not None:
            layers = count_cost(cell.network, cell.spec.image_shape).layers[:-1]
            tell(
                cell.name, reasons(profile, entry.weights == "integer", {one.name: one.channels_out for one in layers})
            )
        run, how = onnx_file.run_of(open_session(path, threads)), arithmetic(entry.weights, profile)
        found.append(Subject(cell.name, entry.name, "onnxruntime", how, f"{reference} onnxruntime", run))
    return found


def dense_of(cell: DeployedCell) -> DeployedCell:
    """The sweep's network, unpruned, in FP32, its weights random: the reference of the cell's times."""
    spec = dataclasses.replace(cell.dense or cell.spec, widths={}, precision="fp32")
    name = f"dense fp32 {cell.record['model']} {cell.record['data']}"
    return dataclasses.replace(cell, name=name, spec=spec, network=spec.build().eval())


def measure(
    cells: list[DeployedCell],
    batches: tuple[int, ...],
    threads: int,
    rounds: int,
    runtimes: tuple[str, ...],
    tell: Tell | None = None,
) -> list[dict]:
    """Rows as in COLUMNS: each cell in each runtime at each batch size, on its test images. `threads`: of each runtime; tell: is
    told of each ONNX file why it isn't faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="qprune-bench-") as folder, torch.no_grad():
            return _measure(cells, batches, threads, rounds, runtimes, Path(folder), tell)
    finally:
        torch.set_num_threads(before)


def _measure(cells, batches, threads, rounds, runtimes, folder: Path, tell: Tell | None) -> list[dict]:
    subjects: dict[str, Subject] = {}
    images: dict[str, Tensor] = {}
    sha256_of = {cell.name: cell.record.get("network_sha256") for cell in cells}  # of one's own network, none
    for cell in cells:
        reference = dense_of(cell)
        for one in (reference, cell):
            if one.name in images:
                continue
            for subject in subjects_of(one, reference.name, folder, threads, runtimes, tell if one is cell else None):
                subjects[subject.name] = subject
            images[one.name] = cell.test.images
    machine = f"{processor()}, {os.cpu_count()} cores"
    versions = versions_of(("torch", *(runtime for runtime in runtimes if runtime != "torch")))
    rows = []
    for batch in batches:
        inputs = {name: batch_of(images[subject.cell], batch) for name, subject in subjects.items()}
        actions: dict[str, Callable[[], object]] = {
            name: partial(subject.run, inputs[name]) for name, subject in subjects.items()
        }
        seconds = interleaved(actions, rounds)
        for name, subject in subjects.items():
            if subject.dense == name:
                continue
            dense = seconds[subject.dense]
            rows.append(
                {
                    "cell": subject.cell,
                    "precision": subject.precision,
                    "runtime": subject.runtime,
                    "arithmetic": subject.arithmetic,
                    "batch": batch,
                    "threads": threads,
                    **figures(seconds[name], batch, dense),
                    "dense_latency_ms": 1e3 * statistics.median(dense),
                    "rounds": rounds,
                    "machine": machine,
                    "versions": versions,
                    "device": HERE,
                    "network_sha256": sha256_of[subject.cell],
                }
            )
    return rows


def batch_of(images: Tensor, size: int) -> Tensor:
    """`size` images as float in 0..1; repeated where there are fewer."""
    index = torch.arange(size) % len(images)
    return images[index].float().div_(255)


def write_latency(folder: Path, rows: list[dict]) -> Path:
    """Put rows into DIR/latency.csv, in place of older ones of the same device, cell, runtime, batch and threads."""
    import pandas as pd

    path = Path(folder) / FILE
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if path.is_file():
        table = pd.concat([read_table(path), table]).drop_duplicates(KEY, keep="last")
    write_whole(path, sealed_table(table.to_csv(index=False, float_format="%.6g")))
    return path


def read_table(path: Path):
    """A latency.csv as a DataFrame. An old one lacks the checksums of the networks, an older one also `device`: it is of this
    machine alone. Raises UserError where it is none, Damaged where a row is not what was written."""
    table = read_checked(path, "delete it and run qprune bench again", TEXTS)
    for column, value in (("device", HERE), ("network_sha256", None)):
        if column not in table and list(table.columns) == list(COLUMNS[: len(table.columns)]):
            table[column] = value
    if list(table.columns) != list(COLUMNS):
        raise UserError(f"{path} has other columns than qprune bench writes; delete it and run qprune bench again")
    return table


def read_latency(folder: str | Path, batch: int = 1, columns: Sequence[str] = ("latency_ms", "speedup")):
    """What was measured of a sweep's cells, by cell: a DataFrame of these columns, and as <column>@NAME of each device whose
    times were imported; empty where nothing was measured.

    Of a cell measured in several ways: ONNX Runtime before PyTorch, then the fewest threads.
    """
    import pandas as pd

    path = Path(folder) / FILE
    table = read_table(path) if path.is_file() else pd.DataFrame(columns=list(COLUMNS))
    table = table[table.batch == batch].sort_values(["runtime", "threads"], kind="stable")  # o(nnxruntime) < t(orch)
    parts = []
    for device in dict.fromkeys([HERE, *table.device]):
        own = table[table.device == device].drop_duplicates("cell").set_index("cell")[list(columns)]
        parts.append(own.add_suffix(f"@{device}") if device else own)
    return pd.concat(parts, axis=1)
