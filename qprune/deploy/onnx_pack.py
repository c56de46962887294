"""A written ONNX graph with quantised weights -> the same with each of them stored once, as narrow as the opset bears.

Exporters leave behind an integer weight a Clip to its width (or, in front of that, a QuantizeLinear of the float weight),
and a scale or a zero point as many times as it is used. Here what is made of constants alone becomes one constant: weights of
3 and 4 bits as INT4, two to a byte (opset 21), those of 2 bits too, or as INT2 with opset 25; wider ones as INT8. Values
don't change: DequantizeLinear gives what it gave.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qprune.deploy.formats import NARROWEST
from qprune.deploy.packed import pack

IR_VERSION = {21: 10, 25: 13}  # the least with the opset's types
MATMUL_BITS = (
    4  # NOTE ONNX Runtime 1.32 multiplies by other numbers where a MatMul's weights are INT2; Gemm and Conv are right
)
_TYPES = {(2, True): "INT2", (2, False): "UINT2", (4, True): "INT4", (4, False): "UINT4"}  # by bits, signed
_TYPES |= {(8, True): "INT8", (8, False): "UINT8"}


def pack_weights(model: onnx.ModelProto, opset: int) -> None:
    """Store constants once, and quantised weights at their width, in place. opset: one of NARROWEST that may be used.

    The model's own opset is raised where a type needs it, to what that needs.
    """
    graph = model.graph
    _constants_as_initializers(graph)
    narrowest = min((_pack(graph, node, opset) for node in _dequantized(graph)), default=8)
    _share(graph)
    _own_zero_points(graph)
    _drop_dead(graph)
    _shorten(graph)
    if narrowest < 8:
        needed = min(number for number, bits in NARROWEST.items() if bits <= narrowest)
        (default,) = (one for one in model.opset_import if not one.domain)
        default.version = max(default.version, needed)
        model.ir_version = max(model.ir_version, IR_VERSION[needed])


@dataclass(frozen=True)
class _Integers:
    """Constant integers, and the range that they were clipped to."""

    values: np.ndarray
    low: int
    high: int

    @property
    def signed(self) -> bool:
        return self.low < 0

    def bits(self, narrowest: int) -> int:
        """The least of 2, 4 and 8 from `narrowest` on that holds the range."""
        needed = max(int(self.high).bit_length(), int(-self.low - 1).bit_length() if self.signed else 0) + self.signed
        return next(bits for bits in (2, 4, 8) if bits >= max(needed, narrowest))


def _constants_as_initializers(graph: onnx.GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)
    constant = {tensor.name for tensor in graph.initializer}
    results = {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        if node.input[0] in constant and node.output[0] not in results and not _has_graphs(graph):
            graph.node.remove(node)
            _rename(graph, {node.output[0]: node.input[0]})
    for given in [given for given in graph.input if given.name in constant]:  # which could be given otherwise
        graph.input.remove(given)


def _dequantized(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == "DequantizeLinear"]


def _pack(graph: onnx.GraphProto, node: onnx.NodeProto, opset: int) -> int:
    """Give a DequantizeLinear of constants its integers at their width, in place; the bits of what is stored."""
    integers = _integers(graph, node.input[0])
    if integers is None:
        return 8
    bits = integers.bits(max(NARROWEST[opset], MATMUL_BITS if _multiplies(graph, node) else 0))
    kind = TensorProto.DataType.Value(_TYPES[bits, integers.signed])
    if any(tensor.name == node.input[0] and tensor.data_type == kind for tensor in graph.initializer):
        return bits
    node.input[0] = _add(graph, f"{node.output[0]}_integers", integers.values, bits, kind)
    if len(node.input) > 2:
        zero_point = _array(graph, node.input[2])
        assert zero_point is not None
        del node.input[2:]
        if zero_point.any():
            node.input.append(_add(graph, f"{node.output[0]}_zero_point", zero_point, bits, kind))
    return bits


def _multiplies(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a MatMul reads what a node gives, transposed or not."""
    users = [user for user in graph.node if node.output[0] in user.input]
    return any(user.op_type == "MatMul" or (user.op_type == "Transpose" and _multiplies(graph, user)) for user in users)


def _add(graph: onnx.GraphProto, name: str, values: np.ndarray, bits: int, kind: int) -> str:
    graph.initializer.append(helper.make_tensor(name, kind, values.shape, pack(values, bits).tobytes(), raw=True))
    return name


def _array(graph: onnx.GraphProto, name: str) -> np.ndarray | None:
    found = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    return None if found is None else numpy_helper.to_array(found)


def _integers(graph: onnx.GraphProto, name: str) -> _Integers | None:
    """The integers that a tensor always is; None where it is made of something that isn't constant."""
    values = _array(graph, name)
    if values is not None:
        return _within(values, values.dtype) if values.dtype in (np.int8, np.uint8) else None
    node = next((node for node in graph.node if name in node.output), None)
    if node is None:
        return None
    if node.op_type == "Clip":
        inner, ends = _integers(graph, node.input[0]), [_array(graph, one) for one in node.input[1:3]]
        if inner is None or len(ends) < 2 or any(end is None for end in ends):
            return None
        low, high = (int(end) for end in ends)  # type: ignore[arg-type]
        return _Integers(inner.values.clip(low, high), max(low, inner.low), min(high, inner.high))
    if node.op_type == "QuantizeLinear":
        return _quantized(graph, node)
    return None


def _within(values: np.ndarray, dtype: np.dtype | type) -> _Integers:
    ends = np.iinfo(dtype)
    return _Integers(values, int(ends.min), int(ends.max))


def _quantized(graph: onnx.GraphProto, node: onnx.NodeProto) -> _Integers | None:
    """What a QuantizeLinear makes of a constant: saturate(round(x / scale) + zero_point), ties to even."""
    values, scale, zero_point = ([_array(graph, name) for name in node.input] + [None])[:3]
    if values is None or scale is None:
        return None
    if zero_point is None:
        zero_point = np.zeros(scale.shape, np.uint8)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim and scale.size > 1:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero_point.reshape(shape)
    else:
        scale, zero = scale.reshape(()), zero_point.reshape(())
    ends = np.iinfo(zero_point.dtype)
    rounded = np.rint(values / scale) + zero.astype(np.float32)
    return _within(rounded.clip(ends.min, ends.max).astype(zero_point.dtype), zero_point.dtype)


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes that nothing reads, then constants that nothing reads."""
    while True:
        read = {name for node in graph.node for name in _read(node)} | {output.name for output in graph.output}
        dead = [node for node in graph.node if not read & set(node.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    made = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(value)


def _read(node: onnx.NodeProto) -> set[str]:
    """All names that a node reads, in the graphs inside it too."""
    inner = (attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return {*node.input, *(name for graph in inner for part in graph.node for name in _read(part))}


def _has_graphs(graph: onnx.GraphProto) -> bool:
    return any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)


def _share(graph: onnx.GraphProto) -> None:
    """One initialiser for equal ones."""
    if _has_graphs(graph):
        return  # a graph inside would have to be renamed too
    first: dict[tuple, str] = {}
    kept = {}
    for tensor in list(graph.initializer):
        key = (tensor.data_type, tuple(tensor.dims), _content(tensor))
        kept[tensor.name] = first.setdefault(key, tensor.name)
        if kept[tensor.name] != tensor.name:
            graph.initializer.remove(tensor)
    _rename(graph, kept)


def _own_zero_points(graph: onnx.GraphProto) -> None:
    """Give each 8-bit weight a zero point of its own. NOTE Asked for sums that don't saturate, ONNX Runtime 1.32 makes weight and
    zero point unsigned one weight at a time, and stumbles over a zero point that it has made so already, or that isn't there."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in _dequantized(graph):
        weight = constants.get(node.input[0])
        if weight is None or weight.data_type != TensorProto.INT8:
            continue
        scale = constants[node.input[1]]
        zero_point = _array(graph, node.input[2]) if len(node.input) > 2 else None
        if zero_point is None:
            zero_point = np.zeros(tuple(scale.dims), np.int8)
        del node.input[2:]
        node.input.append(_add(graph, f"{node.output[0]}_zero_point", zero_point, 8, TensorProto.INT8))


def _content(tensor: onnx.TensorProto) -> bytes:
    nameless = onnx.TensorProto()
    nameless.CopyFrom(tensor)
    nameless.name = ""
    return nameless.SerializeToString(deterministic=True)


def _shorten(graph: onnx.GraphProto) -> None:
    """Short names for what exporters name by paths through their own modules: constants c0, c1 ..., tensors t0, t1 ...

    Nodes keep their names, which say their layer, and so do the input, the output, and parameters with a name of the network's.
    """
    if _has_graphs(graph):
        return
    kept = {place.name for place in (*graph.input, *graph.output)}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | kept
    long = [tensor.name for tensor in graph.initializer if set("/:") & set(tensor.name)]
    made = [name for node in graph.node for name in node.output if name and name not in kept]
    numbered = [
        *zip(long, itertools.repeat("c"), itertools.count()),
        *zip(made, itertools.repeat("t"), itertools.count()),
    ]
    short = {name: f"{letter}{count}" for name, letter, count in numbered}
    short = {name: new for name, new in short.items() if new not in taken}
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    _rename(graph, short)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = names.get(name, name)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
