"""A model's forward in one mode, training or evaluation, as a torch.fx graph; the model is left as it was."""

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from qprune.networks.operations import argument, is_leaf, own_functions, register_operation
from qprune.registry.errors import UserError


class OnlyInTraining(nn.Module):
    """A module of the network's own that hands on its input in evaluation: drop path, say."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, values: Tensor) -> Tensor:
        return self.module(values) if self.training else values


class StillBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation by its running statistics in training too, which it doesn't change."""

    def train(self, mode: bool = True):
        return super().train(False)


class StillBatchNorm2d(nn.BatchNorm2d):
    """Likewise, of images."""

    def train(self, mode: bool = True):
        return super().train(False)


register_operation(OnlyInTraining, macs=0, moves=True)
register_operation(StillBatchNorm1d, StillBatchNorm2d, macs=0)

STILL: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: StillBatchNorm1d,
    nn.BatchNorm2d: StillBatchNorm2d,
}
_STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth"


def torchvisions(name: str) -> Any:
    """A thing of torchvision's stochastic depth, None where nobody has imported it."""
    return getattr(sys.modules.get(_STOCHASTIC_DEPTH), name, None)


def _augmented(function: Callable[..., Any]) -> Callable[..., fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


class _Proxy(fx.Proxy):
    """torch.fx's own takes x += y for x = x + y, which it isn't where something else reads x."""

    __iadd__ = _augmented(operator.iadd)
    __isub__ = _augmented(operator.isub)
    __imul__ = _augmented(operator.imul)
    __itruediv__ = _augmented(operator.itruediv)
    __ifloordiv__ = _augmented(operator.ifloordiv)
    __ipow__ = _augmented(operator.ipow)

    def __len__(self) -> int:
        pieces = _pieces(self.node)
        return super().__len__() if pieces is None else pieces


def _pieces(node: fx.Node) -> int | None:
    """How many tensors a chunk gives."""
    number = argument(node, 1, "chunks")
    return number if node.target in (torch.chunk, "chunk") and isinstance(number, int) else None


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return is_leaf(module) or _is_random(module) or super().is_leaf_module(module, qualified_name)

    def iter(self, obj: fx.Proxy):
        """A chunk's pieces, which can be counted; of what else isn't just unpacked torch.fx knows no number."""
        pieces = _pieces(obj.node)
        if pieces is not None:
            return (operator.getitem(obj, place) for place in range(pieces))
        return super().iter(obj)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """As torch.fx does it; an argument with a default has that, for a network is called with images alone."""
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        for place, given in enumerate(arguments):
            if isinstance(given, fx.Proxy) and given.node.args:
                arguments[place] = given.node.args[0]
                self.graph.erase_node(given.node)
        return function, arguments


def _is_random(module: nn.Module) -> bool:
    """Whether a module of the network's own, without tensors, hands on its input in evaluation, and not in training."""
    if type(module).__module__.startswith(("torch.nn", "torch.fx")) or next(_tensors(module), None) is not None:
        return False
    return _hands_on(module, False) and not _hands_on(module, True)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _hands_on(module: nn.Module, training: bool) -> bool:
    with _mode(module, training):
        try:
            graph = fx.Tracer().trace(module)
        except Exception:  # whatever the module's own code does on a proxy
            return False
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    return isinstance(result, fx.Node) and result.op == "placeholder"


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation inside; after it each module's own mode and buffers, whatever was traced."""
    modes = {each: each.training for each in module.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    module.train(training)
    try:
        yield
    finally:
        for each, before in modes.items():
            each.training = before
        for buffer, kept in buffers:
            with torch.no_grad():
                buffer.copy_(kept)


def is_dropped(module: nn.Module | None) -> bool:
    """Whether a module leaves something out in training at random, and nothing in evaluation."""
    depth = torchvisions("StochasticDepth")
    return isinstance(module, (_DropoutNd, OnlyInTraining)) or (depth is not None and isinstance(module, depth))


def trace_in(model: nn.Module, training: bool) -> fx.GraphModule:
    """The model's graph in one mode, its modules and tensors the model's own; UserError where torch.fx can't follow it."""
    wrapped = (*own_functions(), *filter(None, [torchvisions("stochastic_depth")]))
    tracer, before = _Tracer(autowrap_functions=wrapped), set(vars(model))
    with _mode(model, training):
        try:
            graph = tracer.trace(model)
        except Exception as error:  # torch.fx raises whatever the model's own code does on a proxy
            raise UserError(
                f"torch.fx can't trace {type(model).__name__}: {error}\n"
                "qprune follows a network through torch.fx: forward must not branch on the values of tensors. "
                "Move such code into a function wrapped with torch.fx.wrap, or rewrite it."
            ) from error
        other = [name for name, each in model.named_modules() if each.training != training and _follows(each)]
    if other and not training:
        raise UserError(f"{type(model).__name__}: {other[0]} stays in training mode after eval(), so each run differs")
    _check_names(model, graph)
    _check_ends(model, graph, training)
    network = fx.GraphModule(model, graph, type(model).__name__)
    for name in set(vars(model)) - before:  # tensors made in forward, which torch.fx leaves with the model
        delattr(model, name)
    for name in other:
        _keep_still(network, name)
    for node in list(graph.nodes):
        if node.target is torch._assert:  # a check of shapes, which would be a user of what it looks at
            graph.erase_node(node)
        elif node.op == "call_module":
            module = network.get_submodule(str(node.target))
            if not is_leaf(module) and _is_random(module):
                network.set_submodule(str(node.target), OnlyInTraining(module).train(module.training))
    return network


def _follows(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or is_dropped(module)


def _keep_still(network: fx.GraphModule, name: str) -> None:
    """In place: a module that the model's own train() leaves in evaluation stays so."""
    module = dict(network.named_modules()).get(name)
    if isinstance(module, _BatchNorm) and type(module) not in STILL.values():
        network.set_submodule(name, _still(name, module))
    elif is_dropped(module):
        network.set_submodule(name, nn.Identity())


def _still(name: str, norm: _BatchNorm) -> nn.Module:
    kind = STILL.get(type(norm))
    if kind is None:
        raise UserError(f"{name}: {type(norm).__name__} that stays in evaluation isn't supported; BatchNorm2d is")
    still = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    return _with_tensors_of(still, norm).train(False)


def _with_tensors_of(new: nn.Module, module: nn.Module) -> nn.Module:
    new._parameters.update(module._parameters)
    new._buffers.update(module._buffers)
    return new


_OF_FX = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def _check_names(model: nn.Module, graph: fx.Graph) -> None:
    """UserError where a layer or parameter has a name that torch.fx's own modules use for something else."""
    for node in graph.nodes:
        name = str(node.target).partition(".")[0]
        if node.op in ("call_module", "get_attr") and name in _OF_FX:
            raise UserError(
                f"{type(model).__name__}: its attribute {name!r} has a name that torch.fx uses itself; "
                f"give it another name, as {name}_layer"
            )


def _check_ends(model: nn.Module, graph: fx.Graph, training: bool) -> None:
    """UserError where forward takes more than images, or gives something else than one tensor."""
    name = type(model).__name__
    inputs = [
        str(node.target) for node in graph.nodes if node.op == "placeholder" and not str(node.target).startswith("*")
    ]
    if len(inputs) != 1:
        raise UserError(
            f"{name}: forward takes {len(inputs)} inputs ({', '.join(inputs)}); it is given images alone. "
            "Give the others a default, or wrap the network in one that takes images."
        )
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        when = "in training, " if training else ""
        raise UserError(
            f"{name}: {when}forward gives a {type(result).__name__.removeprefix('immutable_')}, and the logits alone are wanted. "
            "Switch its auxiliary exits off, or wrap the network in one that gives the logits."
        )
