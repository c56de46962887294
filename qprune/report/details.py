"""What the page shows of single cells: layers, training curves, and how sure the test images make an accuracy."""

import json
from pathlib import Path

import numpy as np

from qprune.analysis.statistics import Interval, sampling_interval
from qprune.storage.correctness import unpack_bits
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
# of the reports of: dense, each snapshot of the path, recover, recover, quantize
CURVES = ("curve", "curve", "curve_prune", "curve_finetune", "curve")


class Shared:
    """Values kept once: put() gives a value's place in `values`."""

    def __init__(self):
        self.values, self._places = [], {}

    def put(self, value) -> int:
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


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
    cells: per record the places of its curves, with the part of the training that each is of.
    """
    shared, reports, store = Shared(), {}, Store(stages)

    def report(stage: str) -> dict:
        if stage not in reports:
            reports[stage] = store.meta(stage) if store.done(stage) else {}
        return reports[stage]

    def path_chain(stage: str) -> list[str]:
        """The snapshots of a path up to this one, the first one first."""
        chain = [stage]
        while (source := next(iter(report(chain[0]).get("inputs", [])), "")).startswith("path-"):
            chain.insert(0, source)
        return chain

    def pieces(record: dict) -> list[tuple[int, str, int]]:
        """(place in CURVES, stage, the update of the cell's training at which the stage's curve begins)."""
        ids = {kind: stage["id"] for kind, stage in record["stages"].items()}
        chain = path_chain(ids["path"]) if "path" in ids else []
        dense = record["updates_dense"]
        quantized_first = record.get("method") == "quantize_first"  # older records don't say, and are prune_first
        start = dense + quantized_first * record["updates_quantize"]  # of the pruning
        pruned = start + record["updates_prune"]
        walked = [start + report(stage).get("updates", 0) for stage in chain]  # where each snapshot ends
        path = [(1, stage, begin) for stage, begin in zip(chain, [start, *walked], strict=False)]
        path += [(2, ids["recover"], walked[-1] if chain else start), (3, ids["recover"], pruned)]
        quantize = (4, ids["quantize"], dense if quantized_first else pruned + record["updates_finetune"])
        rest = [quantize, *path] if quantized_first else [*path, quantize]
        return [(0, ids["dense"], 0), *rest]

    cells = []
    for record in records:
        places = []
        for part, stage, start in pieces(record) if record else []:
            curve = _thin(report(stage).get(CURVES[part]) or [])
            if curve:
                step = curve[1][0] - curve[0][0] if len(curve) > 1 else 1
                losses = [float(f"{loss:.4g}") for _, loss in curve]
                places.append([part, shared.put({"at": start + curve[0][0], "step": step, "loss": losses})])
        cells.append(places)
    return {"curves": shared.values, "cells": cells}


def _thin(curve: list) -> list:
    """Every k-th point, so that at most CURVE_POINTS are left."""
    return curve[:: -(-len(curve) // CURVE_POINTS) or 1]


def correct_images(record: dict | None, part: str = "test") -> np.ndarray | None:
    """Which images of the split the cell's network got right, bool [images]."""
    try:
        return unpack_bits(record[part]["correct"], record[part]["images"])
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
