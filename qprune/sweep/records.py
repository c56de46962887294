"""Finished stages -> one record per cell: JSON with everything, and the table of all cells as CSV and Parquet.

Each file that is read again has a checksum: damage is an error that names the file, never another number.
"""

import io
import json
import os
from collections.abc import Collection
from pathlib import Path

from qprune.analysis.front import RECALLS
from qprune.analysis.statistics import recalls
from qprune.deploy.exports import forget_measured
from qprune.pruning.normalizations import normalization_label
from qprune.settings.config import SweepConfig
from qprune.stages.dense import Dense
from qprune.stages.evaluate import TOTALS
from qprune.stages.prune import Prune
from qprune.storage.correctness import classes_of
from qprune.storage.durable import draft_of, remove, set_aside, write_whole, writing
from qprune.storage.results import AGAIN, COLUMNS, failure_file, network_file, record_file, sha256
from qprune.storage.seal import Damaged, read_sealed_json, sealed_json
from qprune.storage.sealed_table import sealed_table
from qprune.storage.store import Store
from qprune.sweep.plan import Cell, Plan

REFERENCES = ("dense_accuracy", "dense_val_accuracy", "baseline_accuracy", "baseline_val_accuracy")
# of other networks, so in the table but not in a cell's record
PHASES = ("dense", "prune", "finetune", "quantize")


class Records:
    """The record folder of one sweep: cells.csv, cells.parquet, cells/<cell>.json, networks/<cell>.safetensors.

    Beside them: lambda.csv of criteria whose lambda is cross-validated, cells/<cell>.failed.json of a cell that failed, damaged/ what was not what had been written.
    """

    def __init__(self, folder: Path, plan: Plan, store: Store):
        self.folder, self.plan, self.store = Path(folder), plan, store
        kinds = dict.fromkeys(kind for cell in plan.cells for kind in cell.stages)
        phases = dict.fromkeys(phase.name for cell in plan.cells for phase in plan.phases(cell))
        planned = dict.fromkeys((*COLUMNS, *REFERENCES, *RECALLS, *TOTALS)) | {
            "sweep": plan.config.name,
            "status": "pending",
        }
        planned |= {
            "reason": None,
            **_settings(plan.config),
            "training_flops": None,
            "training_flops_cap": None,
            **{f"stage_{kind}": None for kind in kinds},
        }
        planned |= dict.fromkeys((*(f"updates_{phase}" for phase in phases), "device", "host", "threads", "versions"))
        self.rows = {cell.id: planned | _place(cell, plan) for cell in plan.cells}

    def finish(self, cell: Cell) -> None:
        """Write the record of a cell whose stages are all done, unless it is there already, and keep its network.

        Raises Damaged where the network that is to be kept is not what its stage wrote, StorageError.
        """
        remove(failure_file(self.folder, cell.id))
        record = self._own_record(cell)
        if record and record["network_sha256"] == self.store.meta(cell.network)["tensors_sha256"]:
            self.rows[cell.id].update({key: value for key, value in record.items() if key in self.rows[cell.id]})
        else:
            self._write_record(cell)
        if self.plan.config.keep != "none":
            self._link_network(cell)

    def forget(self, cell: Cell) -> None:
        """Delete a record and network that the cell's name had under other settings, and what is noted of a failure."""
        remove(failure_file(self.folder, cell.id))
        path = record_file(self.folder, cell.id)
        if path.exists() and self._own_record(cell) is None:
            remove(network_file(self.folder, cell.id))
            remove(path)

    def check(self, cell: Cell) -> str | None:
        """Move the cell's record and network into damaged/ where they are not what was written; what to tell of it.

        To be called before forget() and finish(), which put them in place anew.
        """
        told = []
        stage = cell.network
        record, network = record_file(self.folder, cell.id), network_file(self.folder, cell.id)
        expected = self.store.meta(stage)["tensors_sha256"] if self.store.done(stage) else None
        try:
            expected = read_sealed_json(record)["network_sha256"]
        except FileNotFoundError:
            pass
        except Damaged:
            told.append(self._set_aside(record))
        if expected is not None and network.is_file() and sha256(network.read_bytes()) != expected:
            told.append(self._set_aside(network))
        return "; ".join(told) or None

    def _set_aside(self, path: Path) -> str:
        place = set_aside(path, self.folder / "damaged")
        return f"{path} is damaged (wrong checksum); moved to {place}, made anew"

    def _own_record(self, cell: Cell) -> dict | None:
        """The cell's record, if it is that of these very stages, and undamaged."""
        try:
            record = read_sealed_json(record_file(self.folder, cell.id))
        except (FileNotFoundError, Damaged):
            return None
        return record if {kind: stage["id"] for kind, stage in record["stages"].items()} == cell.stages else None

    def _write_record(self, cell: Cell) -> None:
        metas = {kind: self.store.meta(stage) for kind, stage in cell.stages.items()}
        row = self.rows[cell.id]
        dense_macs = self.plan.facts[cell.model, cell.data].dense_macs
        row.update(_measured(metas, dense_macs))
        row["training_flops"] = _training_flops(self.plan, cell, metas, dense_macs)
        evaluated, dense = metas["evaluate"], self.plan.stages[cell.dense]
        assert isinstance(dense, Dense)
        record = {
            **{column: value for column, value in row.items() if column not in REFERENCES},
            "cost": evaluated["cost"],
            "network": evaluated["network"],
            "network_sha256": self.store.meta(cell.network)["tensors_sha256"],
            "validation": evaluated["val"],
            "test": evaluated["test"],
            "class_names": evaluated.get("class_names", []),  # of version 1 of the stage, none
            "data_settings": dense.data.settings,
            "model_settings": dense.model.settings,
            "stages": {
                kind: {"id": stage, "seconds": metas[kind]["seconds"], "settings": metas[kind]["named_by"]["settings"]}
                for kind, stage in cell.stages.items()
            },
            "provenance": evaluated["provenance"],
        }
        forget_measured(self.folder, cell.id, record["network_sha256"])
        write_whole(record_file(self.folder, cell.id), sealed_json(record))

    def fail(self, cell: Cell, reason: str, log: str = "") -> None:
        """Note that a cell could not be computed, why, and the end of what had been printed."""
        if self.rows[cell.id]["status"] == "failed":
            return  # of an earlier stage; what needs it fails for the same reason
        self.rows[cell.id].update(status="failed", reason=reason)
        note = {"cell": cell.id, "reason": reason, "log": log, "stages": cell.stages}
        write_whole(failure_file(self.folder, cell.id), sealed_json(note))

    def skip_all_but(self, asked: Collection[str]) -> list[Cell]:
        """Mark as skipped what is neither asked for nor done nor failed; returns the cells that are done."""
        for cell in self.plan.cells:
            if cell.id not in asked and self.rows[cell.id]["status"] == "pending":
                self.rows[cell.id]["status"] = "skipped"
        return [cell for cell in self.plan.cells if self.rows[cell.id]["status"] == "done"]

    def write_table(self, parquet: bool = False) -> None:
        """Replace cells.csv (and cells.parquet) by all rows as they stand."""
        frame = self.frame()
        write_whole(self.folder / "cells.csv", sealed_table(frame.to_csv(index=False)))
        if parquet:
            buffer = io.BytesIO()
            frame.to_parquet(buffer, engine="pyarrow", index=False, write_page_checksum=True)
            write_whole(self.folder / "cells.parquet", buffer.getvalue())

    def write_lambdas(self) -> None:
        """Write lambda.csv, the losses by which cross-validation chose lambda, where a cell's criterion asks for it."""
        rows = _lambda_rows(self.plan, self.store)
        if not rows:
            remove(self.folder / "lambda.csv")  # of an earlier sweep file
            return
        import pandas as pd

        write_whole(self.folder / "lambda.csv", sealed_table(pd.DataFrame(rows).to_csv(index=False)))

    def frame(self):
        """All cells of the plan as a pandas DataFrame, whatever their status."""
        import pandas as pd

        for cell in self.plan.cells:
            self._fill_references(cell)
        return pd.DataFrame(list(self.rows.values()))

    def keep_networks(self, kept: set[str]) -> None:
        """Delete the networks of all cells but these."""
        for cell in self.plan.cells:
            if cell.id not in kept:
                remove(network_file(self.folder, cell.id))
                if not isinstance(self.plan.stages[cell.network], Dense):  # which another sweep may begin with
                    self.store.drop_tensors(cell.network)

    def _fill_references(self, cell: Cell) -> None:
        row = self.rows[cell.id]
        for name, stage in (("dense", cell.dense), ("baseline", cell.baseline)):
            if row[f"{name}_accuracy"] is None and self.store.done(stage):
                meta = self.store.meta(stage)
                row[f"{name}_accuracy"] = meta["test"]["accuracy"]
                row[f"{name}_val_accuracy"] = meta["val"]["accuracy"]

    def _link_network(self, cell: Cell) -> None:
        source = self.store.tensors_path(cell.network)
        target = network_file(self.folder, cell.id)
        if not source.exists() or (target.exists() and target.samefile(source)):
            return  # NOTE renaming one link of a file to another does nothing, and would leave the draft behind
        try:
            content = source.read_bytes()
        except FileNotFoundError:  # another sweep that shares it has just deleted it; the next run makes it again
            return
        if sha256(content) != self.store.meta(cell.network)["tensors_sha256"]:
            raise Damaged(f"{source} is damaged (wrong checksum); {AGAIN}")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = draft_of(target)
            draft.unlink(missing_ok=True)
            try:
                os.link(source, draft)
            except OSError:  # a file system without hard links
                draft.write_bytes(content)
            draft.replace(target)


def _place(cell: Cell, plan: Plan) -> dict:
    """What the plan knows of a cell."""
    spending, recipe = plan.spending[cell.model, cell.data], plan.recipes[cell.model, cell.data]
    place: dict = {"cell": cell.id, "model": cell.model, "data": cell.data, "criterion": cell.criterion}
    place |= {"precision": cell.precision, "pruning_ratio": cell.ratio, "seed": cell.seed, "method": cell.variant}
    place |= {"updates_between": spending.updates_between, "training_flops_cap": cell.cap}
    place |= {"channels_last": recipe.channels_last, "shuffle": recipe.shuffle}
    return place | {f"stage_{kind}": stage for kind, stage in cell.stages.items()}


def _settings(config: SweepConfig) -> dict:
    """All settings that can change a result, but for those that the other columns show. Those of the data set, the
    network and the criterion are in the record."""
    train, prune, quantize = config.train, config.prune, config.quantize
    return {
        "batch_size": train.batch_size,
        "optimizer": train.optimizer,
        "momentum": train.momentum or 0.0,
        "weight_decay": train.weight_decay,
        "lr_dense": train.lr,
        "lr_prune": prune.lr,
        "lr_finetune": config.finetune.lr,
        "lr_quantize": quantize.lr,
        "protocol": config.protocol,
        "until": prune.until,
        "ratio_of": prune.of,
        "channels_per_step": str(prune.channels_per_step),
        "min_channels": prune.min_channels,
        "max_layer_ratio": prune.max_layer_ratio,
        "round_to": prune.round_to,
        "schedule": prune.schedule,
        "normalize": normalization_label(prune.normalize.settings),
        "quantization": quantize.method,
        "first_last_bits": quantize.first_last_bits,
        "distill": quantize.distill,
        "math": train.math,
        **dict.fromkeys(("channels_last", "shuffle")),  # as each network on each data set has them
        "linear": prune.linear,
        "ignore": " ".join(prune.ignore) or None,
        "checkpoint": train.checkpoint,
        "pretrain": config.pretrain and json.dumps(config.pretrain.model_dump(mode="json")),
    }


def _measured(metas: dict[str, dict], dense_macs: int) -> dict:
    """metas: the reports of a cell's stages, in the order in which its network goes through them."""
    evaluated = metas["evaluate"]
    cost, updates, achieved = evaluated["cost"], dict.fromkeys(PHASES, 0), 0.0
    for meta in metas.values():
        updates |= meta["updates"]  # each says how many of a phase the network has had
        achieved = meta.get("achieved_ratio", achieved)
    values = {
        "status": "done",
        "achieved_ratio": achieved,
        "accuracy": evaluated["test"]["accuracy"],
        "val_accuracy": evaluated["val"]["accuracy"],
        "test_loss": evaluated["test"]["loss"],
        "val_loss": evaluated["val"]["loss"],
        **_recalls(evaluated["val"], "val_"),
        **_recalls(evaluated["test"], ""),
        **{column: cost[column] for column in TOTALS},
        "relative_bops": cost["gbops"] / (dense_macs * 32 * 32 / 1e9),
        **{f"updates_{phase}": made for phase, made in updates.items()},
        "total_updates": sum(updates.values()),
        "seconds": sum(meta["seconds"] for meta in metas.values()),
    }
    provenance = evaluated["provenance"]
    versions = " ".join(f"{package}={number}" for package, number in provenance["versions"].items())
    return {**values, **{key: provenance[key] for key in ("device", "host", "threads")}, "versions": versions}


def _recalls(part: dict, prefix: str) -> dict[str, float]:
    """Mean and least recall over the classes of a split. part: of an evaluate stage's report; prefix: of the columns."""
    classes = classes_of(part)
    assert classes is not None
    found = recalls(*classes)
    return {f"{prefix}balanced_accuracy": float(found.mean()), f"{prefix}least_recall": float(found.min())}


def _training_flops(plan: Plan, cell: Cell, metas: dict[str, dict], dense_macs: int) -> float:
    """Of a cell's own network, from its first update on: 3 x 2 x macs x batch size for each update, one of forward and two of
    backward (Liu et al., ICLR 2019, Scratch-B); a teacher's forward pass is 2 x macs x batch size on top.

    With the macs of the network as it was: the unpruned one along a path, where maps are masked, the smaller one after.
    """
    batch, own_macs = plan.config.train.batch_size, metas["evaluate"]["cost"]["macs"]
    flops, before = 0.0, dict[str, int]()
    for kind, meta in metas.items():
        planned = {phase.name: phase for phase in plan.stages[cell.stages[kind]].phases}
        for name, made in meta["updates"].items():
            phase = planned[name]
            each = 6 * (dense_macs if phase.whole else own_macs) + 2 * dense_macs * phase.teacher
            flops += float(made - before.get(name, 0)) * each * batch
        before |= meta["updates"]
    return flops


def _lambda_rows(plan: Plan, store: Store) -> list[dict]:
    """The whole curve of every lambda that the plan has chosen by now, as rows of one table."""
    rows: dict[str, list[dict]] = {}
    for cell in plan.cells:
        path = plan.stages.get(cell.stages.get("prune", ""))
        chosen = path.chosen_lambda if isinstance(path, Prune) else None
        if chosen and chosen not in rows and store.done(chosen):
            meta = store.meta(chosen)
            key = {"model": cell.model, "data": cell.data, "criterion": cell.criterion, "seed": cell.seed}
            rows[chosen] = [{**key, "chosen": meta["lambda"], **point} for point in meta["curve"]]
    return [row for own in rows.values() for row in own]
