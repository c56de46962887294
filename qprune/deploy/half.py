"""The emulated FP16 network (qprune.precision.fp16) as one that stores half, for export.

Two forms, both with weights and biases in half: `native_half` computes convolutions, linear layers and elementwise
arithmetic on half tensors, as a GPU does, and batch normalisation in FP32; `stored_half` rounds to half and
multiplies in FP32, which is the evaluated arithmetic on every machine.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.networks.graph import Leaf, add_module, module_of
from qprune.networks.modes import tensor_at
from qprune.precision.fp16 import HalfConv2d, HalfLinear, RoundHalf


class StoredConv2d(nn.Conv2d, Leaf):
    """Conv2d of FP32 arithmetic on half weights."""

    def forward(self, images: Tensor) -> Tensor:
        return self._conv_forward(images, self.weight.float(), None if self.bias is None else self.bias.float())


class StoredLinear(nn.Linear, Leaf):
    """Linear of FP32 arithmetic on half weights."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight.float(), None if self.bias is None else self.bias.float())


class CastHalf(Leaf):
    """Rounds to half and goes back to FP32; hands on what is no float tensor."""

    def forward(self, values):
        return values.half().float() if isinstance(values, Tensor) and values.is_floating_point() else values


class ToHalf(Leaf):
    """To half; hands on what is no float tensor."""

    def forward(self, values):
        return values.half() if isinstance(values, Tensor) and values.is_floating_point() else values


class ToFloat(Leaf):
    """To FP32; hands on what is no float tensor."""

    def forward(self, values):
        return values.float() if isinstance(values, Tensor) and values.is_floating_point() else values


_STORED = {HalfConv2d: StoredConv2d, HalfLinear: StoredLinear}
_NATIVE = {HalfConv2d: nn.Conv2d, HalfLinear: nn.Linear}


def _with_half_layers(network: fx.GraphModule, layers: dict[type, type], rounding: type) -> fx.GraphModule:
    """A copy whose emulated layers are of the other types, their parameters half, and whose roundings are replaced."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if type(module) in layers:
            module.__class__ = layers[type(module)]
            module.half()
        elif isinstance(module, RoundHalf):
            network.set_submodule(name, rounding())
    return network


def stored_half(network: fx.GraphModule) -> fx.GraphModule:
    """A copy that gives bit for bit what the emulated network gives, with half the bytes of weights."""
    network = _with_half_layers(network, _STORED, CastHalf)
    network.recompile()
    return network.eval()


def native_half(network: fx.GraphModule) -> fx.GraphModule:
    """A copy whose tensors between layers are half; what has other parameters of its own (normalisation, F.conv2d of a tensor
    of the network's) runs in FP32, and so does local response normalisation, whose squares half can't hold, and CELU, which ONNX
    has in FP32 alone."""
    network = _with_half_layers(network, _NATIVE, ToHalf)
    to_float = add_module(network, "to_float", ToFloat())
    image = next(node for node in network.graph.nodes if node.op == "placeholder")
    for node in list(network.graph.nodes):
        module = module_of(node)
        if isinstance(module, ToHalf) and type(module_of(node.args[0])) in (nn.Conv2d, nn.Linear):
            node.replace_all_uses_with(node.args[0])  # half already
            network.graph.erase_node(node)
        elif _computes_in_float(node) or node.op == "output":
            for source in node.all_input_nodes:
                if source is not image and source.op != "get_attr":
                    with network.graph.inserting_before(node):
                        node.replace_input_with(source, network.graph.call_module(to_float, (source,)))
    network.graph.lint()
    network.recompile()
    return network.eval()


def _computes_in_float(node: fx.Node) -> bool:
    """Whether a node has float parameters or buffers of its own, or can't be computed in half."""
    module = module_of(node)
    if module is None:
        return node.target in (F.local_response_norm, F.celu, torch.celu) or any(
            source.op == "get_attr" and tensor_at(source).dtype == torch.float32 for source in node.all_input_nodes
        )
    if type(module) in (nn.Conv2d, nn.Linear):
        return False
    tensors = [*module.parameters(), *module.buffers()]
    return isinstance(module, (nn.LocalResponseNorm, nn.CELU)) or any(t.dtype == torch.float32 for t in tensors)
