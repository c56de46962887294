"""Operations that change their operand, made ones that give a new tensor, which all then read that came after them."""

import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.networks.operations import look_up
from qprune.registry.errors import UserError

_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.ipow: operator.pow,
}
_VIEWS = {
    *("view", "view_as", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "swapaxes", "expand"),
    *("expand_as", "chunk", "split", "unbind", "getitem", "narrow", "select", "detach", "contiguous"),
}
_VIEWING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)


def out_of_place(network: fx.GraphModule) -> None:
    """Makes the network's in-place operations out-of-place, in place; their modules stay as they are.

    UserError where a view of what one changes is read after it, or where what it does would be lost.
    """
    for node in list(network.graph.nodes):
        source = node.args[0] if node.args else node.kwargs.get("input")
        if isinstance(source, fx.Node) and _changes_operand(network, node) and not _is_number(source):
            _hand_on(network, node, source)


def _changes_operand(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node has changed its operand; it is one that gives a new tensor after, unless there is none such."""
    if node.op == "call_module":
        return getattr(network.get_submodule(str(node.target)), "inplace", False) is True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_method" and name.endswith("_") and not name.endswith("__"):
        if hasattr(Tensor, name[:-1]):
            node.target = name[:-1]
            return True
        if not node.users:
            raise UserError(
                f"{node.name}: {name} changes a tensor in place, which can't be followed; assign its result"
            )
    if node.op != "call_function":
        return False
    if node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
        return True
    if (
        name.endswith("_")
        and not name.endswith("__")
        and (form := getattr(F, name[:-1], getattr(torch, name[:-1], None)))
    ):
        node.target = form
        return True
    return _without_flag(node)


def _without_flag(node: fx.Node) -> bool:
    """Sets a function's argument `inplace` to False; whether it was True."""
    if True not in (*node.args, *node.kwargs.values()):
        return False
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # of a builtin, which has no such argument
        return False
    place = names.index("inplace") if "inplace" in names else len(node.args)
    if place < len(node.args) and node.args[place] is True:
        node.update_arg(place, False)
        return True
    if node.kwargs.get("inplace") is True:
        node.update_kwarg("inplace", False)
        return True
    return False


def _hand_on(network: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
    """Make all that read the changed tensor after the node read the node's result."""
    after = set(_after(node))
    for alias in _aliases(network, source, node):
        late = [user for user in alias.users if user in after and not look_up(user.target).asks_shape]
        if alias is not source and late:
            raise UserError(
                f"{node.name} changes {source.name} in place, and {late[0].name} reads a view of it after that, which "
                f"can't be followed; leave {source.name} as it is (no inplace=True, x = x + y for x += y)"
            )
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user in after)


def _is_number(node: fx.Node) -> bool:
    """Whether a node gives a size, or what is computed from such: no tensor, so that nothing can change it."""
    if node.op in ("call_function", "call_method") and look_up(node.target).asks_shape:
        return True
    inputs = node.all_input_nodes
    return node.op == "call_function" and bool(inputs) and all(map(_is_number, inputs))


def _after(node: fx.Node) -> Iterator[fx.Node]:
    while (node := node.next).op != "root":
        yield node


def _aliases(network: fx.GraphModule, node: fx.Node, changer: fx.Node) -> Iterator[fx.Node]:
    """All names of the memory of a node's tensor, but for those that come from what has changed it."""
    while _is_view(network, node):
        node = node.all_input_nodes[0]
    found = [node]
    while found:
        node = found.pop()
        yield node
        views = (user for user in node.users if user is not changer and _is_view(network, user))
        found += [user for user in views if user.all_input_nodes[0] is node]


def _is_view(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), _VIEWING)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in _VIEWS
