"""Uniform integer quantisation with learned scales, as one fused autograd function, and Brevitas parts from it.

LSQ (Esser et al., "Learned step size quantization", ICLR 2020, Eq. 1-3), with zero point 0:
    q(x) = clamp(round(x / s), qmin, qmax) * s
    dq/dx = 1 where round(x / s) is in qmin..qmax, else 0
    dq/ds = round(x/s) - x/s there, qmin or qmax outside
so that, g being the gradient at q(x) and h = g * dq/dx:  dL/ds = (sum g q(x) - sum h x) / s.
Autograd's own chain over the same formula takes several passes more over the activations.
"""

import math

import torch
from brevitas.inject import ExtendedInjector, value
from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
from torch import Tensor, nn

from qprune.networks.operations import is_brevitas

MIN_SCALE = 1e-8
MAX_RELATIVE_GRADIENT = 1.0  # a scale's gradient stays within +- this times the scale
FITTED_VALUES = 2**20  # a tensor's first scales are fitted to about so many of its values


def int_range(bits: int, signed: bool) -> tuple[int, int]:
    """(qmin, qmax) of the full range: -2^(b-1)..2^(b-1)-1 or 0..2^b-1."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def quantize(values: Tensor, scale: Tensor | float, qmin: int, qmax: int) -> Tensor:
    """clamp(round(values / scale), qmin, qmax) * scale, ties to even; scale broadcasts against values.

    Plain vectorised passes: torch's fake-quantise kernels took ten times as long on a CPU.
    """
    return (values / scale).round_().clamp_(qmin, qmax).mul_(scale)


class _Quantize(torch.autograd.Function):
    """(q(values), step) with step = |scale|, at least MIN_SCALE: one for all, or one per channel in dimension 0.

    The gradient of the scale is that of the formula times grad_scale, clamped to +- MAX_RELATIVE_GRADIENT x step.
    Behind batch normalisation the gradient of a small weight scale can be hundreds of times the scale (depthwise
    layers of MobileNet-V2), and one SGD step of LSQ as published then throws the scale across 0.
    """

    @staticmethod
    def forward(ctx, values: Tensor, scale: Tensor, qmin: int, qmax: int, grad_scale: float):
        step = scale.abs().clamp_min_(MIN_SCALE)
        used = step if scale.dim() else float(step)
        quantized = quantize(values, used, qmin, qmax)
        ctx.save_for_backward(values, scale, quantized)
        ctx.used, ctx.settings = used, (qmin - 0.5, qmax + 0.5, grad_scale)
        ctx.mark_non_differentiable(step)
        return quantized, step

    @staticmethod
    def backward(ctx, gradient: Tensor, _):
        values, scale, quantized = ctx.saved_tensors
        used, (low, high, grad_scale) = ctx.used, ctx.settings
        if scale.dim():
            inside = torch.ops.aten.hardtanh_backward(gradient, values / used, low, high)
            total = (gradient * quantized).addcmul_(inside, values, value=-1).flatten(1).sum(1).view_as(scale)
        else:
            inside = torch.ops.aten.hardtanh_backward(gradient, values, low * used, high * used)
            if not ctx.needs_input_grad[1]:
                return inside, None, None, None, None
            total = _dot(gradient, quantized) - _dot(inside, values)
        largest = MAX_RELATIVE_GRADIENT * used
        total = total.mul_(grad_scale).div_(used).clamp_(-largest, largest).mul_(scale.sign())
        return inside, total, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))


def mse_scale(values: Tensor, qmin: int, qmax: int, candidates: int = 40) -> Tensor:
    """The scale of least squared rounding error, one per row of values [rows, n] -> [rows].

    Tries clips from each row's largest magnitude (in units of the range's end) down to 1/candidates of it; of
    equally good ones the larger is taken. A row of zeros gets the scale 1 / qmax: finite, and it keeps zeros.
    """
    high = values.amax(1) / qmax
    low = values.amin(1) / qmin if qmin else torch.zeros_like(high)
    largest = torch.maximum(high, low)
    largest = torch.where(largest > MIN_SCALE, largest, torch.full_like(largest, 1.0 / qmax))
    best, error = largest, torch.full_like(largest, math.inf)
    for step in range(candidates, 0, -1):
        scale = largest * (step / candidates)
        found = (quantize(values, scale[:, None], qmin, qmax) - values).square_().sum(1)
        best, error = torch.where(found < error, scale, best), torch.minimum(found, error)
    return best.clamp_min(MIN_SCALE)


class LearnedScaleQuant(nn.Module):
    """Brevitas `tensor_quant`: values -> (quantised values, scale, zero point, bit width); one learned scale.

    scale_shape: () for one scale, (c, 1, ...) for one per channel; learned: whether training changes it.
    The gradient of the scale is divided by sqrt(n * qmax), n the values per scale and example (LSQ, section 2.2).
    """

    zero_point: Tensor
    bit_width: Tensor

    def __init__(self, bit_width: int, signed: bool, scale_shape: tuple[int, ...], per_example: bool, learned: bool):
        super().__init__()
        self.bits, self.signed, self.per_example = bit_width, signed, per_example
        self.qmin, self.qmax = int_range(bit_width, signed)
        self.scale = nn.Parameter(torch.ones(scale_shape), requires_grad=learned)
        self.register_buffer("zero_point", torch.tensor(0.0), persistent=False)
        self.register_buffer("bit_width", torch.tensor(float(bit_width)), persistent=False)

    def forward(self, values: Tensor):
        groups = len(values) if self.per_example and values.dim() else self.scale.numel()
        grad_scale = 1.0 / math.sqrt(max(values.numel() // groups, 1) * self.qmax)
        quantized, step = _Quantize.apply(values, self.scale, self.qmin, self.qmax, grad_scale)
        return quantized, step, self.zero_point, self.bit_width

    @torch.no_grad()
    def start_from(self, values: Tensor) -> None:
        """Sets the scale(s) to the least squared error on values: all of them, or per channel in dimension 0."""
        rows = values.flatten(1) if self.scale.dim() else values.reshape(1, -1)
        stride = max(rows.numel() // FITTED_VALUES, 1)
        self.scale.copy_(mse_scale(rows[:, ::stride], self.qmin, self.qmax).view_as(self.scale))


def hand_on_plain_tensors(network: nn.Module, plain: bool) -> None:
    """Whether quantisers give plain tensors, which is faster, or Brevitas' QuantTensors, which know scale and width.

    The network computes the same values. Export and questions about widths need QuantTensors.
    """
    for module in network.modules():
        if is_brevitas(module) and hasattr(module, "skip_create_quant_tensor"):
            module.skip_create_quant_tensor = plain


class WeightQuant(ExtendedInjector):
    """Per-channel, signed, full-range weights with learned scales."""

    proxy_class = WeightQuantProxyFromInjector
    tensor_quant = LearnedScaleQuant
    signed = True
    narrow_range = False
    float_to_int_impl_type = "ROUND"
    per_example = False
    learned = True
    bit_width = 8

    @value
    def scale_shape(module):
        return (module.weight.shape[0],) + (1,) * (module.weight.dim() - 1)


class ActQuant(ExtendedInjector):
    """Per-tensor, full-range activations with a learned scale."""

    proxy_class = ActQuantProxyFromInjector
    tensor_quant = LearnedScaleQuant
    signed = True
    narrow_range = False
    float_to_int_impl_type = "ROUND"
    per_example = True
    learned = True
    bit_width = 8
    scale_shape = ()
