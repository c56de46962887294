"""Pooling and channel shuffles in forms that every exporter and runtime gets right: products, gathered windows.

torch's exporter refuses adaptive pooling to sizes that don't divide the image's, and drops divisor_override; ONNX
Runtime's integer kernel divides by the whole window at borders that ceil_mode cuts.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.networks.graph import add_module, module_of, source_of


def with_export_forms(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> fx.GraphModule:
    """A copy whose pooling and channel shuffles are written so, where the usual form wouldn't do, for such images."""
    network = copy.deepcopy(network).eval()
    tensors = tensors_of(network, image_shape)
    for node in list(network.graph.nodes):
        module = _as_module(node)
        if module is None:
            continue
        *_, height, width = tensors[source_of(node)].shape
        form = _export_form(module, (height, width))
        if form is not None:
            name = add_module(network, f"{node.name}_export", form)
            node.op, node.target, node.args, node.kwargs = "call_module", name, (source_of(node),), {}
    network.graph.lint()
    network.recompile()
    return network


@dataclass(frozen=True)
class Kind:
    """Of a tensor."""

    shape: torch.Size
    is_quantized: bool


class _Kinds(fx.Interpreter):
    """Runs a network; keeps the kind of each tensor."""

    def __init__(self, network: fx.GraphModule):
        super().__init__(network)
        self.found: dict[fx.Node, Kind] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            self.found[node] = Kind(result.shape, result.is_quantized)
        return result


@torch.no_grad()
def tensors_of(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> dict[fx.Node, Kind]:
    """What each node gives for two such images, where that is a tensor, in the order in which they run."""
    run = _Kinds(network)
    run.run(torch.rand(2, *image_shape))
    return run.found


_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}


def _as_module(node: fx.Node) -> nn.Module | None:
    """The layer of a node, also of one that calls pooling as a function."""
    if node.op == "call_function" and node.target in _FUNCTIONS:
        given = {name: value for name, value in node.kwargs.items() if name != "input"}
        return _FUNCTIONS[node.target](*node.args[1:], **given)
    return module_of(node)


def _export_form(module: nn.Module, size: tuple[int, int]) -> nn.Module | None:
    """The other form of a layer for images of a size, (height, width); None where it isn't needed."""
    if isinstance(module, nn.AvgPool2d) and (module.ceil_mode or module.divisor_override):
        return AverageProducts(*(_averages(module, size[axis], axis) for axis in (0, 1)))
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        wanted = _pair(module.output_size)
        windows = [_windows(n, m or n) for n, m in zip(size, wanted, strict=True)]
        if any(n % len(spans) for n, spans in zip(size, windows, strict=True)):
            if isinstance(module, nn.AdaptiveMaxPool2d):
                return GatheredMaxima(*windows)
            return AverageProducts(*(_means(n, spans) for n, spans in zip(size, windows, strict=True)))
    if isinstance(module, nn.ChannelShuffle):
        return Shuffle(module.groups)
    return None


def _pair(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _windows(n: int, m: int) -> list[range]:
    """The places that adaptive pooling of n to m takes together."""
    return [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _means(n: int, spans: list[range]) -> Tensor:
    """[len(spans), n]: the mean of each span."""
    matrix = torch.zeros(len(spans), n)
    for row, span in zip(matrix, spans, strict=True):
        row[span.start : span.stop] = 1 / len(span)
    return matrix


def _averages(pool: nn.AvgPool2d, n: int, axis: int) -> Tensor:
    """[m, n]: what nn.AvgPool2d does along one axis; its divisor, where it has one of its own, along the first."""
    kernel, stride, padding = (_pair(value)[axis] for value in (pool.kernel_size, pool.stride, pool.padding))
    steps = (n + 2 * padding - kernel) / stride
    m = (math.ceil(steps) if pool.ceil_mode else math.floor(steps)) + 1
    if (m - 1) * stride >= n + padding:  # a window has to start inside the image or before it
        m -= 1
    matrix = torch.zeros(m, n)
    for i, row in enumerate(matrix):
        start, stop = i * stride - padding, min(i * stride - padding + kernel, n + padding)
        inside = range(max(start, 0), min(stop, n))
        among = stop - start if pool.count_include_pad else len(inside)
        if pool.divisor_override:
            among = pool.divisor_override if axis == 0 else 1
        row[inside.start : inside.stop] = 1 / among
    return matrix


def in_float(values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function(values); of integers, in float, and rounded to the steps that they have."""
    if not values.is_quantized:
        return function(values)
    result = function(values.dequantize())
    return torch.quantize_per_tensor(result, values.q_scale(), values.q_zero_point(), values.dtype)


class AverageProducts(nn.Module):
    """rows @ images @ columns^T: images [n, c, h, w], rows [h', h], columns [w', w] -> [n, c, h', w']."""

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor):
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns.T.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return in_float(images, lambda v: self.rows.to(v.dtype) @ (v @ self.columns.to(v.dtype)))


class GatheredMaxima(nn.Module):
    """The maximum of each window, windows of one axis repeated to one length: images [n, c, h, w] -> [n, c, h', w']."""

    def __init__(self, *windows: list[range]):
        super().__init__()
        self.lengths = tuple(max(map(len, spans)) for spans in windows)
        for axis, (spans, length) in enumerate(zip(windows, self.lengths, strict=True)):
            places = [min(span.start + i, span.stop - 1) for span in spans for i in range(length)]
            self.register_buffer(f"places_{axis}", torch.tensor(places))

    def forward(self, images: Tensor) -> Tensor:
        def maxima(values: Tensor) -> Tensor:
            values = values.index_select(2, self.get_buffer("places_0")).index_select(3, self.get_buffer("places_1"))
            return F.max_pool2d(values, self.lengths, self.lengths)

        return in_float(images, maxima)


class Shuffle(nn.Module):
    """nn.ChannelShuffle as a reordering of the channels."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, images: Tensor) -> Tensor:
        order = torch.arange(images.shape[1]).view(self.groups, -1).T.flatten()
        return in_float(images, lambda v: v.index_select(1, order))
