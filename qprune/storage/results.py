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
        raise UserError(f"{folder} is not a sweep's folder: it has no cells.csv (qprune sweep makes one)")
    cells = read_table(path, "run the sweep again, which rewrites it")
    lacking = [column for column in COLUMNS if column not in cells]
    if lacking:
        raise UserError(f"{path} is no table of cells: it has no column {lacking[0]!r}; run the sweep again")
    if "order" not in cells:
        cells["order"] = "prune_first"  # the only one that there was before there was the column
    return cells


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
