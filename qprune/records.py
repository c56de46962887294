"""Finished stages -> one record per cell: JSON with everything, and the table of all cells as CSV and Parquet."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qprune.errors import UserError
from qprune.store import Store, write_whole

if TYPE_CHECKING:
    from qprune.plan import Cell, Plan

COLUMNS = (
    "cell", "sweep", "model", "data", "criterion", "precision", "pruning_ratio", "achieved_ratio", "seed", "status",
    "accuracy", "val_accuracy", "test_loss", "val_loss", "dense_accuracy", "baseline_accuracy",
    "macs", "gflops", "bit_gflops", "linear_gflops", "gbops", "gbops_acc", "relative_bops", "params", "weight_bytes",
    "updates_dense", "updates_prune", "updates_finetune", "updates_quantize", "total_updates", "seconds",
)  # fmt: skip
COST_COLUMNS = ("macs", "gflops", "bit_gflops", "linear_gflops", "gbops", "gbops_acc", "params", "weight_bytes")


class Records:
    """The record folder of one sweep: cells.csv, cells.parquet, cells/<cell>.json, networks/<cell>.safetensors."""

    def __init__(self, folder: Path, plan: Plan, store: Store):
        self.folder, self.plan, self.store = Path(folder), plan, store
        self.rows = {cell.id: _planned_row(plan, cell) for cell in plan.cells}

    def finish(self, cell: Cell) -> None:
        """Write the record of a cell whose stages are all done, unless it is there already."""
        path = self.folder / "cells" / f"{cell.id}.json"
        if self._is_record_of(path, cell):
            record = json.loads(path.read_bytes())
            self.rows[cell.id].update({key: value for key, value in record.items() if key in self.rows[cell.id]})
        else:
            self._write_record(path, cell)
        if self.plan.config.keep != "none":
            self._link_network(cell)

    def forget(self, cell: Cell) -> None:
        """Delete a record and network that the cell's name had under other settings."""
        path = self.folder / "cells" / f"{cell.id}.json"
        if path.exists() and not self._is_record_of(path, cell):
            network_file(self.folder, cell.id).unlink(missing_ok=True)
            path.unlink()

    def _is_record_of(self, path: Path, cell: Cell) -> bool:
        """Whether the file is the record of these very stages."""
        try:
            record = json.loads(path.read_bytes())
            return {kind: stage["id"] for kind, stage in record["stages"].items()} == cell.stages
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _write_record(self, path: Path, cell: Cell) -> None:
        metas = {kind: self.store.meta(stage) for kind, stage in cell.stages.items()}
        row = self.rows[cell.id]
        row.update(_measured(metas))
        self._fill_baseline(cell)
        evaluated = metas["evaluate"]
        record = {
            **row,
            "cost": evaluated["cost"],
            "network": evaluated["network"],
            "validation": evaluated["val"],
            "test": evaluated["test"],
            "stages": {kind: {"id": stage, "seconds": metas[kind]["seconds"]} for kind, stage in cell.stages.items()},
            "provenance": evaluated["provenance"],
        }
        write_whole(path, json.dumps(record, indent=1).encode())

    def fail(self, cell: Cell, reason: str) -> None:
        """Note that a cell could not be computed, and why."""
        self.rows[cell.id].update(status="failed", reason=reason)

    def write_table(self, parquet: bool = False) -> None:
        """Replace cells.csv (and cells.parquet) by all rows as they stand."""
        frame = self.frame()
        write_whole(self.folder / "cells.csv", frame.to_csv(index=False).encode())
        if parquet:
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            write_whole(self.folder / "cells.parquet", buffer.getvalue())

    def frame(self):
        """All cells of the plan as a pandas DataFrame, whatever their status."""
        import pandas as pd

        for cell in self.plan.cells:
            self._fill_baseline(cell)
        return pd.DataFrame(list(self.rows.values()))

    def keep_networks(self, kept: set[str]) -> None:
        """Delete the networks of all cells but these."""
        for cell in self.plan.cells:
            if cell.id not in kept:
                network_file(self.folder, cell.id).unlink(missing_ok=True)
                self.store.drop_tensors(cell.stages["quantize"])

    def _fill_baseline(self, cell: Cell) -> None:
        row = self.rows[cell.id]
        if row["baseline_accuracy"] is None and self.store.done(cell.baseline):
            baseline = self.store.meta(cell.baseline)
            row["baseline_accuracy"] = baseline["test"]["accuracy"]
            row["baseline_val_accuracy"] = baseline["val"]["accuracy"]

    def _link_network(self, cell: Cell) -> None:
        source = self.store.tensors_path(cell.stages["quantize"])
        target = network_file(self.folder, cell.id)
        if not source.exists() or (target.exists() and target.samefile(source)):
            return  # NOTE renaming one link of a file to another does nothing, and would leave the draft behind
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        try:
            os.link(source, draft)
        except OSError:  # a file system without hard links
            draft.write_bytes(source.read_bytes())
        draft.replace(target)


def network_file(folder: Path, cell: str) -> Path:
    """Where the sweep in this folder has a cell's network, if it is kept."""
    return folder / "networks" / f"{cell}.safetensors"


def _planned_row(plan: Plan, cell: Cell) -> dict:
    row = dict.fromkeys(COLUMNS)
    row.update(
        cell=cell.id, sweep=plan.config.name, model=cell.model, data=cell.data, criterion=cell.criterion,
        precision=cell.precision, pruning_ratio=cell.ratio, seed=cell.seed, status="pending",
    )  # fmt: skip
    row.update(reason=None, baseline_val_accuracy=None)
    recover, quantize = plan.stages[cell.stages["recover"]].settings, plan.stages[cell.stages["quantize"]].settings
    recipe = recover["recipe"]
    row.update(
        batch_size=recipe["batch_size"], optimizer=recipe["optimizer"], momentum=recipe["momentum"],
        weight_decay=recipe["weight_decay"], lr_dense=plan.stages[cell.stages["dense"]].settings["lr"],
        lr_prune=recover["path_lr"], lr_finetune=recover["lr"], lr_quantize=quantize["lr"],
        updates_between=plan.config.prune.updates_between, until=plan.config.prune.until,
        channels_per_step=str(plan.config.prune.channels_per_step), min_channels=plan.config.prune.min_channels,
        round_to=plan.config.prune.round_to, first_last_bits=quantize["first_last_bits"],
    )  # fmt: skip
    row.update(
        {f"stage_{kind}": cell.stages.get(kind) for kind in ("dense", "path", "recover", "quantize", "evaluate")}
    )
    row.update(device=None, host=None, threads=None, versions=None)
    return row


def _measured(metas: dict[str, dict]) -> dict:
    evaluated, dense = metas["evaluate"], metas["dense"]
    cost = evaluated["cost"]
    values = {
        "status": "done",
        "achieved_ratio": metas["recover"]["achieved_ratio"],
        "accuracy": evaluated["test"]["accuracy"],
        "val_accuracy": evaluated["val"]["accuracy"],
        "test_loss": evaluated["test"]["loss"],
        "val_loss": evaluated["val"]["loss"],
        "dense_accuracy": dense["test"]["accuracy"],
        **{column: cost[column] for column in COST_COLUMNS},
        "relative_bops": cost["gbops"] / (dense["macs"] * 32 * 32 / 1e9),
        "updates_dense": dense["updates"],
        "updates_prune": metas["recover"]["updates_prune"],
        "updates_finetune": metas["recover"]["updates_finetune"],
        "updates_quantize": metas["quantize"]["updates"],
        "seconds": sum(meta["seconds"] for meta in metas.values()),
    }
    values["total_updates"] = sum(values[f"updates_{part}"] for part in ("dense", "prune", "finetune", "quantize"))
    provenance = evaluated["provenance"]
    versions = " ".join(f"{package}={number}" for package, number in provenance["versions"].items())
    return {**values, **{key: provenance[key] for key in ("device", "host", "threads")}, "versions": versions}


def read_cells(folder: Path):
    """A sweep's cells.csv as a pandas DataFrame. Raises UserError where the folder has none."""
    import pandas as pd

    path = Path(folder) / "cells.csv"
    if not path.is_file():
        raise UserError(f"{folder} is not a sweep's folder: it has no cells.csv (qprune sweep makes one)")
    try:
        cells = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors and those of the encoding are ValueErrors
        raise UserError(f"{path} can't be read as a table ({str(error).strip()}); run the sweep again") from error
    lacking = [column for column in COLUMNS if column not in cells]
    if lacking:
        raise UserError(f"{path} is no table of cells: it has no column {lacking[0]!r}; run the sweep again")
    return cells


def load_network(results_dir: str | Path, cell: str):
    """A cell's network as it was evaluated, in eval mode: takes float images in 0..1, [batch, c, h, w], gives logits.

    results_dir: the sweep's folder, e.g. "results/quickstart"; cell: as in the column `cell`.
    Raises UserError for an unknown cell, or one whose network was not kept.
    """
    from safetensors.torch import load_file

    from qprune.registry import nearest
    from qprune.saved import NetworkSpec

    folder = Path(results_dir)
    record = folder / "cells" / f"{cell}.json"
    if Path(cell).name != cell or not record.is_file():
        known = sorted(path.stem for path in (folder / "cells").glob("*.json"))
        raise UserError(f"{folder} has no finished cell {cell!r}{nearest(cell, known[:20])}")
    network = network_file(folder, cell)
    if not network.is_file():
        raise UserError(f"{network} is not there: the sweep's `keep` did not keep this cell's network")
    return NetworkSpec.from_json(json.loads(record.read_text())["network"]).load(load_file(network))
