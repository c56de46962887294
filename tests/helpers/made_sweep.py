"""Sweeps that look finished without any training, of any size and with any names: for tests of what reads them."""

import base64
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from qprune.storage.correctness import pack_classes
from qprune.storage.results import COLUMNS
from qprune.storage.seal import sealed_json

BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
TEST_IMAGES, VAL_IMAGES, CLASSES = 400, 200, 10
RECALLS = ("val_balanced_accuracy", "val_least_recall", "balanced_accuracy", "least_recall")
LATER = ("dense_val_accuracy", "baseline_val_accuracy", *RECALLS, "peak_activation_bytes")  # not in every table
NO_VALUES = dict.fromkeys(
    (*COLUMNS, "reason", *LATER, "method", "quantization", "device", "host", "threads", "versions")
)
# what an older qprune called them
OLD_NAMES = {"method": "order", "quantization": "method"}


def make_sweep(
    folder: Path,
    name: str = "made",
    models: tuple[str, ...] = ("net",),
    criteria: tuple[str, ...] = ("taylor",),
    precisions: tuple[str, ...] = tuple(BITS),
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9),
    seeds: tuple[int, ...] = (0, 1, 2),
    layers: int = 6,
    failed: dict[str, str] | None = None,
    pending: int = 0,
    noise: int = 0,
    curves: bool = True,
    methods: tuple[str, ...] = ("prune_first",),
    scratch: bool = False,
    old: bool = False,
) -> Path:
    """Write <folder>/<name's last part>/ and <folder>/stages/; returns the sweep's folder.

    failed: cell -> reason; pending: how many of the last cells are; noise: seed of the accuracies' noise;
    scratch: also networks from scratch; old: a table of before there was the column `method` in its present sense, in
    which accuracies from scratch stand beside each cell; of prune_first alone, one of before there was any.
    """
    draws = np.random.default_rng(noise)
    out = Path(folder) / "made"
    (out / "cells").mkdir(parents=True)
    rows = []
    for number, (model, criterion, method, precision, ratio, seed) in enumerate(
        itertools.product(models, criteria, methods, precisions, ratios, seeds)
    ):
        other = "" if method == "prune_first" else f"-{method}"
        cell = f"{model}-digits-{criterion}{other}-{precision}-r{ratio:.2f}-s{seed}".replace("/", "_")
        row = NO_VALUES | {"cell": cell, "sweep": name, "model": model, "data": "digits", "criterion": criterion}
        row |= {"method": method, "precision": precision, "pruning_ratio": ratio, "seed": seed, "status": "pending"}
        row |= {"quantization": "qat"}
        rows.append(row)
        if cell in (failed or {}):
            row |= {"status": "failed", "reason": failed[cell]}
            continue
        bits = BITS.get(precision, 2 + number % 7)
        size = (1 + models.index(model)) * (1 - ratio) ** 1.5
        kept = [max(1, round(32 * (1 - ratio) * draws.uniform(0.8, 1.2))) for _ in range(layers)]
        shapes = [
            {"name": f"conv{i}", "type": "Conv2d", "macs": 9 * 64 * k * 32, "w_bits": bits, "a_bits": bits}
            | {"weight_elements": 9 * k * 32, "channels_in": 32, "channels_out": k, "kernel": [3, 3], "groups": 1}
            for i, k in enumerate(kept)
        ]
        correct = {part: draws.random(n) < 0.99 - 0.3 * ratio**4 - 0.02 / bits for part, n in _SPLITS.items()}
        row |= {
            "status": "done", "achieved_ratio": ratio, "accuracy": correct["test"].mean(), "val_accuracy": correct["validation"].mean(),
            "test_loss": 1 - correct["test"].mean(), "val_loss": 1 - correct["validation"].mean(), "dense_accuracy": 0.98, "dense_val_accuracy": 0.97,
            "macs": int(6e8 * size), "gflops": 1.2 * size, "bit_gflops": 1.2 * size * (bits / 32) ** 2, "gbops": 614.4 * size * (bits / 32) ** 2,
            "linear_gflops": 1.2 * size * bits / 32, "gbops_acc": 700 * size * (bits / 32) ** 2, "params": int(7e4 * size),
            "relative_bops": size / (1 + models.index(model)) * (bits / 32) ** 2, "weight_bytes": 2.9e5 * size * bits / 32,
            "updates_dense": 100, "updates_prune": 50, "updates_finetune": 20, "updates_quantize": 10, "total_updates": 180,
            "peak_activation_bytes": 4096 * size * bits / 32, "seconds": 3.5, "device": "cpu", "host": "here", "threads": 1, "versions": "torch=2",
        }  # fmt: skip
        for part, prefix in (("validation", "val_"), ("test", "")):
            shares = [right.mean() for right in (correct[part][one::CLASSES] for one in range(CLASSES))]
            row |= {f"{prefix}balanced_accuracy": np.mean(shares), f"{prefix}least_recall": min(shares)}
        stages = {"dense": f"dense-{model}-{seed}", "finetune": f"finetune-{number}", "quantize": f"quantize-{number}"}
        record = {
            **{key: value.item() if hasattr(value, "item") else value for key, value in row.items()},
            "cost": {"layers": shapes},
            **{part: _images(right, old) for part, right in correct.items()},
            "class_names": [] if old else [f"class {number}" for number in range(CLASSES)],
            "stages": {kind: {"id": _file(stage), "seconds": 1} for kind, stage in stages.items()},
        }
        (out / "cells" / f"{cell}.json").write_bytes(sealed_json(record))
        if curves:
            _write_stages(Path(folder) / "stages", record["stages"])
    for row in rows[len(rows) - pending :]:
        row |= dict.fromkeys((*COLUMNS[COLUMNS.index("accuracy") :], *LATER))
        row["status"] = "pending"
    _fill_baselines(rows)
    _write_table(out / "cells.csv", rows, scratch, old)
    (out / "sweep.json").write_bytes(
        sealed_json({"settings": {"name": name}, "until": 0.9, "file": {"path": name, "text": f"name: {name}"}})
    )
    return out


def _write_table(path: Path, rows: list[dict], scratch: bool, old: bool) -> None:
    known = {(row["model"], row["seed"]): row for row in rows if _is_dense(row)}
    accuracies = {
        place: {"accuracy": 0.99 + place[1] / 1000, "val_accuracy": 0.98 + place[1] / 1000} for place in known
    }
    table = pd.DataFrame(rows)
    if old:
        table = table.drop(columns=[*RECALLS, "peak_activation_bytes"])
    if not old:
        made = {"criterion": "none", "method": "scratch", "updates_dense": 180, "test_loss": None, "val_loss": None}
        made |= dict.fromkeys(("updates_prune", "updates_finetune", "updates_quantize"), 0)
        made |= {"seconds": None, "quantization": None}
        beside = [
            row | made | accuracies[model, seed] | {"cell": f"{model}-digits-scratch-fp32-r0.00-s{seed}"}
            for (model, seed), row in known.items()
        ]
        table = pd.concat([table, pd.DataFrame(beside)]) if scratch else table
    elif set(table.method) == {"prune_first"} and not scratch:
        table = table.drop(columns=["method", "quantization", "dense_val_accuracy"])
    else:
        for name in ("accuracy", "val_accuracy"):
            values = [accuracies[row["model"], row["seed"]][name] if scratch else None for row in rows]
            table[f"scratch_{name}"] = pd.Series(values).where(table.status == "done")
        table = table.rename(columns=OLD_NAMES)
    table.to_csv(path, index=False)


def _is_dense(row: dict) -> bool:
    return (row["precision"], row["pruning_ratio"], row["method"], row["status"]) == ("fp32", 0, "prune_first", "done")


_SPLITS = {"validation": VAL_IMAGES, "test": TEST_IMAGES}


def _images(right: np.ndarray, old: bool) -> dict:
    """What a record keeps of images of CLASSES classes, each as often: a wrong one is taken for the next class."""
    if old:
        return {"correct": base64.b64encode(np.packbits(right).tobytes()).decode(), "images": len(right)}
    labels = np.arange(len(right)) % CLASSES
    packed = {"labels": labels, "predicted": np.where(right, labels, (labels + 1) % CLASSES)}
    return {name: pack_classes(values) for name, values in packed.items()} | {"images": len(right)}


def _file(stage: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in stage)


def _write_stages(folder: Path, stages: dict) -> None:
    curve = [[update, round(2 / (1 + update), 5)] for update in range(0, 100, 2)]
    phases = {"dense": ["dense"], "finetune": ["prune", "finetune"], "quantize": ["quantize"]}
    before = None
    for kind, stage in stages.items():
        path = folder / stage["id"] / "stage.json"
        report = {"updates": dict.fromkeys(phases[kind], 100), "curves": dict.fromkeys(phases[kind], curve)}
        if not path.exists():
            path.parent.mkdir(parents=True)
            path.write_bytes(sealed_json({**report, "continues": before, "inputs": {}}))
        before = stage["id"]


def _fill_baselines(rows: list[dict]) -> None:
    baselines = {(row["model"], row["seed"]): row for row in rows if _is_dense(row)}
    for row in rows:
        if row["status"] == "done" and (base := baselines.get((row["model"], row["seed"]))):
            row["baseline_accuracy"], row["baseline_val_accuracy"] = base["accuracy"], base["val_accuracy"]
