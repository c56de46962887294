"""Exported files against what cost promises of them: bytes = stored_bytes + the graph without its weights, within 10%."""

import io
import json
import struct
import zipfile
from pathlib import Path

import onnx
import torch

from qprune.cost import count_cost
from qprune.data import Split
from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import compare, logits_of
from qprune.deploy.formats import FORMATS
from qprune.precision import get_precision
from qprune.stages.saved import NetworkSpec

PRECISIONS = ("fp32", "fp16", "int8", "w2a8", "w3a3", "int4", "w5a5", "w8a8", "mixed3")
FILES = (
    "onnx",
    "torch",
    "pt2",
)  # formats that store weights at their width: QONNX has FP32 weights in front of Quant nodes


def untrained(model: dict, precision: str, channels: int = 1, size: int = 8, classes: int = 10, images: int = 64):
    """A deployed cell of a network with random weights, on random images."""
    torch.manual_seed(0)
    spec = NetworkSpec(model, channels, size, classes, (0.5,) * channels, (0.25,) * channels)
    network = spec.build().eval()
    for norm in (
        one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)
    ):  # all different, as trained ones
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    pixels = torch.randint(0, 256, (images, channels, size, size), dtype=torch.uint8)
    calibration = pixels[:32].float() / 255
    made = get_precision(precision).choose(network, calibration)
    trained = made.prepare(network, calibration)
    spec = NetworkSpec(
        model, channels, size, classes, spec.mean, spec.std, precision=made.name, layer_bits=made.layer_bits
    )
    test = Split(pixels, torch.zeros(images, dtype=torch.long))
    finished = made.finish(trained).eval()
    return DeployedCell(precision, {}, spec, trained.state_dict(), finished, test, tuple(map(str, range(classes))))


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph alone: a copy whose initialisers have a name, a type and a shape, and no numbers."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for tensor in graph.graph.initializer:
        bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        tensor.CopyFrom(bare)
    return graph


def graph_bytes(path: Path) -> int:
    """Bytes of a file that are no weights: of ONNX the graph without the initialisers' numbers, of safetensors its header, of pt2 all
    but the tensors of the archive."""
    content = path.read_bytes()
    if path.suffix == ".onnx":
        return len(without_weights(onnx.load_from_string(content)).SerializeToString())
    if path.suffix == ".safetensors":
        (length,) = struct.unpack("<Q", content[:8])
        json.loads(content[8 : 8 + length])
        return 8 + length
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        weights = [
            one for one in archive.infolist() if "/data/weights/" in one.filename and "config" not in one.filename
        ]
        return len(content) - sum(one.file_size for one in weights)


def measured(cell: DeployedCell, format: str, folder: Path) -> dict:
    """A row of the table of sizes: what a format's file of a cell weighs, and whether its runtime agrees."""
    form = FORMATS.load(format)
    path = folder / f"file{form.SUFFIX}"
    form.write(cell, path)
    cost = count_cost(cell.network, cell.spec.image_shape)
    parity = compare(logits_of(form.load(path, cell), cell.test), logits_of(cell.network, cell.test), cell.test.labels)
    graph, size = graph_bytes(path), path.stat().st_size
    return {
        "format": format,
        "precision": cell.name,
        "weight_bytes": cost.weight_bytes,
        "stored_bytes": cost.stored_bytes,
        "file_bytes": size,
        "graph_bytes": graph,
        "above_promise": round((size - graph) / cost.stored_bytes - 1, 4),
        "agreement": parity.agreement,
        "largest_difference": float(f"{parity.largest:.3g}"),
    }
