"""A folder for a device: ONNX files, the logits that they should give, and one script that times them (`bench --kit`);
and the way back: its table into DIR/latency.csv, under the device's name (`bench --import`)."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from qprune.cost import count_cost
from qprune.deploy import kit_bench, onnx_file
from qprune.deploy.cells import DeployedCell, read_record
from qprune.deploy.check import logits_of
from qprune.deploy.latency import dense_of, write_latency
from qprune.precision import PRECISIONS
from qprune.registry.errors import UserError
from qprune.storage.durable import write_whole, writing
from qprune.storage.results import sha256
from qprune.storage.sealed_table import read_table

IMAGES = 32  # that a device's logits are checked on


def write_kit(
    cells: list[DeployedCell], folder: Path, batches: tuple[int, ...] = (1, 32), threads: int = 1, rounds: int = 15
) -> list[Path]:
    """Write the cells and their dense FP32 network for a device; returns what was written.

    batches, threads, rounds: what its script measures where it isn't told otherwise. Raises UserError for a folder that has
    something in it, and for cells of several models or data sets.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--kit {folder}: it is a file; name a new folder")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--kit {folder}: it isn't empty; name a new folder")
    torch.manual_seed(0)  # of the reference's weights, which no time depends on
    references = {reference.name: reference for reference in map(dense_of, cells)}
    if len(references) > 1:
        raise UserError(f"--kit: the cells are of {', '.join(references)}; a kit is of one model on one data set")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    (reference,) = references.values()
    files = []
    arrays: dict[str, Any] = {"images": reference.test.images[:IMAGES].numpy()}
    for number, cell in enumerate((reference, *cells)):
        path = folder / (re.sub(r"[^\w.-]+", "-", cell.name) + ".onnx")
        onnx_file.write(cell, path)
        arrays[f"logits_{number}"] = logits_of(onnx_file.load(path, cell), cell.test.first(IMAGES)).numpy()
        opset = next(one.version for one in onnx.load(path).opset_import if not one.domain)
        layers = count_cost(cell.network, cell.spec.image_shape).layers
        files.append(
            {
                "cell": cell.name,
                "dense": cell is reference,
                "precision": cell.spec.precision,
                "weights": PRECISIONS.get(cell.spec.precision).weights,
                "file": path.name,
                "sha256": sha256(path.read_bytes()),
                "network_sha256": "" if cell is reference else cell.record["network_sha256"],
                "opset": opset,
                "least_onnxruntime": onnx_file.least_runtime(opset),
                "widths": {layer.name: layer.channels_out for layer in layers[:-1]},
            }
        )
    with writing(folder / "expected.npz"):
        np.savez_compressed(folder / "expected.npz", **arrays)
    least = max((one["least_onnxruntime"] for one in files), key=kit_bench.numbers)
    manifest = {"least_onnxruntime": least, "batch": ",".join(map(str, batches)), "threads": threads, "rounds": rounds}
    manifest |= {"files": files}
    write_whole(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    write_whole(folder / "bench.py", Path(kit_bench.__file__).read_bytes())
    return sorted(folder.iterdir())


def import_latency(folder: Path, table: Path, device: str) -> Path:
    """Put the table that a kit's bench.py wrote into DIR/latency.csv, as `device`'s.

    Raises UserError for a name that is none, a file that is no such table, a cell that the sweep hasn't, one whose network is
    another by now, and one whose logits were others there.
    """
    if not re.fullmatch(r"[\w.-]+", device):
        raise UserError(f"--as {device!r}: a device's name is of letters, digits, '_', '-' and '.'")
    try:
        rows = read_table(table, "run the kit's bench.py again")
    except FileNotFoundError:
        raise UserError(f"--import {table}: there is no such file") from None
    if list(rows.columns) != list(kit_bench.COLUMNS):
        raise UserError(f"--import {table}: its columns are not those of a kit's bench.py")
    rows = rows[rows.network_sha256.notna()]  # not the dense network's, which is no cell
    for row in rows.drop_duplicates("cell").itertuples():
        if read_record(folder, row.cell)["network_sha256"] != row.network_sha256:
            raise UserError(
                f"--import {table}: cell {row.cell} has another network in {folder} by now; make the kit again"
            )
        if row.agreement < kit_bench.AGREEMENT:
            raise UserError(
                f"--import {table}: {row.cell} gave the expected classes on {row.agreement:.0%} of the images: its times are of "
                "other numbers than the cell's"
            )
    if rows.empty:
        raise UserError(f"--import {table}: it has no cell's times")
    return write_latency(folder, [{**row, "device": device} for row in rows.to_dict("records")])
