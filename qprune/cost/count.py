"""What a network costs: MACs, bit operations and bytes, per layer and in total, from the layers that really run.

A convolution, linear layer or matmul counts its multiply-accumulates for one image. Biases, batch
normalisation, activations, pooling and elementwise arithmetic count 0 (listed below); what is not listed is an
error that names it. Widths are what qprune.cost.widths reads from the network, never what was asked for.

bit_gflops = sum of 2 x macs x w_bits x a_bits / (32 x 32) / 1e9; gbops_acc is the form with accumulation of
UNIQ (Baskin et al., ACM TOCS 2021) and Hawks et al., "Ps and Qs" (Frontiers in AI 2021).
"""

import copy
import math
import operator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import fx, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import BNReLU2d
from torch.ao.nn.intrinsic.qat.modules.conv_fused import _ConvBnNd
from torch.ao.nn.quantized.modules.conv import _ConvNd as IntConv
from torch.ao.quantization import FakeQuantizeBase
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from qprune.cost.widths import FLOAT_BITS, ask_for_widths, input_width, is_brevitas, tensor_width, weight_width
from qprune.networks.graph import Leaf, Normalize, module_of, only_moves, trace
from qprune.registry.errors import UserError


@dataclass(frozen=True)
class LayerCost:
    """One layer, for one image.

    type: Conv2d, Linear, matmul ... whatever the number format
    w_bits, a_bits: widths of the weights and of the tensor that arrives (of a matmul's second and first
        operand); whole numbers unless a quantiser's levels are no power of two
    weight_elements: of the weight alone; 0 where a layer runs again, or multiplies two activations
    kernel: its spatial size; () where there is none
    """

    name: str
    type: str
    macs: int
    w_bits: float
    a_bits: float
    weight_elements: int
    channels_in: int
    channels_out: int
    kernel: tuple[int, ...] = ()
    groups: int = 1

    @property
    def bops(self) -> float:
        """macs x w_bits x a_bits; a whole number where the widths are."""
        return self.macs * self.w_bits * self.a_bits

    @property
    def bops_acc(self) -> float:
        """macs x (a w + a + w + log2(k^2 c_in / groups)): multiplication and accumulation."""
        fan_in = math.prod(self.kernel) * self.channels_in // self.groups
        return self.macs * (self.a_bits * self.w_bits + self.a_bits + self.w_bits + math.log2(fan_in))

    @property
    def weight_bytes(self) -> float:
        """weight_elements x w_bits / 8."""
        return self.weight_elements * self.w_bits / 8


@dataclass(frozen=True)
class Cost:
    """The layers of a network, its parameters, and the bytes that are no layer's weights.

    params: weights, biases and the affine parameters of batch normalisation; scales of quantisers are none
    float_bytes: what else inference needs: biases, batch normalisation (affine parameters and running
        statistics; a bias per channel where torch.ao folds it into a convolution) and the constants of the
        input normalisation, 4 bytes each (biases in half: 2); scales, 4 bytes; torch.ao's zero points, 1
    """

    layers: tuple[LayerCost, ...]
    params: int
    float_bytes: int

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    @cached_property
    def gflops(self) -> float:
        """2 x macs / 1e9."""
        return 2 * self.macs / 1e9

    @cached_property
    def bops(self) -> float:
        """Bit operations: the sum of macs x w_bits x a_bits, exact where the widths are whole numbers."""
        return sum(layer.bops for layer in self.layers)

    @cached_property
    def gbops(self) -> float:
        """bops / 1e9."""
        return self.bops / 1e9

    @cached_property
    def bit_gflops(self) -> float:
        """Bit-weighted GFLOPs, FP32-equivalent: gbops / 512."""
        return self.gbops / 512

    @cached_property
    def linear_gflops(self) -> float:
        """GFLOPs weighted by max(w_bits, a_bits) / 32: as the peak rate of matrix units grows."""
        return sum(2 * layer.macs * max(layer.w_bits, layer.a_bits) for layer in self.layers) / FLOAT_BITS / 1e9

    @cached_property
    def gbops_acc(self) -> float:
        """Bit operations with accumulation / 1e9."""
        return sum(layer.bops_acc for layer in self.layers) / 1e9

    @cached_property
    def weight_bytes(self) -> float:
        """Bytes of the weights at their widths, and of what stays in float."""
        return sum(layer.weight_bytes for layer in self.layers) + self.float_bytes

    def relative_to(self, dense: "Cost") -> float:
        """relative_bops: gbops / gbops of the dense FP32 network."""
        return self.gbops / dense.gbops


# What runs and counts 0. What is neither here nor a layer is an error.
_FREE_MODULES = (
    Normalize, Leaf, FakeQuantizeBase, _BatchNorm, _DropoutNd, StochasticDepth, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm,
    nn.Identity, nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.Upsample, nn.ChannelShuffle, nn.PixelShuffle,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax,
    BNReLU2d, nnq.BatchNorm2d, nnq.ReLU6, nnq.Hardswish, nnq.LeakyReLU, nnq.Sigmoid, nnq.Dropout,
)  # fmt: skip
_FREE_TARGETS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.neg, operator.pow,
    operator.getitem, operator.eq, operator.ne, operator.lt, operator.gt, getattr,
    torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.abs, torch.square, torch.sqrt, torch.pow, torch.exp,
    torch.clamp, torch.maximum, torch.minimum, torch.mean, torch.sum, torch.amax, torch.cat, torch.concat,
    torch.stack, torch.chunk, torch.split, torch.unsqueeze, torch.transpose, torch.permute, torch.relu,
    torch.sigmoid, torch.tanh, torch.softmax, torch._assert,
    F.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.softplus,
    F.hardswish, F.hardsigmoid, F.softmax, F.log_softmax, F.batch_norm, F.layer_norm, F.group_norm, F.normalize,
    F.avg_pool2d, F.adaptive_avg_pool2d, F.pad, F.interpolate,
    torch.quantize_per_tensor, torch.ops.quantized.add, torch.ops.quantized.add_relu, torch.ops.quantized.mul,
    torch.ops.quantized.mul_relu, torch.ops.quantized.cat, torch.ops.quantized.batch_norm2d,
    torch.ops.quantized.batch_norm2d_relu, torch.ops.quantized.hardswish, torch.ops.quantized.leaky_relu,
    "add", "sub", "mul", "div", "neg", "abs", "pow", "square", "sqrt", "exp", "clamp", "mean", "sum", "amax", "relu",
    "sigmoid", "tanh", "softmax", "size", "dim", "numel", "unsqueeze", "transpose", "permute", "chunk", "split",
    "expand", "expand_as", "detach", "clone", "float", "to", "dequantize",
}  # fmt: skip
_LINEAR_MODULES = (nn.Linear, nnq.Linear)
_CONV_FUNCTIONS = {F.conv1d: "Conv1d", F.conv2d: "Conv2d", F.conv3d: "Conv3d"}
_MATMUL_FUNCTIONS = {  # target -> type, and where and by what name the two operands are given
    F.linear: ("Linear", (0, 1), ("input", "weight")),
    torch.matmul: ("matmul", (0, 1), ("input", "other")),
    operator.matmul: ("matmul", (0, 1), ("a", "b")),
    "matmul": ("matmul", (0, 1), ("self", "tensor2")),
    torch.mm: ("matmul", (0, 1), ("input", "mat2")),
    "mm": ("matmul", (0, 1), ("self", "mat2")),
    torch.bmm: ("matmul", (0, 1), ("input", "mat2")),
    "bmm": ("matmul", (0, 1), ("self", "batch2")),
    torch.addmm: ("matmul", (1, 2), ("mat1", "mat2")),
    "addmm": ("matmul", (1, 2), ("mat1", "mat2")),
}


def count_cost(network: nn.Module, image_shape: tuple[int, int, int]) -> Cost:
    """Costs of a network for one image [c, h, w].

    network: any that torch.fx can trace, in FP32, FP16, Brevitas, torch.ao QAT or converted torch.ao form. It
    is copied and run once in eval mode. A converted network has folded its batch normalisation, so its params
    are fewer than those of the QAT network that it came from; all else agrees but for a few bytes of scales.

    Raises UserError for an operation whose cost isn't known, and where the network can't take such an image.
    """
    network = copy.deepcopy(network).eval()
    if not isinstance(network, fx.GraphModule):
        network = trace(network)
    ask_for_widths(network)
    run = _run(network, image_shape)
    layers: list[LayerCost] = []
    seen: set[str] = set()  # the places of weights that have been counted
    for node in network.graph.nodes:
        if node in run.layers:
            weight, layer = run.layers[node]
            layers.append(replace(layer, weight_elements=0) if weight in seen else layer)
            seen.add(weight)
        elif not _is_free(node):
            raise UserError(_unknown(node))
    return Cost(tuple(layers), *_parameters(network, seen))


class _Run(fx.Interpreter):
    """Runs a network once; keeps shapes and widths, and the cost of each layer beside the place of its weight."""

    def __init__(self, network: fx.GraphModule):
        super().__init__(network)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.widths: dict[fx.Node, float] = {}
        self.layers: dict[fx.Node, tuple[str, LayerCost]] = {}

    def run_node(self, node: fx.Node):
        result = super().run_node(node)
        if hasattr(result, "shape"):
            self.shapes[node] = tuple(result.shape)
        self.widths[node] = tensor_width(node, result, self.widths)
        module = module_of(node)
        called = node.target if node.op in ("call_function", "call_method") else None
        if isinstance(module, (_ConvNd, IntConv, *_LINEAR_MODULES)):
            self.layers[node] = (f"{node.target}.weight", self._module_cost(node, module))
        elif called in _CONV_FUNCTIONS or called in _MATMUL_FUNCTIONS:
            self.layers[node] = self._function_cost(node)
        return result

    def _module_cost(self, node: fx.Node, module: nn.Module) -> LayerCost:
        source = node.all_input_nodes[0]
        weight = module.weight() if callable(module.weight) else module.weight  # torch.ao's integer modules: a method
        bits = (weight_width(module), input_width(module, self.widths[source]))
        if isinstance(module, _LINEAR_MODULES):
            channels = (module.in_features, module.out_features)
            macs = math.prod(self.shapes[node]) * module.in_features
            return LayerCost(node.target, "Linear", macs, *bits, weight.numel(), *channels)
        kernel, channels = tuple(module.kernel_size), (module.in_channels, module.out_channels)
        transposed = isinstance(module, _ConvTransposeNd)
        places, fan = (source, channels[1]) if transposed else (node, channels[0])  # [1, c, h, w] each
        macs = math.prod(self.shapes[places]) * (fan // module.groups) * math.prod(kernel)
        kind = f"Conv{'Transpose' if transposed else ''}{len(kernel)}d"
        return LayerCost(node.target, kind, macs, *bits, weight.numel(), *channels, kernel, module.groups)

    def _function_cost(self, node: fx.Node) -> tuple[str, LayerCost]:
        convolution = _CONV_FUNCTIONS.get(node.target)
        kind, places, names = _MATMUL_FUNCTIONS.get(node.target, (convolution, (0, 1), ("input", "weight")))
        given = [node.args[p] if p < len(node.args) else node.kwargs[n] for p, n in zip(places, names, strict=True)]
        inputs, weight = given
        bits = (self.widths[weight], self.widths[inputs])
        elements = math.prod(self.shapes[weight]) if weight.op == "get_attr" else 0
        place = weight.target if weight.op == "get_attr" else node.name
        out = self.shapes[node]
        if convolution:
            shape, c_in = self.shapes[weight], self.shapes[inputs][1]  # [c_out, c_in / groups, *kernel]
            macs, groups = math.prod(out) * math.prod(shape[1:]), c_in // shape[1]
            return place, LayerCost(node.name, kind, macs, *bits, elements, c_in, shape[0], tuple(shape[2:]), groups)
        inner = self.shapes[inputs][-1]  # [..., inner] x [inner, outer]
        return place, LayerCost(node.name, kind, math.prod(out) * inner, *bits, elements, inner, out[-1] if out else 1)


def _run(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> _Run:
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    run = _Run(network)
    try:
        with torch.no_grad():
            run.run(torch.zeros(1, *image_shape, device=device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # what layers raise on a wrong shape
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the network can't run on one image of shape {list(image_shape)}: {reason}") from error
    return run


def _is_free(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output", "get_attr"):
        return True
    if node.op == "call_module":
        module = module_of(node)
        return isinstance(module, _FREE_MODULES) or (is_brevitas(module) and hasattr(module, "act_quant"))
    return only_moves(node) or node.target in _FREE_TARGETS


def _unknown(node: fx.Node) -> str:
    if node.op == "call_module":
        what = f"layer {node.target!r} ({type(module_of(node)).__name__})"
    else:
        what = f"operation {node.name!r} ({getattr(node.target, '__name__', node.target)})"
    return (
        f"the cost of {what} isn't known, and nothing unknown is counted as 0. "
        "Build it from Conv2d, Linear or matmul, or add it to qprune/cost.py."
    )


def _parameters(network: nn.Module, weights: set[str]) -> tuple[int, int]:
    """(params, float_bytes) as Cost defines them; weights: the places of those that layers count."""
    params = float_bytes = 0
    inside: list[str] = []  # prefixes whose tensors have been counted
    for place, module in network.named_modules():
        if any(place.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, FakeQuantizeBase):
            float_bytes += 5 * module.scale.numel()
            inside.append(place)
            continue
        if hasattr(module, "quant_injector"):  # a Brevitas quantiser
            float_bytes += 4 * sum(scale.numel() for scale in module.parameters())
            inside.append(place)
            continue
        if isinstance(module, _ConvBnNd):
            params += sum(parameter.numel() for parameter in module.bn.parameters())
            float_bytes += 0 if module.bias is not None else 4 * module.out_channels
            inside.append(f"{place}.bn")
        if isinstance(module, (IntConv, nnq.Linear)):
            bias, weight = module.bias(), module.weight()
            params += weight.numel() + (0 if bias is None else bias.numel())
            float_bytes += (0 if bias is None else 4 * bias.numel()) + 5 * weight.shape[0] + 5
            continue
        float_bits = module.weight_bits if isinstance(module, Leaf) and hasattr(module, "weight_bits") else FLOAT_BITS
        for name, tensor in module.named_parameters(recurse=False):
            params += tensor.numel()
            if (f"{place}.{name}" if place else name) not in weights:
                float_bytes += tensor.numel() * float_bits // 8
        float_bytes += sum(4 * b.numel() for b in module.buffers(recurse=False) if b.is_floating_point())
    return params, float_bytes
