"""Numbers of channels that forward writes out: taken from the tensor instead, so that fewer channels can come."""

from typing import Any

import torch
from torch import fx, nn

from qprune.networks.graph import module_of, record_shapes, source_of
from qprune.networks.operations import argument

RESHAPES, SPLITS = (torch.reshape, "reshape", "view"), (torch.split, "split")


def free_sizes(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> None:
    """Rewrite reshapes to written sizes, and splits to equal ones, in place; what they give for such images stays as it is.

    x.view(-1, 512) becomes flatten(x, 1), x.view(n, 2, 16, h, w) reshape(x, (n, 2, -1, h, w)), split(x, 16, 1) chunk(x, k, 1).
    image_shape: (c, h, w).
    """
    nodes = [node for node in network.graph.nodes if _written(node)]
    if not nodes:
        return
    record_shapes(network, image_shape)
    for node in nodes:
        if node.target in SPLITS:
            _free_split(node)
        else:
            _free_reshape(node)
    network.graph.lint()
    network.recompile()


def _written(node: fx.Node) -> bool:
    if isinstance(module_of(node), nn.Unflatten):
        return True
    sizes = given_sizes(node) if node.target in (*RESHAPES, *SPLITS) else []
    return any(isinstance(size, int) and size > 1 for size in sizes)


def given_sizes(node: fx.Node) -> list[Any]:
    """What a reshape or a split is given beside its tensor, in one list."""
    given = node.args[1:] or tuple(node.kwargs.values())
    return list(given[0] if given and isinstance(given[0], (tuple, list)) else given)


def _free_split(node: fx.Node) -> None:
    dim = argument(node, 2, "dim", 0)
    pieces = [piece.shape[dim] for piece in node.meta["tensor_meta"]]
    if len(set(pieces)) == 1:
        node.target, node.op = torch.chunk, "call_function"
        node.args, node.kwargs = (node.args[0], len(pieces), dim), {}


def _free_reshape(node: fx.Node) -> None:
    source = source_of(node)
    before, after = source.meta["tensor_meta"].shape, node.meta["tensor_meta"].shape
    sizes = given_sizes(node) if module_of(node) is None else list(after)
    if before[0] != after[0] or len(after) < 2 or len(sizes) != len(after):
        return  # what it gives isn't laid out by image
    last = len(after) - 1
    if before[1:last] == after[1:last]:  # the axes from there on become one
        node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (source, last), {}
        return
    if -1 in sizes[1:]:
        return
    into = _same_size(before[1:], after[1:])
    written = [axis for axis in range(1, 1 + into) if isinstance(sizes[axis], int)]
    if not written or len(written) < into:
        return  # one of them is computed
    sizes[written[-1]] = -1
    with node.graph.inserting_before(node):
        sizes[0] = node.graph.call_method("size", (source, 0))
    node.op, node.target, node.args, node.kwargs = "call_function", torch.reshape, (source, tuple(sizes)), {}


def _same_size(before: torch.Size, after: torch.Size) -> int:
    """How many of the first axes after hold what some of the first ones before did."""
    i = j = 1
    left, right = before[0], after[0]
    while left != right:
        if left < right:
            left, i = left * before[i], i + 1
        else:
            right, j = right * after[j], j + 1
    return j
