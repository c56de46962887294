"""How many bits the operands of a layer really have, read from the quantisers that are in the network.

The width of a tensor is set by the quantiser that it comes from, kept by what only moves values (and by ReLU
and gates, which keep values or give 0), and 32 otherwise. A quantiser's width is log2(quant_max - quant_min + 1).
"""

import math
from typing import Protocol

import torch
from torch import Tensor, fx, nn

from qprune.networks.graph import Leaf, module_of, network_of, operation_of
from qprune.networks.operations import is_brevitas
from qprune.networks.torch_ao import FakeQuantize, IntConv, IntLinear

FLOAT_BITS = 32
HALF_BITS = 16
STORED_WIDTHS = (4, 8, HALF_BITS, FLOAT_BITS)  # bits that exported files have for a weight


def width_of_range(quant_min: int, quant_max: int) -> float:
    """log2(quant_max - quant_min + 1), an int where it is whole."""
    levels = int(quant_max) - int(quant_min) + 1
    return levels.bit_length() - 1 if levels & (levels - 1) == 0 else math.log2(levels)


def stored_width(bits: float) -> int:
    """The least of STORED_WIDTHS that holds a weight of so many bits."""
    return next(width for width in STORED_WIDTHS if bits <= width)


class Proxy(Protocol):
    """A Brevitas quantiser."""

    is_quant_enabled: bool
    is_narrow_range: bool

    def bit_width(self) -> Tensor: ...


def ask_for_widths(network: nn.Module) -> None:
    """Makes Brevitas quantisers hand on their widths, where precision/brevitas_qat turned that off."""
    for module in network.modules():
        if is_brevitas(module) and hasattr(module, "skip_create_quant_tensor"):
            module.skip_create_quant_tensor = False


def proxy_bits(proxy: Proxy | None) -> float | None:
    """Width of a Brevitas quantiser (a proxy); None where there is none or it is off."""
    if proxy is None or not proxy.is_quant_enabled:
        return None
    bits = round(float(proxy.bit_width()))
    return width_of_range(1 if proxy.is_narrow_range else 0, 2**bits - 1)


def fake_quantize_bits(fake: FakeQuantize) -> float:
    """Width of a torch.ao fake quantiser, whatever its dtype; 32 where it is off."""
    if not int(fake.fake_quant_enabled[0]):
        return FLOAT_BITS
    return width_of_range(fake.activation_post_process.quant_min, fake.activation_post_process.quant_max)


def weight_width(layer: nn.Module) -> float:
    """Width of a convolution's or linear layer's weights, by whatever quantises them."""
    if isinstance(layer, (IntConv, IntLinear)):
        return torch.iinfo(layer._weight_bias()[0].dtype).bits
    if isinstance(fake := getattr(layer, "weight_fake_quant", None), FakeQuantize):
        return fake_quantize_bits(fake)
    if is_brevitas(layer):
        return proxy_bits(layer.weight_quant) or FLOAT_BITS
    return layer.weight_bits if isinstance(layer, Leaf) else FLOAT_BITS


def input_width(layer: nn.Module | None, arriving: float) -> float:
    """Width of what a layer multiplies: of its own input quantiser (Brevitas) or of the tensor that arrives."""
    own = proxy_bits(layer.input_quant) if is_brevitas(layer) and hasattr(layer, "input_quant") else None
    return own or arriving


def memory_width(node: fx.Node, result: object, widths: dict[fx.Node, float]) -> float:
    """tensor_width, as it lies in memory: torch.ao's integers take a byte, whatever their range. widths: such ones."""
    if isinstance(result, Tensor) and result.is_quantized:
        return torch.iinfo(result.dtype).bits
    width, module = tensor_width(node, result, widths), module_of(node)
    return torch.iinfo(module.dtype).bits if isinstance(module, FakeQuantize) and width <= 8 else width


def tensor_width(node: fx.Node, result: object, widths: dict[fx.Node, float]) -> float:
    """Width of the tensor that a node gives.

    result: what it gave in a run; widths: of the nodes before it.
    """
    module = module_of(node)
    if isinstance(result, Tensor) and result.is_quantized:
        used = network_of(node).meta.get("activation_range")  # from precision/torch_ao
        return width_of_range(*used) if used else torch.iinfo(result.dtype).bits
    if isinstance(module, Leaf) and module.bits is not None:
        return module.bits
    if isinstance(module, FakeQuantize):
        return fake_quantize_bits(module)
    if is_brevitas(module):
        return proxy_bits(getattr(module, "act_quant", getattr(module, "output_quant", None))) or FLOAT_BITS
    sources = [widths[source] for source in node.all_input_nodes]
    operation = operation_of(node)
    if operation.keeps_width:
        return sources[0]
    if sources and max(sources) == HALF_BITS and operation.exact:
        return HALF_BITS
    return FLOAT_BITS
