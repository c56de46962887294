"""A sweep's results folder: where its files lie, and their readers, which check that they are what was written."""

import hashlib
from pathlib import Path

from qprune.registry.errors import UserError
from qprune.storage.seal import Damaged, read_sealed_json
from qprune.storage.sealed_table import read_table

COLUMNS = (
    "cell", "sweep", "model", "data", "criterion", "precision", "pruning_ratio", "achieved_ratio", "seed", "status",
    "accuracy", "val_accuracy", "test_loss", "val_loss", "dense_accuracy", "baseline_accuracy",
    "macs", "gflops", "bit_gflops", "linear_gflops", "gbops", "gbops_acc", "relative_bops", "params", "weight_bytes",
    "updates_dense", "updates_prune", "updates_finetune", "updates_quantize", "total_updates", "seconds",
)  # fmt: skip
AGAIN = "run the sweep again: qprune sweep moves it aside and writes it anew"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record_file(folder: Path, cell: str) -> Path:
    """Where the sweep in this folder has a finished cell's record."""
    return Path(folder) / "cells" / f"{cell}.json"


def failure_file(folder: Path, cell: str) -> Path:
    """Where the sweep in this folder notes why a cell failed."""
    return Path(folder) / "cells" / f"{cell}.failed.json"


def network_file(folder: Path, cell: str) -> Path:
    """Where the sweep in this folder has a cell's network, if it is kept."""
    return Path(folder) / "networks" / f"{cell}.safetensors"


def read_cells(folder: Path):
    """A sweep's cells.csv as a pandas DataFrame, without its checksums.

    Raises UserError where the folder has none, Damaged where a row is not what was written.
    """
    path = Path(folder) / "cells.csv"
    if not path.is_file():
        file = Path(folder).suffix in (".yaml", ".yml")
        hint = (
            f"name the folder of its results, such as results/{Path(folder).stem}" if file else "qprune sweep makes one"
        )
        raise UserError(f"{folder} is not a sweep's folder: it has no cells.csv ({hint})")
    cells = read_table(path, "run the sweep again, which rewrites it")
    lacking = [column for column in COLUMNS if column not in cells]
    if lacking:
        raise UserError(f"{path} is no table of cells: it has no column {lacking[0]!r}; run the sweep again")
    return _in_present_names(cells)


# Columns whose name was another one; the first is in tables only since there has been more than one method.
OLD_NAMES = {
    "order": "method",
    "method": "quantization",
    "stage_path": "stage_prune",
    "stage_recover": "stage_finetune",
}


def _in_present_names(cells):
    """A table as it is written now: one of an older qprune has other names, and columns for what is rows now."""
    if "quantization" in cells or ("method" in cells and "order" not in cells and "scratch_accuracy" not in cells):
        return cells
    cells = cells.rename(columns=OLD_NAMES)
    if "method" not in cells:
        cells["method"] = "prune_first"
    return _with_scratch_rows(cells)


def _with_scratch_rows(cells):
    """The networks trained from scratch as long as a cell, one for each model, data set and seed, as rows of their own."""
    import pandas as pd

    columns = {"scratch_accuracy": "accuracy", "scratch_val_accuracy": "val_accuracy"}
    if not set(columns) <= set(cells):
        return cells
    known = cells[cells.scratch_accuracy.notna() & cells.relative_bops.notna()]
    is_dense = (known.precision == "fp32") & (known.pruning_ratio == 0)
    known = known.assign(is_dense=is_dense).sort_values("is_dense", ascending=False, kind="stable")
    rows = known.groupby(["model", "data", "seed"], sort=False).head(1).copy()
    without = ~rows.is_dense  # a grid without the dense FP32 network: what its costs are is in those of the others
    gflops = rows.bit_gflops[without] / rows.relative_bops[without]
    for column in ("gflops", "bit_gflops", "linear_gflops"):
        rows.loc[without, column] = gflops
    rows.loc[without, "gbops"] = 512 * gflops
    rows.loc[without, "macs"] = (1e9 / 2 * gflops).round()
    rows.loc[without, ["gbops_acc", "params", "weight_bytes"]] = None
    rows = rows.drop(columns=["is_dense", *columns.values()]).rename(columns=columns)
    rows["cell"] = [f"{row.model}-{row.data}-scratch-fp32-r0.00-s{row.seed}" for row in rows.itertuples()]
    rows["updates_dense"] = rows.total_updates
    settled = {"criterion": "none", "method": "scratch", "precision": "fp32", "status": "done", "relative_bops": 1.0}
    zeros = dict.fromkeys(
        ("pruning_ratio", "achieved_ratio", "updates_prune", "updates_finetune", "updates_quantize"), 0
    )
    rows = rows.assign(**settled, **zeros, test_loss=None, val_loss=None, seconds=None)
    rows[[column for column in rows if column.startswith("stage_")]] = None
    return pd.concat([cells.drop(columns=list(columns)), rows[cells.columns.drop(list(columns))]], ignore_index=True)


def read_lambdas(folder: Path):
    """A sweep's lambda.csv as a pandas DataFrame; None where it has none. Raises Damaged."""
    try:
        return read_table(Path(folder) / "lambda.csv", "run the sweep again, which rewrites it")
    except FileNotFoundError:
        return None


def read_record(folder: Path, cell: str) -> dict:
    """A finished cell's record. Raises FileNotFoundError, and Damaged where it is not what was written."""
    path = record_file(folder, cell)
    try:
        record = read_sealed_json(path)
    except Damaged as error:
        raise Damaged(f"{error}; {AGAIN}") from None
    if record["cell"] != cell:
        raise Damaged(f"{path} is the record of another cell, {record['cell']}; {AGAIN}")
    return record


def read_failure(folder: Path, cell: str) -> dict:
    """{"cell", "reason", "log", "stages"} of a failed cell. Raises FileNotFoundError, Damaged."""
    try:
        return read_sealed_json(failure_file(folder, cell))
    except Damaged as error:
        raise Damaged(f"{error}; run the sweep again: qprune sweep tries the cell again") from None


def read_sweep_file(folder: Path) -> dict:
    """A sweep's sweep.json: {"settings", "until", "file"}. Raises FileNotFoundError, Damaged."""
    try:
        return read_sealed_json(Path(folder) / "sweep.json")
    except Damaged as error:
        raise Damaged(f"{error}; {AGAIN}") from None


def read_network(folder: Path, record: dict) -> dict:
    """The tensors of a finished cell's network: name -> Tensor. record: the cell's.

    Raises UserError where the network was not kept, Damaged where it is not the one that was evaluated.
    """
    from safetensors.torch import load

    path = network_file(folder, record["cell"])
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is not there: the sweep's `keep` did not keep this cell's network") from None
    if sha256(content) != record["network_sha256"]:
        raise Damaged(f"{path} is damaged (wrong checksum); {AGAIN}")
    return load(content)
