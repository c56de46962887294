"""What torch's TorchScript exporter lacks of torch.ao's integer operators, as QuantizeLinear around float ones (QDQ)."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

OPSET = 17


def _layer(operator: str, relu: bool):
    """QDQ around a float operator whose bias stays as it is. The arguments are those of torch's quantized::<operator>."""
    from torch.onnx import symbolic_helper as helper
    from torch.onnx import symbolic_opset9 as opset9

    def symbolic(g, q_input, q_weight, bias, *arguments):
        *geometry, scale, zero_point = arguments
        if operator.startswith("conv_transpose"):  # the integer one has the last two the other way round
            geometry[-2:] = geometry[:-3:-1]
        values, _, _, _ = helper.dequantize_helper(g, q_input)
        weight, _, _, _ = helper.dequantize_helper(g, q_weight)
        result: Any = getattr(opset9, operator)(g, values, weight, bias, *geometry)
        if relu:
            result = opset9.relu(g, result)
        return helper.quantize_helper(g, result, scale, zero_point)

    return symbolic


def _batch_norm(relu: bool):
    """quantized::batch_norm2d(input, gamma, beta, mean, variance, eps, scale, zero_point)."""
    from torch.onnx import symbolic_helper as helper
    from torch.onnx import symbolic_opset9 as opset9

    def symbolic(g, q_input, gamma, beta, mean, variance, eps, scale, zero_point):
        values, _, _, _ = helper.dequantize_helper(g, q_input)
        epsilon = helper._parse_arg(eps, "f")
        result: Any = g.op("BatchNormalization", values, gamma, beta, mean, variance, epsilon_f=epsilon)
        if relu:
            result = opset9.relu(g, result)
        return helper.quantize_helper(g, result, scale, zero_point)

    return symbolic


def _elu(g, q_input, scale, zero_point, alpha, *ones):
    """quantized::elu(input, scale, zero_point, alpha, 1, 1)."""
    from torch.onnx import symbolic_helper as helper

    values, _, _, _ = helper.dequantize_helper(g, q_input)
    return helper.quantize_helper(g, g.op("Elu", values, alpha_f=helper._parse_arg(alpha, "f")), scale, zero_point)


def _softmax(g, q_input, dim, scale, zero_point):
    """quantized::softmax(input, dim, scale, zero_point)."""
    from torch.onnx import symbolic_helper as helper

    values, _, _, _ = helper.dequantize_helper(g, q_input)
    return helper.quantize_helper(g, g.op("Softmax", values, axis_i=helper._parse_arg(dim, "i")), scale, zero_point)


def _moving(opset: str, function: str):
    """A float operator that moves values, of integers: rounded to the steps that they have."""
    import importlib

    from torch.onnx import symbolic_helper as helper

    module = importlib.import_module(f"torch.onnx.symbolic_{opset}")
    return helper.quantized_args(True)(getattr(module, function))


def _symbolics() -> dict[str, Callable[..., Any]]:
    layers: dict[str, Callable[..., Any]] = {
        f"quantized::{operator}{suffix}": _layer(operator, bool(suffix))
        for operator in ("conv1d", "conv2d", "conv3d", "linear")
        for suffix in ("", "_relu")
    }
    return layers | {
        "quantized::conv_transpose2d": _layer("conv_transpose2d", False),
        "quantized::batch_norm2d": _batch_norm(False),
        "quantized::batch_norm2d_relu": _batch_norm(True),
        "quantized::elu": _elu,
        "quantized::softmax": _softmax,
        "aten::permute": _moving("opset9", "permute"),
        "aten::pixel_shuffle": _moving("opset11", "pixel_shuffle"),
        "aten::clamp": _moving("opset11", "clamp"),
        "aten::clamp_min": _moving("opset11", "clamp_min"),
        "aten::relu6": _moving("opset11", "relu6"),
        "aten::pad": _moving("opset11", "pad"),
        "aten::squeeze": _moving("opset11", "squeeze"),
        "aten::unsqueeze": _moving("opset11", "unsqueeze"),
    }


@contextmanager
def integer_operators():
    """The exporter with these."""
    symbolics = _symbolics()
    for name, symbolic in symbolics.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        yield
    finally:
        for name in symbolics:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)
