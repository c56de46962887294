"""What the page shows of single cells: layers, training curves, and how sure the test images make an accuracy."""

from pathlib import Path

import numpy as np

from qprune.analysis.statistics import Interval, sampling_interval
from qprune.report.shared import Shared
from qprune.storage.correctness import correct_of
from qprune.storage.results import read_failure, read_record
from qprune.storage.store import Store

DETAILED_CELLS = 1000  # with layers and curves; more would make the page too large
CURVE_POINTS = 25  # of each stage's curve
# what cells have in common is kept once: those of a model, of a pruned shape, of a precision
LAYER_COLUMNS = {
    "structures": ("name", "type"),
    "shapes": ("channels_in", "channels_out", "macs", "weight_elements"),
    "bits": ("w_bits", "a_bits"),
}
LOG_LINES = 20  # of a failed cell's log, the last ones


def record_if_kept(folder: Path, cell: str) -> dict | None:
    """A cell's record; None where it is missing, as in a folder with the table alone. Raises Damaged."""
    try:
        return read_record(folder, cell)
    except FileNotFoundError:
        return None


def read_log(folder: Path, cell: str) -> str:
    """The end of what a failed cell had printed; "" where nothing is noted of it. Raises Damaged."""
    try:
        return "\n".join(read_failure(folder, cell)["log"].rstrip().splitlines()[-LOG_LINES:])
    except FileNotFoundError:
        return ""


def layer_tables(records: list[dict | None]) -> dict:
    """Layers of each record, with what cells have in common kept once.

    structures, shapes, bits: tables whose rows are layers, as columns; cells: per record its place in each, or None.
    """
    tables = {name: Shared() for name in LAYER_COLUMNS}
    cells: dict[str, list] = {name: [] for name in LAYER_COLUMNS}
    for record in records:
        layers = record and record.get("cost", {}).get("layers")
        for name, columns in LAYER_COLUMNS.items():
            table = {column: [layer.get(column) for layer in layers] for column in columns} if layers else None
            cells[name].append(table and tables[name].put(table))
    return {name: table.values for name, table in tables.items()} | {"cells": cells}


def curve_tables(stages: Path, records: list[dict | None]) -> dict:
    """Training curves of each record's stages. stages: the folder of stages beside the sweep's.

    Stages that are missing have none, as in a folder that was copied without them. Raises Damaged.
    curves: {"at": update of the first point within the cell's training, "step": updates between points, "loss": [...]};
    cells: per record the places of its curves, each with the phase of the training that it is of.
    """
    shared, reports, store = Shared(), {}, Store(stages)

    def report(stage: str) -> dict:
        if stage not in reports:
            reports[stage] = store.meta(stage) if store.done(stage) else {}
        return reports[stage]

    def line(record: dict) -> list[str]:
        """The stages that the cell's network went through, from the first on, each snapshot of a path by itself."""
        found: list[str] = []
        stage = list(record["stages"].values())[-1]["id"]
        while stage:
            found.insert(0, stage)
            stage = report(stage).get("continues")
        return found

    cells = []
    for record in records:
        places, start = [], 0
        reached: dict[str, int] = {}
        for stage in line(record) if record else []:
            for phase, curve in report(stage).get("curves", {}).items():
                if phase not in reached:  # it begins where the phases before it end
                    start = sum(reached.values())
                if thin := _thin(curve):
                    step = thin[1][0] - thin[0][0] if len(thin) > 1 else 1
                    losses = [float(f"{loss:.4g}") for _, loss in thin]
                    places.append([phase, shared.put({"at": start + thin[0][0], "step": step, "loss": losses})])
                reached[phase] = report(stage)["updates"][phase]
        cells.append(places)
    return {"curves": shared.values, "cells": cells}


def _thin(curve: list) -> list:
    """Every k-th point, so that at most CURVE_POINTS are left."""
    return curve[:: -(-len(curve) // CURVE_POINTS) or 1]


def correct_images(record: dict | None, part: str = "test") -> np.ndarray | None:
    """Which images of the split the cell's network got right, bool [images]."""
    try:
        return None if record is None else correct_of(record[part])
    except (KeyError, TypeError, ValueError):
        return None


def sampling_errors(cells, correct: dict[str, np.ndarray]) -> dict[tuple[str, float], Interval]:
    """(precision, ratio) -> test accuracy lost against the baseline, its interval by the finite number of test images.

    cells: of one study; correct: cell -> bool [images]. Seeds that lack one of both are left out; a place without any
    is missing.
    """
    done = cells[cells.status == "done"]
    baselines = done[(done.precision == "fp32") & (done.pruning_ratio == 0)]
    baseline = {
        seed: correct[cell] for cell, seed in zip(baselines.cell, baselines.seed, strict=True) if cell in correct
    }
    pairs: dict[tuple[str, float], list] = {}
    for cell, precision, ratio, seed in zip(done.cell, done.precision, done.pruning_ratio, done.seed, strict=True):
        if cell in correct and seed in baseline and correct[cell].shape == baseline[seed].shape:
            pairs.setdefault((precision, float(ratio)), []).append((baseline[seed], correct[cell]))
    return {
        place: sampling_interval(*(np.stack(part) for part in zip(*both, strict=True))) for place, both in pairs.items()
    }
