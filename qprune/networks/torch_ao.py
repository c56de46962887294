"""All of torch.ao that qprune uses: it is deprecated, and a torch without it lacks the precision `int8` alone.

Where it is gone, its classes here are empty ones that nothing is of, and `require_torch_ao` raises.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from qprune.registry.errors import UserError

__all__ = [
    "INT_FUNCTIONS", "LAST_TORCH", "BNReLU2d", "BackendConfig", "BackendPatternConfig", "DTypeConfig", "ObservationType",
    "get_native_backend_config", "ConvBn2d", "ConvBnReLU2d", "FakeQuantize", "FakeQuantizeBase", "IntConv",
    "IntELU", "IntGroupNorm", "IntInstanceNorm2d", "IntLinear", "LinearBn1d", "MinMaxObserver", "PerChannelMinMaxObserver", "PrepareCustomConfig", "QConfig",
    "QConfigMapping", "QatConvBn", "convert_fx", "prepare_qat_fx", "require_torch_ao",
]  # fmt: skip

LAST_TORCH = "2.14"  # the newest that int8 was run with

# torch's integer operators that a converted network calls as functions
INT_FUNCTIONS = [
    getattr(torch.ops.quantized, name)
    for name in (
        "add", "add_relu", "mul", "mul_relu", "cat", "batch_norm2d", "batch_norm2d_relu", "hardswish", "leaky_relu", "elu",
        "layer_norm",
    )
    if hasattr(torch.ops.quantized, name)
]  # fmt: skip

try:
    from torch.ao.nn.intrinsic import BNReLU2d
    from torch.ao.nn.intrinsic.qat import ConvBn2d, ConvBnReLU2d, LinearBn1d
    from torch.ao.nn.intrinsic.qat.modules.conv_fused import _ConvBnNd as QatConvBn
    from torch.ao.nn.quantized import ELU as IntELU
    from torch.ao.nn.quantized import GroupNorm as IntGroupNorm
    from torch.ao.nn.quantized import InstanceNorm2d as IntInstanceNorm2d
    from torch.ao.nn.quantized import Linear as IntLinear
    from torch.ao.nn.quantized.modules.conv import _ConvNd as IntConv
    from torch.ao.quantization import (
        FakeQuantize,
        FakeQuantizeBase,
        MinMaxObserver,
        PerChannelMinMaxObserver,
        QConfig,
        QConfigMapping,
    )
    from torch.ao.quantization.backend_config import (
        BackendConfig,
        BackendPatternConfig,
        DTypeConfig,
        ObservationType,
        get_native_backend_config,
    )
    from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx
except ImportError as error:
    _MISSING: str | None = str(error)
    if not TYPE_CHECKING:
        globals().update({name: type(name, (nn.Module,), {}) for name in set(__all__) - set(globals())})
else:
    _MISSING = None


def require_torch_ao() -> None:
    """Raises UserError, saying which torch has it and what works without, where torch.ao can't be imported."""
    if _MISSING is not None:
        raise UserError(
            f"int8 is made by torch.ao, which torch {torch.__version__} hasn't ({_MISSING}): install one that has it "
            f"(pip install 'torch=={LAST_TORCH}.*'), or take w8a8, which needs Brevitas alone."
        )
