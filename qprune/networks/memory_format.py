"""Networks in channels_last while they are trained, but for the layers that oneDNN can't train so.

In that format oneDNN's gradient of the weights of a strided 1x1 convolution writes past its workspace where the layer has fewer
input channels than a block, 8 with AVX2 and 16 with AVX-512 (uxlfoundation/oneDNN issue 6035, still so in torch 2.14):
wrong gradients, or a crash. Shortcuts of residual networks are such layers as soon as enough of their maps are gone.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.networks.operations import argument

BLOCK = 16  # channels; the largest that oneDNN has


@contextmanager
def trained_as(network: nn.Module, channels_last: bool) -> Iterator[torch.memory_format]:
    """Inside, the network is in the format that is given; contiguous afterwards, as one that goes on from a file is."""
    layout = torch.channels_last if channels_last and not _calls_overrun(network) else torch.contiguous_format
    network.to(memory_format=layout)
    handles = []
    if layout is torch.channels_last:
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and overruns(module.weight, module.stride):
                module.to(memory_format=torch.contiguous_format)
                handles.append(module.register_forward_pre_hook(_contiguous))
    try:
        yield layout
    finally:
        for handle in handles:
            handle.remove()
        network.to(memory_format=torch.contiguous_format)


def overruns(weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether the gradient of such a convolution's weight [out, in / groups, h, w] goes wrong in channels_last."""
    return math.prod(weight.shape[2:]) == 1 and max(stride) > 1 and weight.shape[1] < BLOCK


def _contiguous(module: nn.Module, inputs: tuple) -> tuple:
    """Those of a layer; .contiguous() would leave an image of one pixel as it is, which counts as both."""
    images, *others = inputs
    return images.clone(memory_format=torch.contiguous_format), *others


def _calls_overrun(network: nn.Module) -> bool:
    """Whether the network calls such a convolution as a function, where no hook can be set; any strided one, to be short."""
    if not isinstance(network, fx.GraphModule):
        return False
    called = (node for node in network.graph.nodes if node.target is F.conv2d)
    return any(argument(node, 3, "stride", 1) not in (1, (1, 1)) for node in called)
