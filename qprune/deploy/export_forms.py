"""Pooling, shuffles and some others in forms that every exporter and runtime gets right: products, gathered windows.

torch's exporter refuses adaptive pooling to sizes that don't divide the image's, and drops divisor_override; ONNX
Runtime's integer kernel divides by the whole window at borders that ceil_mode cuts. It has no nn.Threshold but at 0, and of
integers no pixel_unshuffle; qonnx can't run the branches that it writes of local response normalisation.
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
from qprune.precision.equal_forms import affine_norms


def with_export_forms(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> fx.GraphModule:
    """A copy in which these are written so, where the usual form wouldn't do, for such images."""
    network = copy.deepcopy(network).eval()
    affine_norms(network)
    tensors = tensors_of(network, image_shape)
    for node in list(network.graph.nodes):
        module = _as_module(node)
        if module is None:
            continue
        form = _export_form(module, tensors[source_of(node)].shape)
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
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_max_pool1d: nn.AdaptiveMaxPool1d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    F.channel_shuffle: nn.ChannelShuffle,
    F.pixel_unshuffle: nn.PixelUnshuffle,
    F.threshold: nn.Threshold,
    F.local_response_norm: nn.LocalResponseNorm,
}
_AVERAGE, _ADAPTIVE_AVERAGE = (nn.AvgPool1d, nn.AvgPool2d), (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_ADAPTIVE_MAXIMUM = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
_OF_ONE_AXIS = (nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)


def _as_module(node: fx.Node) -> nn.Module | None:
    """The layer of a node, also of one that calls a function in its place, with numbers."""
    if node.op == "call_function" and node.target in _FUNCTIONS and len(node.all_input_nodes) == 1:
        given = {name: value for name, value in node.kwargs.items() if name != "input"}
        return _FUNCTIONS[node.target](*node.args[1:], **given)
    return module_of(node)


def _export_form(module: nn.Module, shape: torch.Size) -> nn.Module | None:
    """The other form of a layer for a tensor of a shape, [n, c, height, width] or [n, c, length]; None where it isn't needed."""
    size = tuple(shape[-1:] if isinstance(module, _OF_ONE_AXIS) else shape[-2:])
    if isinstance(module, _AVERAGE) and (module.ceil_mode or getattr(module, "divisor_override", None)):
        return AverageProducts(*(_averages(module, n, axis) for axis, n in enumerate(size)))
    if isinstance(module, (*_ADAPTIVE_AVERAGE, *_ADAPTIVE_MAXIMUM)):
        wanted = _along(module.output_size, len(size))
        windows = [_windows(n, m or n) for n, m in zip(size, wanted, strict=True)]
        whole = all(n % len(spans) == 0 for n, spans in zip(size, windows, strict=True))
        if not whole or isinstance(module, _OF_ONE_AXIS):  # of which the exporter often doesn't know the length
            if isinstance(module, _ADAPTIVE_MAXIMUM):
                return GatheredMaxima(*windows)
            return AverageProducts(*(_means(n, spans) for n, spans in zip(size, windows, strict=True)))
    if isinstance(module, nn.InstanceNorm2d) and module.running_mean is not None:
        norm = nn.BatchNorm2d(module.num_features, module.eps)
        norm.load_state_dict({**norm.state_dict(), **module.state_dict()})
        return norm.eval()
    if isinstance(module, nn.ChannelShuffle):
        return Shuffle(module.groups)
    if isinstance(module, nn.PixelUnshuffle):
        return Unshuffle(module.downscale_factor)
    if isinstance(module, nn.Threshold):
        return Selected(module.threshold, module.value)
    if isinstance(module, nn.LocalResponseNorm):
        return NormByNeighbours(module, shape[1])
    return None


def _along(value: Any, axes: int) -> tuple:
    """What is given for each axis, or once for all."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes


def _windows(n: int, m: int) -> list[range]:
    """The places that adaptive pooling of n to m takes together."""
    return [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _means(n: int, spans: list[range]) -> Tensor:
    """[len(spans), n]: the mean of each span."""
    matrix = torch.zeros(len(spans), n)
    for row, span in zip(matrix, spans, strict=True):
        row[span.start : span.stop] = 1 / len(span)
    return matrix


def _averages(pool: nn.AvgPool1d | nn.AvgPool2d, n: int, axis: int) -> Tensor:
    """[m, n]: what average pooling does along one axis; its divisor, where it has one of its own, along the first."""
    kernel, stride, padding = (_along(value, 2)[axis] for value in (pool.kernel_size, pool.stride, pool.padding))
    divisor = getattr(pool, "divisor_override", None)
    steps = (n + 2 * padding - kernel) / stride
    m = (math.ceil(steps) if pool.ceil_mode else math.floor(steps)) + 1
    if (m - 1) * stride >= n + padding:  # a window has to start inside the image or before it
        m -= 1
    matrix = torch.zeros(m, n)
    for i, row in enumerate(matrix):
        start, stop = i * stride - padding, min(i * stride - padding + kernel, n + padding)
        inside = range(max(start, 0), min(stop, n))
        among = stop - start if pool.count_include_pad else len(inside)
        if divisor:
            among = divisor if axis == 0 else 1
        row[inside.start : inside.stop] = 1 / among
    return matrix


def in_float(values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function(values); of integers, in float, and rounded to the steps that they have."""
    if not values.is_quantized:
        return function(values)
    result = function(values.dequantize())
    return torch.quantize_per_tensor(result, values.q_scale(), values.q_zero_point(), values.dtype)


class AverageProducts(nn.Module):
    """rows @ images @ columns^T: images [n, c, h, w], rows [h', h], columns [w', w] -> [n, c, h', w']; or columns alone, of [n, c, w]."""

    rows: Tensor | None
    columns: Tensor

    def __init__(self, *rows_and_columns: Tensor):
        super().__init__()
        *rows, columns = rows_and_columns
        self.register_buffer("rows", rows[0] if rows else None)
        self.register_buffer("columns", columns.T.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        def products(values: Tensor) -> Tensor:
            values = values @ self.columns.to(values.dtype)
            return values if self.rows is None else self.rows.to(values.dtype) @ values

        return in_float(images, products)


class GatheredMaxima(nn.Module):
    """The maximum of each window, windows of one axis repeated to one length: [n, c, h, w] -> [n, c, h', w'], [n, c, l] -> [n, c, l']."""

    def __init__(self, *windows: list[range]):
        super().__init__()
        self.lengths = tuple(max(map(len, spans)) for spans in windows)
        for axis, (spans, length) in enumerate(zip(windows, self.lengths, strict=True)):
            places = [min(span.start + i, span.stop - 1) for span in spans for i in range(length)]
            self.register_buffer(f"places_{axis}", torch.tensor(places))

    def forward(self, images: Tensor) -> Tensor:
        def maxima(values: Tensor) -> Tensor:
            for axis in range(len(self.lengths)):
                values = values.index_select(2 + axis, self.get_buffer(f"places_{axis}"))
            pool = F.max_pool1d if len(self.lengths) == 1 else F.max_pool2d
            return pool(values, self.lengths, self.lengths)

        return in_float(images, maxima)


class Shuffle(nn.Module):
    """nn.ChannelShuffle as a reordering of the channels."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, images: Tensor) -> Tensor:
        order = torch.arange(images.shape[1]).view(self.groups, -1).T.flatten()
        return in_float(images, lambda v: v.index_select(1, order))


class Unshuffle(nn.Module):
    """nn.PixelUnshuffle."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return in_float(images, lambda v: F.pixel_unshuffle(v, self.factor))


class Selected(nn.Module):
    """nn.Threshold: values above the threshold as they are, others as one value."""

    def __init__(self, threshold: float, value: float):
        super().__init__()
        self.threshold, self.value = threshold, value

    def forward(self, values: Tensor) -> Tensor:
        return in_float(values, lambda v: torch.where(v > self.threshold, v, torch.full_like(v, self.value)))


class NormByNeighbours(nn.Module):
    """nn.LocalResponseNorm, the squares of neighbouring channels added up by a product: [n, c, ...] -> [n, c, ...]."""

    near: Tensor

    def __init__(self, norm: nn.LocalResponseNorm, channels: int):
        super().__init__()
        self.scale, self.beta, self.k = norm.alpha / norm.size, norm.beta, norm.k
        place = torch.arange(channels)
        ahead = place[None] - place[:, None] + norm.size // 2  # of the row's channel's window: 0 .. size - 1
        self.register_buffer("near", ((ahead >= 0) & (ahead < norm.size)).float())

    def forward(self, values: Tensor) -> Tensor:
        def normed(v: Tensor) -> Tensor:
            squares = (self.near @ v.square().flatten(2)).reshape(v.shape)
            return v / (squares * self.scale + self.k) ** self.beta

        return in_float(values, normed)
