"""The bytes that a finished network needs, counted from its tensors, each storage once: what count_cost is held against."""

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized.modules.conv import _ConvNd as IntConv

from qprune.precision.fp16 import HalfConv2d, HalfLinear

SCALE, ZERO_POINT = 4, 1


def stored_bytes(finished: nn.Module) -> float:
    """Integers at their width, halves 2, floats 4, a scale 4, a zero point 1; what only training reads is left out."""
    total, seen, inside = 0.0, set(), []
    for place, module in finished.named_modules():
        if any(place.startswith(f"{prefix}.") for prefix in inside):
            continue
        if isinstance(module, (IntConv, nnq.Linear)):
            weight, bias = module._weight_bias()
            scales = weight.q_per_channel_scales().numel() if weight.qscheme() == torch.per_channel_affine else 1
            total += weight.numel() + (scales + 1) * (SCALE + ZERO_POINT) + (0 if bias is None else 4 * bias.numel())
            continue
        if hasattr(module, "quant_injector"):
            inside.append(place)
            total += SCALE * sum(one.numel() for one in module.parameters())
            continue
        if isinstance(module, nnq.ELU):  # whose scale and zero point are plain numbers
            total += SCALE + ZERO_POINT
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.untyped_storage().data_ptr() not in seen and name != "num_batches_tracked":
                seen.add(tensor.untyped_storage().data_ptr())
                total += _bytes(name, tensor, module)
    return total


def _bytes(name: str, tensor: Tensor, module: nn.Module) -> float:
    if name.endswith("zero_point") or "zero_point" in name:
        return ZERO_POINT * tensor.numel()
    if name == "weight" and getattr(module, "weight_quant", None) is not None and module.weight_quant.is_quant_enabled:
        return tensor.numel() * float(module.weight_quant.bit_width()) / 8
    if isinstance(module, (HalfConv2d, HalfLinear)):
        return 2 * tensor.numel()
    return tensor.numel() * tensor.element_size()
