"""Batch normalisation folded into the integer convolutions before it: the integers stay, scales and biases change.

For q the integer weights of an output channel, s their scale, f = gamma / sqrt(var + eps):
    bn(conv(x, s q) + b) = conv(x, (s |f|) (sign(f) q)) + beta + (b - mean) f
So the next quantiser stands right behind the convolution, and a runtime can fuse both into one integer kernel.
"""

import copy

import torch
from brevitas import nn as qnn
from torch import Tensor, fx, nn

from qprune.networks.graph import module_of, source_of
from qprune.precision.brevitas_qat import weight_quantizer_of


def fold_batch_norms(network: fx.GraphModule) -> fx.GraphModule:
    """A copy of a finished Brevitas network without the batch normalisations that can be folded.

    One stays where its convolution has other users or runs twice, or where a channel with negative f uses the lowest
    integer, whose negative its width can't hold.
    """
    network = copy.deepcopy(network).eval()
    calls = [node.target for node in network.graph.nodes if node.op == "call_module"]
    for node in list(network.graph.nodes):
        norm = module_of(node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
            continue
        source = source_of(node)
        conv = module_of(source)
        if not isinstance(conv, qnn.QuantConv2d) or len(source.users) > 1 or calls.count(source.target) > 1:
            continue
        if _fold(conv, norm):
            node.replace_all_uses_with(source)
            network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()
    return network


@torch.no_grad()
def _fold(conv: qnn.QuantConv2d, norm: nn.BatchNorm2d) -> bool:
    """Change the convolution's weights, scales and bias; returns whether it could be done."""
    assert norm.running_mean is not None and norm.running_var is not None
    quantizer = weight_quantizer_of(conv)
    quantized, step, _, _ = quantizer(conv.weight)
    integers = (quantized.double() / step).round()  # [out, in / groups, kh, kw]
    factor = _affine(norm.weight, 1.0, norm.running_var) / (norm.running_var.double() + norm.eps).sqrt()  # [out]
    if (integers[factor < 0] == quantizer.qmin).any():
        return False
    shape = (-1, 1, 1, 1)
    scale = torch.where(factor == 0, torch.ones_like(factor), factor.abs()).view(shape) * step
    quantizer.scale.copy_(scale)
    conv.weight.copy_(integers * factor.sign().view(shape) * scale)
    bias = 0.0 if conv.bias is None else conv.bias.double()
    shifted = _affine(norm.bias, 0.0, norm.running_var) + (bias - norm.running_mean.double()) * factor
    conv.bias = nn.Parameter(shifted.to(conv.weight.dtype), requires_grad=False)
    return True


def _affine(parameter: Tensor | None, value: float, like: Tensor) -> Tensor:
    return torch.full_like(like, value).double() if parameter is None else parameter.double()
