"""Integers of few bits in files: packed as ONNX has them, and the graph around them gives what it gave."""

import numpy as np
import onnx
import pytest
import torch
from networks import Residual, small
from onnx import TensorProto, helper, numpy_helper

from qprune.data import Split
from qprune.deploy import onnx_file
from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import logits_of
from qprune.deploy.commands import export_command
from qprune.deploy.onnx_pack import pack_weights
from qprune.deploy.packed import pack, unpack
from qprune.precision import get_precision
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec

RANDOM = np.random.default_rng(0)


def cell_of(kind: type, precision: str, first_last_bits: int | None = 8) -> DeployedCell:
    network, images, labels = small(kind)
    made = get_precision(precision, first_last_bits)
    trained = made.prepare(network, images)
    spec = NetworkSpec({"name": "own"}, 1, 8, 5, (0.5,), (0.25,), precision=made.name, first_last_bits=first_last_bits)
    test = Split(
        torch.randint(0, 256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(5)).byte(), labels.repeat(2)
    )
    return DeployedCell(precision, {}, spec, trained.state_dict(), made.finish(trained).eval(), test, tuple("abcde"))


@pytest.mark.parametrize("bits, kind", [(2, TensorProto.INT2), (4, TensorProto.INT4), (8, TensorProto.INT8)])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 4, 2, 2), (7,)])
def test_packed_as_onnx_reads_it_and_unpacked_again(bits, kind, shape):
    values = RANDOM.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)
    packed = pack(values, bits)
    assert len(packed) == -(-values.size * bits // 8)
    read = numpy_helper.to_array(helper.make_tensor("w", kind, shape, packed.tobytes(), raw=True))
    assert (read.astype(np.int8) == values).all() and (unpack(packed, bits, shape) == values).all()


def graph_of(kind: str, per_channel: bool, ends: tuple[int, int], quantized: bool):
    """(model, the integers): x -> an operator with weights that are integers behind a Clip, or floats in front of both."""
    shape = {"Conv": (5, 3, 3, 3), "ConvTranspose": (3, 5, 3, 3), "Gemm": (5, 7), "MatMul": (7, 5)}[kind]
    signed, axis = ends[0] < 0, {"Conv": 0, "Gemm": 0}.get(kind, 1)
    dtype = np.int8 if signed else np.uint8
    integers = RANDOM.integers(ends[0] - 3 * signed, ends[1] + 4, shape).astype(dtype)
    scale = np.linspace(0.125, 0.5, 5).astype(np.float32) if per_channel else np.float32(0.125)
    wide = scale.reshape([-1 if place == axis else 1 for place in range(len(shape))]) if per_channel else scale
    constants = {"scale": scale, "zero": np.zeros_like(scale, dtype), "low": dtype(ends[0]), "high": dtype(ends[1])}
    constants["w"] = integers * wide if quantized else integers
    given = {"axis": axis} if per_channel else {}
    nodes = [helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["/q"], **given)] if quantized else []
    nodes += [
        helper.make_node("Clip", ["/q" if quantized else "w", "low", "high"], ["/c"]),
        helper.make_node("DequantizeLinear", ["/c", "scale", "zero"], ["/d"], **given),
        helper.make_node(kind, ["x", "/d"], ["y"], **({"transB": 1} if kind == "Gemm" else {})),
    ]
    places = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8] if len(shape) == 4 else ["n", 7])]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, "h", "w"] if len(shape) == 4 else ["n", 5])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(helper.make_graph(nodes, "g", places, out, tensors), opset_imports=opset, ir_version=9)
    return model, integers.clip(*ends)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    "ends, quantized, opset, wanted",
    [
        ((-8, 7), False, 21, "INT4"), ((-4, 3), True, 21, "INT4"), ((0, 15), False, 21, "UINT4"), ((-2, 1), False, 21, "INT4"),
        ((-2, 1), True, 25, "INT2"), ((-16, 15), True, 21, "INT8"), ((-8, 7), True, 17, "INT8"),
    ],
)  # fmt: skip
def test_a_packed_graph_gives_what_it_gave(tmp_path, kind, per_channel, ends, quantized, opset, wanted):
    wanted = "INT4" if (kind, wanted) == ("MatMul", "INT2") else wanted
    model, integers = graph_of(kind, per_channel, ends, quantized)
    onnx.save(model, tmp_path / "before.onnx")
    pack_weights(model, opset)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "after.onnx")
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", kind]
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[0].input[0])
    assert TensorProto.DataType.Name(weight.data_type) == wanted
    assert (numpy_helper.to_array(weight).astype(np.int16) == integers).all()
    assert model.opset_import[0].version == {"INT8": 20, "INT4": 21, "UINT4": 21, "INT2": 25}[wanted]
    images = {"x": RANDOM.random((2, 3, 8, 8) if integers.ndim == 4 else (2, 7), np.float32)}
    runs = [onnx_file.open_session(tmp_path / f"{name}.onnx", 1).run(None, images)[0] for name in ("before", "after")]
    np.testing.assert_allclose(*runs, atol=1e-4)


@pytest.mark.parametrize("precision", ["w2a8", "w3a3", "w4a4"])
def test_each_opset_gives_the_networks_logits(tmp_path, precision):
    cell, sizes = cell_of(Residual, precision), {}
    for opset in (17, 21, 25):
        onnx_file.write(cell, tmp_path / "file.onnx", opset)
        model = onnx.load(tmp_path / "file.onnx")
        sizes[opset] = (tmp_path / "file.onnx").stat().st_size
        kinds = {
            TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer if len(tensor.dims) == 4
        }
        narrow = {17: "INT8", 21: "INT4", 25: "INT2" if precision == "w2a8" else "INT4"}[opset]
        assert kinds == {"INT8", narrow}
        assert model.opset_import[0].version == {"INT8": 17, "INT4": 21, "INT2": 25}[narrow]
        found, expected = (
            logits_of(onnx_file.load(tmp_path / "file.onnx", cell), cell.test),
            logits_of(cell.network, cell.test),
        )
        assert (found - expected).abs().max() < 1e-4
    assert sizes[17] > sizes[21] > sizes[25] - (precision != "w2a8")


def test_a_runtime_that_is_too_old_is_told_before_anything_is_written(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.18.1")
    with pytest.raises(UserError, match=r"--opset 21: .* ONNX Runtime from 1\.19 on, and 1\.18\.1 is installed"):
        onnx_file.write(cell_of(Residual, "w4a4"), tmp_path / "file.onnx")
    assert not list(tmp_path.iterdir())
    onnx_file.write(cell_of(Residual, "w4a4"), tmp_path / "file.onnx", 17)
    assert onnx.load(tmp_path / "file.onnx").opset_import[0].version == 17


@pytest.mark.parametrize(
    "format, opset, told", [("torch", 21, "has none to choose"), ("onnx", 19, "one of 17, 21, 25")]
)
def test_opsets_that_are_none(resumable, format, opset, told):
    cell = "vgg_tiny-digits-taylor-int4-r0.50-s0"
    with pytest.raises(UserError, match=f"--opset {opset}.*{told}"):
        export_command(resumable / "results" / "tiny", cell, format, opset=opset)
