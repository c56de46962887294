"""The cells of a sweep with all that was measured of them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from qprune.deploy.exports import FILE, LATENCY_FILE, read_file_bytes
from qprune.registry.user_code import is_user_code
from qprune.report.details import correct_images, record_if_kept
from qprune.storage.results import read_cells, read_sweep_file


def read_measured(folder: Path):
    """cells.csv as a DataFrame, with `latency_ms` and `speedup` where qprune bench has measured them (batch 1), and
    `file_bytes_<format>` where qprune export has written the file.

    Raises UserError for a folder that isn't a sweep's.
    """
    cells = read_cells(folder)
    if (Path(folder) / LATENCY_FILE).is_file():
        from qprune.deploy.latency import read_latency

        cells = cells.join(read_latency(folder), on="cell")
    if (Path(folder) / FILE).is_file():
        cells = cells.join(read_file_bytes(folder), on="cell")
    return cells


def measured_how(folder: Path) -> dict[str, list[str]]:
    """Of columns that are measured on a machine: how, and how many cells, e.g. "onnxruntime, batch 1, 1 thread(s), on
    AMD ..., 2 cores: 8 cells"."""
    if not (Path(folder) / LATENCY_FILE).is_file():
        return {}
    from qprune.deploy.latency import read_latency

    names = ("runtime", "batch", "threads", "machine")
    found = read_latency(folder, columns=names)
    how: dict[str, list[str]] = {}
    for device in dict.fromkeys(column.partition("@")[2] for column in found):
        end = f"@{device}" if device else ""
        own = found[[f"{name}{end}" for name in names]].dropna().value_counts(sort=False)
        ways = [
            f"{runtime}, batch {batch:.0f}, {threads:.0f} thread(s), on {machine}: {count} cell(s)"
            for (runtime, batch, threads, machine), count in own.items()
        ]
        how |= dict.fromkeys((f"latency_ms{end}", f"speedup{end}"), ways)
    return how


def own_code(folder: Path) -> tuple[str, ...]:
    """The user's own networks and data sets (module:function) in a sweep's file, which an export has to trust."""
    settings = read_sweep_file(folder).get("settings", {}) if (folder / "sweep.json").is_file() else {}
    named = (one["name"] for section in ("model", "data") for one in settings.get(section, ()))
    return tuple(dict.fromkeys(name for name in named if is_user_code(name)))


def export_arguments(folder: Path, cell: str) -> list[str]:
    """Of the command that exports a cell."""
    trust = [word for name in own_code(folder) for word in ("--trust", name)]
    return ["qprune", "export", str(folder), cell, "--format", "onnx", *trust]


def correct_in(folder: Path) -> Callable[[str, str, str], np.ndarray | None]:
    """What analysis.gains asks for, of the one sweep in a folder, read from its records when it is asked."""

    @cache
    def record(cell: str) -> dict | None:
        return record_if_kept(folder, cell)

    return lambda sweep, cell, split: correct_images(record(cell), split)
