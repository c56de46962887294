"""One network of the forms that forward has in training and in evaluation.

The two may differ in what is left out at random (dropout, drop path, stochastic depth), in whose place a module then
stands that follows network.train(), and in the flags of a functional batch normalisation, which becomes torch.nn's.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from qprune.networks.tracing import STILL, is_dropped, torchvisions
from qprune.registry.errors import UserError

Add = Callable[[fx.GraphModule, str, nn.Module], str]  # gives the network a module more, under a free name: that name
_DROPOUTS: dict[Callable[..., Any], type[_DropoutNd]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def settle_dropout(network: fx.GraphModule, training: bool, add: Add) -> None:
    """In place: functional dropout that is on becomes a module that follows network.train(), and one that is off goes.

    UserError where one is on in evaluation.
    """
    for node in list(network.graph.nodes):
        if node.op != "call_function" or not (
            node.target in _DROPOUTS or node.target is torchvisions("stochastic_depth")
        ):
            continue
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        given.apply_defaults()
        options = given.arguments
        if not options["training"]:
            node.replace_all_uses_with(options["input"])
            network.graph.erase_node(node)
            continue
        if not training:
            raise UserError(
                f"{node.name}: {node.target.__name__} is on in evaluation too, so that no two runs agree; "
                "give it training=self.training"
            )
        kind = _DROPOUTS.get(node.target)
        module = kind(options["p"]) if kind else torchvisions("StochasticDepth")(options["p"], options["mode"])
        name = add(network, node.name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", name, (options["input"],), {}


def unite(model: nn.Module, train: fx.GraphModule, evaluation: fx.GraphModule, add: Add) -> None:
    """Make the form that runs in training, in place, one that runs in evaluation as the other does.

    UserError that names where they part, if in more than what is left out at random and the flags of batch normalisation.
    """
    pairs = list(_steps(train)), list(_steps(evaluation))
    seen: tuple[dict[fx.Node, int], dict[fx.Node, int]] = ({}, {})
    norms = []
    for place in range(max(map(len, pairs))):
        one, other = (steps[place] if place < len(steps) else None for steps in pairs)
        if one is None or other is None or _described(one, seen[0]) != _described(other, seen[1]):
            raise UserError(
                f"{type(train).__name__}: forward depends on self.training: where training goes on with {_named(one)}, "
                f"evaluation goes on with {_named(other)}. qprune trains, prunes and counts one network; only dropout, "
                "drop path (as a module), stochastic depth and batch normalisation may follow self.training."
            )
        for node, known in ((one, seen[0]), (other, seen[1])):
            known[node] = place
        if one.target is F.batch_norm:
            norms.append((one, other))
    for node, in_evaluation in norms:
        _settle_norm(model, train, node, in_evaluation, add)


def _steps(network: fx.GraphModule) -> Iterator[fx.Node]:
    """What a network does, without what is left out at random and the fetching of its tensors."""
    for node in network.graph.nodes:
        if node.op != "get_attr" and not _is_dropped_node(node):
            yield node


def _is_dropped_node(node: fx.Node) -> bool:
    network = node.graph.owning_module
    return node.op == "call_module" and network is not None and is_dropped(network.get_submodule(str(node.target)))


def _described(node: fx.Node, seen: dict[fx.Node, int]) -> Any:
    """A node by what it runs, and on what: the places of the nodes before it, tensors by name or value."""

    def known(source: fx.Node) -> Any:
        while _is_dropped_node(source):
            source = source.args[0]  # type: ignore[assignment]  # a module's one argument
        if source.op != "get_attr":
            return ("node", seen[source])
        if not str(source.target).startswith("_tensor_constant"):
            return ("tensor", source.target)
        value = tensor_at(source)
        return ("constant", str(value.dtype), tuple(value.shape), str(value.tolist()))

    arguments: Any = (node.args, dict(node.kwargs))
    if node.target is F.batch_norm:
        options = _norm_options(node)
        arguments = [options[name] for name in ("input", "weight", "bias", "eps")]
    target = node.op if node.op in ("placeholder", "output") else node.target
    return node.op, target, repr(fx.node.map_arg(arguments, known))


def tensor_at(node: fx.Node) -> Tensor:
    """The parameter or buffer that a get_attr node reads."""
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _named(node: fx.Node | None) -> str:
    if node is None or node.op == "output":
        return "its output"
    kind = {"call_module": "layer", "placeholder": "input"}.get(node.op, "operation")
    return f"{kind} {str(node.target) if node.op == 'call_module' else node.name}"


def _norm_options(node: fx.Node) -> dict[str, Any]:
    given = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    return given.arguments


def _settle_norm(model: nn.Module, network: fx.GraphModule, node: fx.Node, in_evaluation: fx.Node, add: Add) -> None:
    """Put torch.nn's batch normalisation in the place of a functional one that runs on running statistics in evaluation."""
    options, other = _norm_options(node), _norm_options(in_evaluation)
    if options["training"] and other["training"]:
        return  # the batch's own statistics, always
    given = {name: options[name] for name in ("weight", "bias")}
    given |= {name: other[name] for name in ("running_mean", "running_var")}
    tensors = {name: each for name, each in given.items() if each is not None}
    stored = all(isinstance(each, fx.Node) and each.op == "get_attr" for each in tensors.values())
    if other["training"] or not stored or "running_mean" not in tensors:
        if options["training"] == other["training"]:
            return
        raise UserError(
            f"{type(network).__name__}: {node.name}, a functional batch normalisation, follows self.training but not as "
            "BatchNorm2d does: the batch's statistics in training, running ones of the network's in evaluation"
        )
    owner = str(tensors["running_mean"].target).rpartition(".")[0]
    norm: nn.Module | None = model.get_submodule(owner)
    if not isinstance(norm, _BatchNorm) or any(each.target != _in(owner, name) for name, each in tensors.items()):
        norm = None  # a function's tensors, whatever they are called
    kind: type[nn.Module] = nn.BatchNorm1d if isinstance(norm, nn.BatchNorm1d) else nn.BatchNorm2d
    kind = kind if options["training"] else STILL[kind]
    momentum = options["momentum"] if norm is None else norm.momentum
    new = kind(len(tensor_at(tensors["running_mean"])), options["eps"], momentum, affine="weight" in tensors)
    for name, each in tensors.items():
        setattr(new, name, tensor_at(each))
    if norm is None:
        target = add(network, node.name, new)
    else:
        new.num_batches_tracked = norm.num_batches_tracked  # type: ignore[assignment]  # None where nobody counts
        target = owner
        _hang(network, owner, new, add)
    node.op, node.target, node.args, node.kwargs = "call_module", target, (options["input"],), {}


def _in(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


def _hang(network: fx.GraphModule, place: str, new: nn.Module, add: Add) -> None:
    """Put a module in another's place, whose own layers (an activation) are called by names of their own then."""
    for node in network.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith(f"{place}."):
            node.target = add(network, str(node.target).replace(".", "_"), network.get_submodule(str(node.target)))
    network.set_submodule(place, new)
