"""Brevitas as its users chain it: stock quantisers, per-channel weights, activation scales after its calibration_mode.

8 bits at both ends as in qprune's w*a* formats; weights and activations of `bits` bits between.
"""

import copy
from collections import OrderedDict

import torch
from brevitas import nn as qnn
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import Int8WeightPerChannelFloat
from torch import Tensor, fx, nn

from qprune.networks.graph import module_of


def prepare(network: fx.GraphModule, calibration: Tensor | None, *, bits: int) -> nn.Sequential:
    """The layers of a chain with a ReLU before every convolution but the first. calibration: [n, c, h, w] in 0..1."""
    chain = [(node.target, copy.deepcopy(module_of(node))) for node in network.graph.nodes if node.op == "call_module"]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    first = True
    for name, module in chain:
        if isinstance(module, nn.Conv2d):
            if first:
                layers["quant_input"] = qnn.QuantIdentity(bit_width=8)
            layers[name] = qnn.QuantConv2d(
                module.in_channels, module.out_channels, module.kernel_size, stride=module.stride, padding=module.padding,
                bias=False, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8 if first else bits,
            )  # fmt: skip
            layers[name].weight.data.copy_(module.weight)
            first = False
        elif isinstance(module, nn.ReLU):
            layers[name] = qnn.QuantReLU(bit_width=bits)
        elif isinstance(module, nn.Linear):
            layers["quant_features"] = qnn.QuantIdentity(bit_width=8)
            layers[name] = qnn.QuantLinear(
                module.in_features, module.out_features, bias=True,
                weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8,
            )  # fmt: skip
            layers[name].load_state_dict({**layers[name].state_dict(), **module.state_dict()})
        else:
            layers[name] = module
    quantized = nn.Sequential(layers).eval()
    if calibration is not None:
        with torch.no_grad(), calibration_mode(quantized):
            quantized(calibration)
    return quantized


def finish(trained: nn.Sequential) -> nn.Sequential:
    """A copy in eval mode."""
    return copy.deepcopy(trained).eval()
