"""FP16 with FP32 accumulation, emulated: operands and results are rounded to half, products are summed in FP32.

That is what a tensor core with FP32 accumulation does, and it runs at FP32 speed where a CPU has no half
arithmetic. Weights and biases of convolutions and linear layers are rounded in the forward pass; FP32 masters
are what is trained, with straight-through gradients. Batch normalisation is computed in FP32 (as in mixed
precision on a GPU) and its result rounded. What exceeds 65504 becomes infinite and stays so.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.cost.widths import HALF_BITS
from qprune.networks.graph import Leaf, Normalize, insert_behind, module_of, operation_of


class _RoundHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return values.half().float()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def round_half(values: Tensor) -> Tensor:
    """The nearest half-precision values, as FP32 (beyond 65504: inf); the gradient passes unchanged."""
    return _RoundHalf.apply(values)


class RoundHalf(Leaf):
    """Rounds a float tensor to half; hands on what isn't one (a size)."""

    bits = HALF_BITS

    def forward(self, values):
        return round_half(values) if isinstance(values, Tensor) and values.is_floating_point() else values


def _rounded(values: Tensor | None) -> Tensor | None:
    return None if values is None else round_half(values)


class HalfConv2d(nn.Conv2d, Leaf):
    """Conv2d whose weights and biases are rounded to half."""

    weight_bits = HALF_BITS

    def forward(self, images: Tensor) -> Tensor:
        return self._conv_forward(images, round_half(self.weight), _rounded(self.bias))


class HalfLinear(nn.Linear, Leaf):
    """Linear whose weights and biases are rounded to half."""

    weight_bits = HALF_BITS

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, round_half(self.weight), _rounded(self.bias))


_HALF_LAYERS = {nn.Conv2d: HalfConv2d, nn.Linear: HalfLinear}


def _needs_rounding(node: fx.Node) -> bool:
    """Results that are computed, and images that go to a layer without being normalised first."""
    if node.op == "placeholder":
        return not all(isinstance(module_of(user), Normalize) for user in node.users)
    return node.op.startswith("call_") and not operation_of(node).exact


def prepare(network: fx.GraphModule, calibration: Tensor | None) -> fx.GraphModule:
    """A copy with a rounding after every operation that computes, and half-rounding convolutions and linears."""
    network = copy.deepcopy(network)
    for module in {module_of(node) for node in network.graph.nodes}:  # not what stands inside another layer
        half = _HALF_LAYERS.get(type(module))
        if half is not None:
            module.__class__ = half  # same parameters, another forward
    computing = [n for n in network.graph.nodes if _needs_rounding(n)]
    for count, node in enumerate(computing):
        insert_behind(node, f"round_half_{count}", RoundHalf())
    network.graph.lint()
    network.recompile()
    return network


def finish(trained: fx.GraphModule) -> fx.GraphModule:
    """A copy in eval mode."""
    return copy.deepcopy(trained).eval()
