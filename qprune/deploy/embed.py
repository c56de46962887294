"""Preprocessing inside an ONNX graph: uint8 pictures [batch, height, width, 3] of any size in, logits out.

Resizing is ONNX's operator of opset 18, by which a kernel widens where a picture shrinks, weights beyond the border being left
out (exclude_outside: else borders differ from Pillow's by 10 levels and more); across, then down, each rounded to bytes as
Pillow does. What is left are ties: single pixels differ by a level. Turning, colour modes and transparency stay the caller's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qprune.data.preprocessing import Preprocessing
from qprune.deploy.check import Run
from qprune.registry.errors import UserError

OPSET = 18  # the first whose Resize antialiases
IR_VERSION = 8  # that of opset 18
INPUT = "pictures"
RESIZES: dict[str, dict[str, Any]] = {  # filter -> how ONNX says it
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}


def check_embeddable(how: Preprocessing, what: str) -> None:
    """UserError, with the remedy, where a graph can't do what is done to the pictures; what: the data set."""
    if how.kind != "pictures":
        raise UserError(
            f"--embed-preprocessing: {what} isn't made of picture files, so nothing is resized; export without it, and divide "
            "by 255"
        )
    if how.filter not in RESIZES:
        raise UserError(
            f"--embed-preprocessing: ONNX can't say the filter {how.filter}; train with preprocess: {{filter: bilinear}} (or "
            f"{', '.join(list(RESIZES)[1:])}), or export without it and resize as the script beside the file does"
        )


def embed(model: Any, how: Preprocessing) -> Any:
    """An ONNX model with the preprocessing in front of its graph."""
    from onnx import TensorProto, helper, version_converter

    (opset,) = (own for own in model.opset_import if own.domain == "")
    if opset.version < OPSET:
        model = version_converter.convert_version(model, OPSET)
    model.ir_version = max(model.ir_version, IR_VERSION)
    graph = model.graph
    (images,) = graph.input
    before = _Nodes()
    last = _prepared(before, how)
    before.nodes.append(helper.make_node("Identity", [last], [images.name]))
    nodes, constants = [*before.nodes, *graph.node], [*before.constants, *graph.initializer]
    batch = images.type.tensor_type.shape.dim[0].dim_param or "batch"
    given = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, "height", "width", 3])
    for field, content in (("node", nodes), ("initializer", constants), ("input", [given])):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    return model


def _prepared(nodes: "_Nodes", how: Preprocessing) -> str:
    """The name of the tensor that the network gets: float [batch, 3, size, size] in 0..1."""
    from onnx import TensorProto

    to, size = np.array([how.resize_to], np.int64), np.array([how.height] * 2, np.int64)
    first = nodes.constant(np.array([1], np.int64))
    channels = [nodes.add("Gather", INPUT, nodes.constant(np.array(c, np.int64)), axis=3) for c in range(3)]
    planes = [nodes.add("Unsqueeze", channel, first) for channel in channels]
    # NOTE no Transpose: ONNX Runtime moves one of an integer network through Resize, and mistakes its axes
    values = nodes.add("Cast", nodes.add("Concat", *planes, axis=1), to=TensorProto.FLOAT)
    if how.resize == "squash":
        sizes = nodes.constant(np.repeat(to, 2))
    else:  # in double, as Python reckons
        sides = nodes.add("Cast", nodes.add("Shape", values, start=2, end=4), to=TensorProto.DOUBLE)
        scale = nodes.add("Div", nodes.constant(to.astype(np.float64)), nodes.add("ReduceMin", sides, keepdims=1))
        scaled = nodes.add("Cast", nodes.add("Mul", sides, scale), to=TensorProto.INT64)
        sizes = nodes.add("Max", scaled, nodes.constant(to))
    if how.antialias:
        for axis in (3, 2):  # across, then down
            place = nodes.constant(np.array([axis - 2], np.int64))
            side = nodes.add("Gather", sizes, place, axis=0)
            values = _resized(nodes, values, side, how, axes=[axis], antialias=1, exclude_outside=1)
    else:
        values = _resized(nodes, values, sizes, how, axes=[2, 3])
    beyond = nodes.add("Cast", nodes.add("Sub", sizes, nodes.constant(size)), to=TensorProto.FLOAT)
    half = nodes.add("Round", nodes.add("Mul", beyond, nodes.constant(np.array(0.5, np.float32))))  # ties to even
    start = nodes.add("Cast", half, to=TensorProto.INT64)
    stop = nodes.add("Add", start, nodes.constant(size))
    cut = nodes.add("Slice", values, start, stop, nodes.constant(np.array([2, 3], np.int64)))
    return nodes.add("Div", cut, nodes.constant(np.array(255, np.float32)))


def _resized(nodes: "_Nodes", values: str, sizes: str, how: Preprocessing, **attributes: Any) -> str:
    """Resized along some axes, and rounded to whole levels from 0 to 255."""
    resized = nodes.add("Resize", values, "", "", sizes, **RESIZES[how.filter], **attributes)
    rounded = nodes.add("Floor", nodes.add("Add", resized, nodes.constant(np.array(0.5, np.float32))))
    low, high = (nodes.constant(np.array(level, np.float32)) for level in (0, 255))
    return nodes.add("Clip", rounded, low, high)


class _Nodes:
    """Nodes and constants of a graph that is being made, under names that a network's own don't have."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of what the node gives."""
        from onnx import helper

        name = f"preprocessing/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{name}/{operator}", **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"preprocessing/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


@torch.no_grad()
def logits_of_files(run: Run, files: Sequence[Path]) -> Tensor:
    """Logits of pictures at their own sizes, float [n, classes], one by one."""
    from PIL import Image

    from qprune.data.read_picture import as_rgb

    found = []
    for file in files:
        with Image.open(file) as picture:
            picture.load()
            pixels = np.array(as_rgb(picture))
        found.append(run(torch.from_numpy(pixels)[None]).float())
    return torch.cat(found)
