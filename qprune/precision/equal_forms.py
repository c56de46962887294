"""What torch.ao has no integer kernel for, written in an equal form that it has one for.

All work in place on a traced network and leave what it computes. Parameters keep their names, but for those that are
given to functions (`functions_as_layers`).
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.networks.graph import add_module, insert_behind, module_of
from qprune.networks.layers import Pad
from qprune.networks.modes import tensor_at
from qprune.networks.operations import register_operation


def views_as_reshapes(network: fx.GraphModule) -> None:
    """`view` asks for a layout of memory, which integer kernels, working channels last, don't keep; `reshape` doesn't."""
    for node in network.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"


def without_expand_as(network: fx.GraphModule) -> None:
    """`a.expand_as(b)` is `a` where it only meets b, element by element: torch broadcasts, and torch's exporter loses its type."""
    for node in list(network.graph.nodes):
        if node.op != "call_method" or node.target != "expand_as":
            continue
        values, other = node.args
        if all(user.target in _JOINED and other in user.args for user in node.users):
            node.replace_all_uses_with(values)
            network.graph.erase_node(node)


def pad_before_convolutions(network: fx.GraphModule) -> None:
    """Padding that integer convolutions haven't as a layer before them: circular, replicate, "same" with uneven sides.

    `reflect` and zeros they have, but only as numbers: other "same", and "valid", become those.
    """
    needed: dict[nn.Module, Pad | None] = {}
    for node in list(network.graph.nodes):
        conv = module_of(node)
        if not isinstance(conv, nn.Conv2d):
            continue
        if conv not in needed:
            needed[conv] = _pad_numerically(conv)
        pad = needed[conv]
        if pad is not None:
            name = add_module(network, f"{node.name}_pad", pad)
            with network.graph.inserting_before(node):
                node.replace_input_with(node.args[0], network.graph.call_module(name, (node.args[0],)))


def _pad_numerically(conv: nn.Conv2d) -> Pad | None:
    """Make the layer's padding numbers that integer kernels bear; what is to be padded before it, if any."""
    sides = list(conv._reversed_padding_repeated_twice)  # left, right, top, bottom: also of "same" and "valid"
    left, right, top, bottom = sides
    if conv.padding_mode in ("zeros", "reflect") and (left, top) == (right, bottom):
        conv.padding = (top, left)
        return None
    pad = Pad((left, right, top, bottom), conv.padding_mode)
    conv.padding, conv.padding_mode = (0, 0), "zeros"
    return pad


_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    F.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.linear: ("input", "weight", "bias"),
}


def functions_as_layers(network: fx.GraphModule) -> dict[str, str]:
    """F.conv2d and F.linear of the network's own tensors as layers; where those are now: old name -> new name.

    A function of a weight that is computed stays.
    """
    moved = {}
    for node in list(network.graph.nodes):
        if node.op != "call_function" or node.target not in _ARGUMENTS:
            continue
        given = {**dict(zip(_ARGUMENTS[node.target], node.args, strict=False)), **node.kwargs}
        inputs, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        if weight.op != "get_attr" or bias is not None and bias.op != "get_attr":
            continue
        layer = _layer(node.target is F.linear, tensor_at(weight), bias is not None, given)
        name = add_module(network, node.name, layer.train(network.training))
        for source, tensor in [(weight, "weight"), (bias, "bias")]:
            if source is not None:
                setattr(layer, tensor, nn.Parameter(tensor_at(source), tensor_at(source).requires_grad))
                moved[source.target] = f"{name}.{tensor}"
        node.op, node.target, node.args, node.kwargs = "call_module", name, (inputs,), {}
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    return moved


def _layer(linear: bool, weight: Tensor, bias: bool, geometry: dict) -> nn.Module:
    """A layer of the weight's shape, without memory. geometry: stride, padding, dilation and groups, if given."""
    if linear:
        return nn.Linear(weight.shape[1], weight.shape[0], bias, device="meta")
    in_channels, kernel = weight.shape[1] * geometry.get("groups", 1), tuple(weight.shape[2:])
    return nn.Conv2d(in_channels, weight.shape[0], kernel, bias=bias, device="meta", **geometry)  # type: ignore[arg-type]  # of two numbers


def affine_norms(network: fx.GraphModule) -> None:
    """Batch normalisation without gain and shift gets ones and zeros, which aren't trained: torch.ao folds no other."""
    for module in network.modules():
        if (
            isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
            and not module.affine
            and module.running_mean is not None
        ):
            ones = torch.ones_like(module.running_mean)
            module.weight, module.bias = (nn.Parameter(each, requires_grad=False) for each in (ones, ones * 0))
            module.affine = True


_JOINED = {operator.add: "add", torch.add: "add", operator.mul: "mul", torch.mul: "mul"}


def numbers_in_float(network: fx.GraphModule) -> None:
    """A tensor plus or times a number, and a sum with `alpha`, as methods, which torch.ao computes in float.

    As functions it would clip them to the range of the tensor, and lose alpha.
    """
    for node in network.graph.nodes:
        if node.op != "call_function" or node.target not in _JOINED or len(node.args) != 2:
            continue
        if len(node.all_input_nodes) == 1 and not all(isinstance(arg, fx.Node) for arg in node.args) or node.kwargs:
            if not isinstance(node.args[0], fx.Node):
                node.args = node.args[::-1]
            node.op, node.target = "call_method", _JOINED[node.target]


def one_call_each(network: fx.GraphModule) -> None:
    """A layer without tensors that runs several times becomes as many, for each of them has the scale of its own result."""
    seen: set[str] = set()
    for node in network.graph.nodes:
        module = module_of(node)
        if module is None or any(True for _ in (*module.parameters(), *module.buffers())):
            continue
        if node.target in seen:
            node.target = add_module(network, node.target.replace(".", "_"), copy.deepcopy(module))
        seen.add(node.target)


def keep_apart(network: fx.GraphModule) -> None:
    """An Identity behind a layer that runs several times and isn't always followed by the same: torch.ao, which makes one
    layer of it and what follows it (batch normalisation, ReLU), would do so for all of its runs."""
    runs: dict[Any, list[fx.Node]] = {}
    for node in network.graph.nodes:
        module = module_of(node)
        if isinstance(module, _FUSED):
            runs.setdefault(module, []).append(node)
    for nodes in runs.values():
        if len({_follower(node) for node in nodes}) > 1:
            for node in nodes:
                insert_behind(node, f"{node.name}_apart", nn.Identity())


_FUSED = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d)


def _follower(node: fx.Node) -> Any:
    """The one thing that reads a node's result: a batch normalisation, "ReLU", or nothing that torch.ao joins with a layer."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    module = module_of(user)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return module
    return "ReLU" if isinstance(module, nn.ReLU) or user.target in (F.relu, torch.relu, "relu") else None


class FloatPReLU(nn.PReLU):
    """PReLU that stays in float: torch.ao's rounds its slopes, by a scale for each of which there is no kernel."""


class BatchStatistics1d(nn.BatchNorm1d):
    """Batch normalisation by the batch at hand, in eval mode too: it can't be folded into a layer, and stays in float."""


class BatchStatistics2d(nn.BatchNorm2d):
    """Likewise, of images."""


class FloatInstanceNorm2d(nn.InstanceNorm2d):
    """Instance normalisation by running statistics in eval mode, which torch.ao's goes without."""


class FloatInstanceNorm(nn.Module):
    """F.instance_norm, for which torch's integer kernel is wrong on small maps."""

    def forward(self, *args, **kwargs) -> Tensor:
        return F.instance_norm(*args, **kwargs)


register_operation(FloatInstanceNorm, macs=0)


class FloatConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with output padding, which onednn's kernels haven't."""


_FLOAT = {nn.PReLU: FloatPReLU, nn.BatchNorm1d: BatchStatistics1d, nn.BatchNorm2d: BatchStatistics2d}
IN_FLOAT: tuple[Callable[..., Any], ...] = (
    *_FLOAT.values(), FloatInstanceNorm, FloatInstanceNorm2d, FloatConvTranspose2d, *_ARGUMENTS
)  # fmt: skip


def keep_in_float(network: fx.GraphModule) -> None:
    """Gives layers that have no integer form classes that torch.ao doesn't know, so that it leaves them as they are."""
    for module in network.modules():
        if type(module) in _FLOAT and getattr(module, "running_mean", None) is None:
            module.__class__ = _FLOAT[type(module)]
        if type(module) is nn.InstanceNorm2d and module.track_running_stats:
            module.__class__ = FloatInstanceNorm2d
        if type(module) is nn.ConvTranspose2d and any(module.output_padding):
            module.__class__ = FloatConvTranspose2d
    for node in network.graph.nodes:
        if node.op == "call_function" and node.target is F.instance_norm:
            node.op, node.target = "call_module", add_module(network, node.name, FloatInstanceNorm())
