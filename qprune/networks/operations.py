"""What each operation of a network is: one table, a row per operation, whichever form a network calls it in.

Counting, rounding, quantising, gating and carrying curvature back all ask a node's row (networks.graph.operation_of).
What has none is an error where it would be guessed at; `register_operation` adds a row for an operation of one's own.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, TypeGuard, get_args

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from qprune.networks.torch_ao import INT_FUNCTIONS, BNReLU2d, FakeQuantizeBase, IntConv, IntLinear

Form = type[nn.Module] | Callable[..., Any] | str  # a module's class, a function, a tensor method's name
Joint = Literal["", "add", "subtract", "multiply", "concatenate"]
Macs = Callable[[fx.Node, Mapping[fx.Node, tuple[int, ...]]], int]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is known of an operation. What isn't said is not so.

    macs: 0 where it costs nothing; "convolution", "linear" or "matmul", which qprune.cost counts; or a function of
        the node and of the shapes of all nodes up to it, for one image, that gives its multiply-accumulates
    operands: of a function that counts: where, or by which of these names, the activations and the weights are given
    moves: hands on values of its first argument as they are (max pooling, flatten, dropout); so it is also exact,
        and keeps width and sign
    exact: gives half-precision values where its operands are such (or 0, or a bound that half can represent)
    keeps_width: gives integers of its operand's width, or 0
    keeps_sign: isn't negative where no operand is
    non_negative: is never negative
    keeps_zero: an activation, element by element or channel by channel, with f(0) = 0
    piecewise_linear: an activation that is linear in pieces, element by element
    elementwise: each value that it gives is of the one value at its place, or of each tensor's one there; what is
        keeps_zero or piecewise_linear is so
    rearranges: hands on values of its arguments in another order or shape, a number around them maybe; what moves is so
    averages: the mean over windows, or over positions
    in_place: may write its result over its first operand; what is elementwise is so
    by_channel: gives each channel from its own values, all alike (interpolation)
    joins: how it joins its tensors: its arguments, or for "concatenate" the list that is its first
    asks_shape: gives numbers or attributes of a tensor, no tensor
    """

    macs: Literal[0, "convolution", "linear", "matmul"] | Macs | None = None
    operands: tuple[tuple[int, str], tuple[int, str]] = ((0, "input"), (1, "weight"))
    moves: bool = False
    exact: bool = False
    keeps_width: bool = False
    keeps_sign: bool = False
    non_negative: bool = False
    keeps_zero: bool = False
    piecewise_linear: bool = False
    elementwise: bool = False
    rearranges: bool = False
    averages: bool = False
    in_place: bool = False
    by_channel: bool = False
    joins: Joint = ""
    asks_shape: bool = False

    def __post_init__(self):
        implied = ["exact", "keeps_width", "keeps_sign", "rearranges"] if self.moves else []
        for trait in [*implied, *(["elementwise"] if self.keeps_zero or self.piecewise_linear else [])]:
            object.__setattr__(self, trait, True)
        if self.elementwise:
            object.__setattr__(self, "in_place", True)


UNKNOWN = Operation()
_TABLE: dict[Form, Operation] = {}


def register_operation(*forms: Form, macs: Literal[0] | Macs, **traits: Any) -> None:
    """Says what an operation of your own is, so that networks with it can be counted, quantised and pruned.

        qprune.register_operation(MyActivation, my_activation, macs=0, keeps_zero=True)

    forms: all that a network may call it by: the class of a module, which is then not looked into (subclasses
        neither), a function, or the name of a tensor's method
    macs: 0, or a function (node, shapes) -> multiply-accumulates for one image; its own parameters stay in float
    traits: what else is so, by the names of qprune.networks.operations.Operation: moves, exact, keeps_width,
        keeps_sign, non_negative, keeps_zero, piecewise_linear, elementwise, rearranges, averages, in_place, by_channel,
        joins, asks_shape. Maps can be pruned through an operation that says how it treats them: one of elementwise,
        rearranges, averages, by_channel or joins

    Call it in the module that defines the network: a sweep's workers are processes of their own, which import
    module:function too. A function must be a global name there that forward calls (my_activation(x), not
    mine.my_activation(x)), or be wrapped by torch.fx.wrap, or its body is followed instead.

    Raises ValueError for a form that is registered already, TypeError for what is no form, no trait or no count.
    """
    operation = Operation(macs=macs, **traits)
    if not (callable(macs) or macs in (0, "convolution", "linear", "matmul")):
        raise TypeError(f"macs={macs!r} is neither 0 nor a function that counts")
    if operation.joins not in get_args(Joint):
        raise ValueError(f"joins={operation.joins!r}: an operation can add, subtract, multiply or concatenate")
    for form in forms:
        if isinstance(form, nn.Module) or not (callable(form) or isinstance(form, str)):
            raise TypeError(f"{form!r} is no class of modules, no function and no method's name")
        if _key(form) in _TABLE:
            raise ValueError(f"operation {form!r} is registered twice")
    _TABLE.update(dict.fromkeys(forms, operation))


def look_up(form: Any) -> Operation:
    """The row of a function or a method's name, or of a module's class or the nearest that it is derived from."""
    bases = form.__mro__ if isinstance(form, type) else (form,)
    return next((_TABLE[base] for base in map(_key, bases) if base in _TABLE), UNKNOWN)


def _key(form: Any) -> Any:
    """What the table has a form under: itself, or, of a class whose package isn't imported for it, its full name."""
    name = f"{form.__module__}.{form.__qualname__}" if isinstance(form, type) else form
    return name if name in _TABLE else form


def is_brevitas(module: nn.Module | None) -> TypeGuard[Any]:
    """Whether Brevitas, which ships no types, wrote the module's class."""
    return type(module).__module__.startswith("brevitas")


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """What a node is given by name, or else by place."""
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else default)


def is_leaf(module: nn.Module) -> bool:
    """Whether tracing must not look into a module, for it is qprune's, registered or Brevitas' (torch's are known)."""
    known = any(_key(base) in _TABLE and not _is_of_torch(base) for base in type(module).__mro__)
    return known or is_brevitas(module)


def own_functions() -> tuple[FunctionType, ...]:
    """The registered functions that torch.fx would look into."""
    return tuple(form for form in _TABLE if isinstance(form, FunctionType) and not _is_of_torch(form))


def _is_of_torch(form: type | FunctionType) -> bool:
    return form.__module__.split(".")[0] == "torch"


def _row(*forms: Form, macs: Any = 0, **traits: Any) -> None:
    register_operation(*forms, macs=macs, **traits)


# Layers
_row(_ConvNd, IntConv, F.conv1d, F.conv2d, F.conv3d, macs="convolution")
_row(nn.Linear, IntLinear, F.linear, macs="linear")
_MATMUL = ((0, "input"), (1, "other tensor2 mat2 batch2"))
_row(torch.matmul, operator.matmul, "matmul", torch.mm, "mm", torch.bmm, "bmm", macs="matmul", operands=_MATMUL)
_row(torch.addmm, "addmm", macs="matmul", operands=((1, "mat1"), (2, "mat2")))

# Pooling, regularising, reshaping
_row(
    nn.MaxPool1d, F.max_pool1d, torch.max_pool1d, nn.MaxPool2d, F.max_pool2d, torch.max_pool2d,
    nn.MaxPool3d, F.max_pool3d, torch.max_pool3d, moves=True,
)  # fmt: skip
_row(
    nn.AdaptiveMaxPool1d, F.adaptive_max_pool1d, nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d,
    nn.AdaptiveMaxPool3d, F.adaptive_max_pool3d, moves=True,
)  # fmt: skip
_row(nn.AvgPool1d, F.avg_pool1d, nn.AvgPool2d, F.avg_pool2d, nn.AvgPool3d, F.avg_pool3d, averages=True, keeps_sign=True)
_row(
    nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d,
    nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d, averages=True, keeps_sign=True,
)  # fmt: skip
_row(nn.LPPool1d, F.lp_pool1d, nn.LPPool2d, F.lp_pool2d, nn.LPPool3d, F.lp_pool3d, by_channel=True)
_row(torch.mean, "mean", averages=True, keeps_sign=True)
_row(nn.Dropout, nn.Dropout2d, F.dropout, F.dropout2d, moves=True)
_row("torchvision.ops.stochastic_depth.StochasticDepth", moves=True)
_row(_DropoutNd)
_row(nn.Flatten, torch.flatten, "flatten", torch.reshape, "reshape", "view", torch.squeeze, "squeeze", moves=True)
_row(nn.Identity, "contiguous", moves=True)
_row("detach", "clone", exact=True, keeps_width=True, elementwise=True)
_row("to", "dequantize", keeps_width=True, elementwise=True)
_row("float", elementwise=True)
_row(torch.unsqueeze, "unsqueeze", "expand", "expand_as", exact=True, rearranges=True)
_row(torch.transpose, "transpose", torch.swapaxes, torch.permute, "permute", exact=True, rearranges=True)
_row(torch.chunk, "chunk", torch.split, "split", torch.stack, operator.getitem, exact=True, rearranges=True)
_row("size", "dim", "numel", getattr, exact=True, asks_shape=True)
_row(
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
    nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, moves=True,
)  # fmt: skip
_row(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, exact=True, keeps_width=True, keeps_sign=True, rearranges=True)
_row(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, rearranges=True)
_row(nn.Unflatten, F.pad, nn.ChannelShuffle, torch.channel_shuffle, nn.PixelShuffle, rearranges=True)
_row(
    nn.PixelUnshuffle, F.pixel_shuffle, F.pixel_unshuffle, torch.roll, "roll",
    exact=True, keeps_width=True, keeps_sign=True, rearranges=True,
)  # fmt: skip
_row(nn.Upsample, F.interpolate, by_channel=True)

# Activations
_row(
    nn.ReLU, F.relu, torch.relu, "relu",
    exact=True, keeps_width=True, non_negative=True, keeps_zero=True, piecewise_linear=True,
)  # fmt: skip
_row(nn.ReLU6, F.relu6, exact=True, non_negative=True, keeps_zero=True, piecewise_linear=True)
_row(nn.LeakyReLU, F.leaky_relu, keeps_zero=True, piecewise_linear=True)
_row(nn.Hardtanh, F.hardtanh, piecewise_linear=True)
_row(nn.RReLU, nn.Softshrink, F.softshrink, keeps_zero=True, piecewise_linear=True)
_row(
    nn.Hardshrink, F.hardshrink, torch.hardshrink,
    exact=True, keeps_width=True, keeps_sign=True, keeps_zero=True, piecewise_linear=True,
)  # fmt: skip
_row(nn.Threshold, F.threshold, torch.threshold, piecewise_linear=True)
_row(nn.PReLU, nn.ELU, F.elu, nn.GELU, F.gelu, nn.SiLU, F.silu, nn.Hardswish, F.hardswish, keeps_zero=True)
_row(nn.SELU, F.selu, torch.selu, nn.CELU, F.celu, torch.celu, keeps_zero=True)
_row(nn.Softsign, F.softsign, nn.Tanhshrink, F.tanhshrink, keeps_zero=True)
_row(nn.Tanh, torch.tanh, F.tanh, "tanh", keeps_zero=True)
_row(
    nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid", nn.Hardsigmoid, F.hardsigmoid, non_negative=True, elementwise=True
)
_row(nn.Softmax, torch.softmax, F.softmax, "softmax", nn.Softmax2d, nn.Softmin, F.softmin, non_negative=True)
_row(nn.Softplus, F.softplus, non_negative=True, elementwise=True)
_row(nn.Mish, F.mish, nn.LogSigmoid, F.logsigmoid, elementwise=True)
_row(nn.LogSoftmax, F.log_softmax)

# Arithmetic
_row(operator.add, torch.add, "add", joins="add", keeps_sign=True)
_row(operator.sub, torch.sub, "sub", joins="subtract")
_row(operator.mul, torch.mul, "mul", joins="multiply", keeps_sign=True)
_row(torch.cat, torch.concat, joins="concatenate", exact=True, keeps_sign=True)
_row(operator.floordiv, operator.neg, torch.neg, "neg", torch.maximum, torch.minimum, exact=True, elementwise=True)
_row(torch.abs, "abs", exact=True, non_negative=True, elementwise=True)
_row(torch.square, "square", non_negative=True, elementwise=True)
_row(
    operator.truediv, torch.div, "div", operator.pow, torch.pow, "pow", torch.sqrt, "sqrt", torch.exp, "exp",
    torch.clamp, "clamp", operator.eq, operator.ne, operator.lt, operator.gt,
    elementwise=True,
)  # fmt: skip
_row(torch.sum, "sum", torch.amax, "amax", torch._assert)

# Normalisation, quantisers, and torch.ao's integer forms that aren't derived from the float ones
_row(
    _BatchNorm,
    F.batch_norm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    F.instance_norm,
    nn.LayerNorm,
    F.layer_norm,
    nn.GroupNorm,
    F.group_norm,
    nn.RMSNorm,
    F.rms_norm,
    nn.LocalResponseNorm,
    F.local_response_norm,
    F.normalize,
    in_place=True,
)
_row(FakeQuantizeBase, torch.quantize_per_tensor, BNReLU2d, in_place=True)
_row(*INT_FUNCTIONS)
