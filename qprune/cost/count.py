"""What a network costs: MACs, bit operations and bytes, per layer and in total, from the layers that really run.

A convolution, linear layer or matmul counts its multiply-accumulates for one image. Biases, batch
normalisation, activations, pooling and elementwise arithmetic count 0, as qprune.networks.operations has it; what
that doesn't list is an error that names it. Widths are what qprune.cost.widths reads from the network, never what was asked for.

bit_gflops = sum of 2 x macs x w_bits x a_bits / (32 x 32) / 1e9; gbops_acc is the form with accumulation of
UNIQ (Baskin et al., ACM TOCS 2021) and Hawks et al., "Ps and Qs" (Frontiers in AI 2021).
"""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.fx.node import _get_qualified_name
from torch.nn.modules.conv import _ConvNd

from qprune.cost.memory import Made, made_by, peak_activation_bytes
from qprune.cost.widths import (
    FLOAT_BITS,
    ask_for_widths,
    input_width,
    memory_width,
    stored_width,
    tensor_width,
    weight_width,
)
from qprune.networks.given import as_image_shape, check_module, is_channels_last
from qprune.networks.graph import Leaf, kind_of, layer_of, module_of, operation_of, refuse_ties, trace
from qprune.networks.operations import UNKNOWN, Operation
from qprune.networks.torch_ao import FakeQuantize, IntConv, IntELU, IntLinear, LinearBn1d, QatConvBn
from qprune.registry.errors import BadInput, UserError


@dataclass(frozen=True)
class LayerCost:
    """One layer, for one image.

    type: Conv2d, Linear, matmul ... whatever the number format
    w_bits, a_bits: widths of the weights and of the tensor that arrives (of a matmul's second and first
        operand); whole numbers unless a quantiser's levels are no power of two
    weight_elements: of the weight alone; 0 where a layer runs again, or multiplies two activations
    channels_in: of a registered operation, which has macs of its own, the products in a value
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

    @property
    def stored_bytes(self) -> float:
        """weight_elements x the width that a file has for them / 8."""
        return self.weight_elements * stored_width(self.w_bits) / 8


@dataclass(frozen=True)
class Cost:
    """The layers of a network, its parameters, and the bytes that are no layer's weights.

    params: weights, biases and the affine parameters of batch normalisation; scales of quantisers are none
    float_bytes: what else inference needs: biases, batch normalisation (affine parameters and running
        statistics; a bias per channel where torch.ao folds it into a convolution) and the constants of the
        input normalisation, 4 bytes each (biases in half: 2); scales, 4 bytes; torch.ao's zero points, 1
    peak_activation_bytes: the largest sum of tensors alive at once in one image's forward pass, as qprune.cost.memory
        has it
    """

    layers: tuple[LayerCost, ...]
    params: int
    float_bytes: int
    peak_activation_bytes: int

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
        return self.weight_bits_bytes + self.float_bytes

    @cached_property
    def weight_bits_bytes(self) -> float:
        """Bytes of the weights alone at their widths, as papers count that give sizes of weights; nothing that stays in float."""
        return sum(layer.weight_bytes for layer in self.layers)

    @cached_property
    def stored_bytes(self) -> float:
        """Bytes of an exported file without its graph: as weight_bytes, with weights at the widths that files have.

        Those are 4 bits, two values to a byte (weights of 2, 3 and 4 bits), 8 (5 to 8 bits), 16 and 32. 2 bits are stored
        in 4, for that is what ONNX has up to opset 24; `qprune export --opset 25` stores them in 2.
        """
        return sum(layer.stored_bytes for layer in self.layers) + self.float_bytes

    @cached_property
    def values_per_weight(self) -> float:
        """Values that the convolutions make of one image, over the weights that they make them with; 0 without any.

        A layer that runs again is left out.
        """
        own = [layer for layer in self.layers if layer.kernel and layer.weight_elements]
        values = sum(layer.macs * layer.channels_out // layer.weight_elements for layer in own)
        return values / sum(layer.weight_elements for layer in own) if own else 0.0

    def relative_to(self, dense: "Cost") -> float:
        """relative_bops: gbops / gbops of the dense FP32 network."""
        return self.gbops / dense.gbops


def count_cost(network: nn.Module, image_shape: tuple[int, int, int]) -> Cost:
    """Costs of a network for one image [c, h, w].

    network: any that torch.fx can trace, in FP32, FP16, Brevitas, torch.ao QAT or converted torch.ao form. It
    is copied and run once in eval mode. A converted network has folded its batch normalisation, so its params
    are fewer than those of the QAT network that it came from; all else agrees but for a few bytes of scales.

    Raises UserError for an operation whose cost isn't known; BadInput, a ValueError, where the network is none or can't take
    such an image.
    """
    check_module("network", network)
    image_shape = as_image_shape(image_shape)
    if not isinstance(network, fx.GraphModule):
        refuse_ties(network)  # a copy has lost those of views
    network = copy.deepcopy(network).eval()
    if not isinstance(network, fx.GraphModule):
        network = trace(network)
    ask_for_widths(network)
    run = _run(network, image_shape)
    layers: list[LayerCost] = []
    seen: set[str] = set()  # the places of weights that have been counted
    for node in network.graph.nodes:
        operation = operation_of(node)
        if operation is UNKNOWN and node.op.startswith("call_"):
            raise UserError(_unknown(node))
        if operation.macs:
            weight, layer = run.cost(node, operation)
            layers.append(replace(layer, weight_elements=0) if weight in seen else layer)
            seen.add(weight)
    peak = peak_activation_bytes(network, run.made, run.in_memory)
    return Cost(tuple(layers), *_parameters(network, seen), peak)


class _Run(fx.Interpreter):
    """Runs a network once; keeps shapes, widths and what took memory, from which it gives the cost of layers."""

    def __init__(self, network: fx.GraphModule):
        super().__init__(network)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.widths: dict[fx.Node, float] = {}
        self.in_memory: dict[fx.Node, float] = {}
        self.made: dict[fx.Node, Made] = {}

    def run_node(self, node: fx.Node):
        result = super().run_node(node)
        first = result[0] if isinstance(result, tuple) and result else result
        if hasattr(first, "shape"):
            self.shapes[node] = tuple(first.shape)
        self.widths[node] = tensor_width(node, result, self.widths)
        self.in_memory[node] = memory_width(node, result, self.in_memory)
        self.made[node] = made_by(node, result, {source: self.env[source] for source in node.all_input_nodes})
        return result

    def cost(self, node: fx.Node, operation: Operation) -> tuple[str, LayerCost]:
        """The place of a layer's weight, and its cost."""
        module = module_of(node)
        if callable(operation.macs):
            return node.name, self._registered_cost(node, operation.macs(node, self.shapes))
        if module is None:
            return self._function_cost(node, operation)
        return f"{node.target}.weight", self._module_cost(node, module, operation)

    def _module_cost(self, node: fx.Node, module: nn.Module, operation: Operation) -> LayerCost:
        source = node.all_input_nodes[0]
        bits = (weight_width(module), input_width(module, self.widths[source]))
        assert isinstance(module, (nn.Linear, _ConvNd, IntLinear, IntConv))
        weight = module._weight_bias()[0] if isinstance(module, (IntLinear, IntConv)) else module.weight
        if isinstance(module, (nn.Linear, IntLinear)):
            channels = (module.in_features, module.out_features)
            macs = math.prod(self.shapes[node]) * module.in_features
            return LayerCost(layer_of(node), "Linear", macs, *bits, weight.numel(), *channels)
        kernel, channels = tuple(module.kernel_size), (module.in_channels, module.out_channels)
        places, fan = (source, channels[1]) if module.transposed else (node, channels[0])  # [1, c, h, w] each
        macs = math.prod(self.shapes[places]) * (fan // module.groups) * math.prod(kernel)
        kind = f"Conv{'Transpose' if module.transposed else ''}{len(kernel)}d"
        return LayerCost(layer_of(node), kind, macs, *bits, weight.numel(), *channels, kernel, module.groups)

    def _function_cost(self, node: fx.Node, operation: Operation) -> tuple[str, LayerCost]:
        inputs, weight = (_given(node, *operand) for operand in operation.operands)
        bits = (self.widths[weight], self.widths[inputs])
        elements = math.prod(self.shapes[weight]) if weight.op == "get_attr" else 0
        place = layer_of(weight) if weight.op == "get_attr" else node.name
        out = self.shapes[node]
        if operation.macs == "convolution":
            shape, c_in = self.shapes[weight], self.shapes[inputs][1]  # [c_out, c_in / groups, *kernel]
            macs, groups, kernel = math.prod(out) * math.prod(shape[1:]), c_in // shape[1], tuple(shape[2:])
            kind = f"Conv{len(kernel)}d"
            return place, LayerCost(node.name, kind, macs, *bits, elements, c_in, shape[0], kernel, groups)
        inner = self.shapes[inputs][-1]  # [..., inner] x [inner, outer]
        kind = "Linear" if operation.macs == "linear" else "matmul"
        return place, LayerCost(node.name, kind, math.prod(out) * inner, *bits, elements, inner, out[-1] if out else 1)

    def _registered_cost(self, node: fx.Node, macs: int) -> LayerCost:
        """Of a registered operation; a module's own parameters are float."""
        arriving, *others = (self.widths[source] for source in node.all_input_nodes)
        name, out = layer_of(node) if node.op == "call_module" else node.name, self.shapes[node]
        bits = (others[0] if others else FLOAT_BITS, arriving)
        return LayerCost(name, kind_of(node), macs, *bits, 0, max(1, macs // math.prod(out)), math.prod(out[1:2]))


def _given(node: fx.Node, place: int, names: str) -> fx.Node:
    """An argument that is given by its place or by one of the names."""
    given = (
        node.args[place] if place < len(node.args) else next(node.kwargs[n] for n in names.split() if n in node.kwargs)
    )
    assert isinstance(given, fx.Node)
    return given


def _run(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> _Run:
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    run = _Run(network)
    try:
        with torch.no_grad():
            run.run(torch.zeros(1, *image_shape, device=device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # what layers raise on a wrong shape
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "; it must be (c, h, w)" if is_channels_last(image_shape) else ""
        raise BadInput(f"the network can't run on one image of shape {list(image_shape)}{hint}: {reason}") from error
    return run


def _unknown(node: fx.Node) -> str:
    if node.op == "call_module":
        what, form = f"layer {node.target!r}", torch.typename(module_of(node))
    else:
        what = f"operation {node.name!r}"
        form = (
            f'"{node.target}"' if isinstance(node.target, str) else _get_qualified_name(node.target).removeprefix("_")
        )
    return (
        f"the cost of {what} ({kind_of(node)}) isn't known, and nothing unknown is counted as 0. Build it from Conv2d, "
        "Linear or matmul, or say what it costs in the module that defines the network: "
        f"qprune.register_operation({form}, macs=0) if nothing, else help(qprune.register_operation) says how."
    )


def _parameters(network: nn.Module, weights: set[str]) -> tuple[int, int]:
    """(params, float_bytes) as Cost defines them; weights: the places of those that layers count."""
    params = float_bytes = 0
    inside: list[str] = []  # prefixes whose tensors have been counted
    for place, module in network.named_modules():
        if any(place.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, FakeQuantize):
            float_bytes += 5 * module.scale.numel()
            inside.append(place)
            continue
        if hasattr(module, "quant_injector"):  # a Brevitas quantiser
            float_bytes += 4 * sum(scale.numel() for scale in module.parameters())
            inside.append(place)
            continue
        if isinstance(module, (QatConvBn, LinearBn1d)):
            params += sum(parameter.numel() for parameter in module.bn.parameters())
            float_bytes += 0 if module.bias is not None else 4 * module.bn.num_features
            inside.append(f"{place}.bn")
        if isinstance(module, (IntConv, IntLinear)):
            weight, bias = module._weight_bias()
            params += weight.numel() + (0 if bias is None else bias.numel())
            float_bytes += (0 if bias is None else 4 * bias.numel()) + 5 * _scales(weight) + 5
            continue
        float_bits = module.weight_bits if isinstance(module, Leaf) else FLOAT_BITS
        for name, tensor in module.named_parameters(recurse=False):
            params += tensor.numel()
            if (f"{place}.{name}" if place else name) not in weights:
                float_bytes += tensor.numel() * float_bits // 8
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() or "zero_point" in name:
                float_bytes += buffer.numel() * (4 if buffer.is_floating_point() else 1)
        if isinstance(module, IntELU):  # the only one that keeps both as plain numbers
            float_bytes += 5
    return params, float_bytes


def _scales(weight: Tensor) -> int:
    """How many scales an integer weight has: one per channel, or one."""
    return weight.q_per_channel_scales().numel() if weight.qscheme() == torch.per_channel_affine else 1
