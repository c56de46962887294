"""peak_activation_bytes: the largest sum of tensors that are alive at once in one image's forward pass.

By liveness over the graph, operations in its order. A tensor is alive from the operation that makes it to the last one
that reads it, so that inputs and outputs of the running operation are alive together; it takes elements x width / 8 bytes,
a whole number. What is no tensor of its own takes nothing more: views (flatten, chunk, slices), as the run itself has it
by the memory of its results, and results of operations that give each value from the one at its place (batch normalisation,
activations, quantisers, roundings): these write over their first operand where it dies there and is as wide or wider. So a
convolution with all that is done value by value to its result is one operation, as runtimes have it, whose result is stored
at the width of the chain's end. Additions, poolings and concatenations make a tensor of their own.

Widths: 32, 16 in half, a quantiser's own. What all its readers quantise before they use it is stored at the widest of theirs,
also where values are only moved before (max pooling): so an image counts at the width at which the first layer gets it.
torch.ao's integers take a byte each, also those of 7 bits.

Not counted: weights (weight_bytes has them), and what an operation needs inside (a convolution's unfolded input).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from qprune.cost.widths import input_width
from qprune.networks.graph import kind_of, module_of, operation_of
from qprune.registry.errors import UserError


@dataclass(frozen=True)
class Made:
    """What a node gave in a run.

    elements: of tensors of its own, 0 where it gives none; shares: the inputs in whose memory others of its tensors lie
    """

    elements: int
    shares: tuple[fx.Node, ...]


@dataclass
class _Buffer:
    """Memory that is in use from one place in the graph's order to another, both included; width: bits an element."""

    first: int
    last: int
    elements: int
    width: float

    @property
    def bytes(self) -> int:
        return math.ceil(self.elements * self.width / 8)


def made_by(node: fx.Node, result: object, given: dict[fx.Node, object]) -> Made:
    """Made of a node. given: what its inputs gave. Raises UserError for a result that may hide a tensor."""
    if node.op == "get_attr":
        return Made(0, ())
    memory = {source: {_place(tensor) for tensor in _tensors(source, value)} for source, value in given.items()}
    before = set().union(*memory.values())
    tensors = [tensor for tensor in _tensors(node, result) if tensor.numel()]
    places = {_place(tensor) for tensor in tensors}
    own = sum(tensor.numel() for tensor in tensors if _place(tensor) not in before)
    return Made(own, tuple(source for source, theirs in memory.items() if theirs & places))


def peak_activation_bytes(network: fx.GraphModule, made: dict[fx.Node, Made], widths: dict[fx.Node, float]) -> int:
    """The largest sum of tensors alive at once, in bytes.

    made: of all nodes; widths: of what they give, in bits, as it lies in memory
    """
    nodes = list(network.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    owners = _owners(nodes, made)
    last = dict(place)
    for node in nodes:
        for owner in owners[node]:
            last[owner] = max(last[owner], *(place[each] for each in (node, *node.users)))
    over = {}
    for node in nodes:
        written = _written_over(node, owners, last, place)
        if written is not None and made[node].elements == made[written].elements:
            over[node] = written
    width: dict[fx.Node, float] = {}  # of memory of its own
    for node in reversed(nodes):
        if made[node].elements:
            width[node] = _width(node, owners, over, widths, width)
    buffers: dict[fx.Node, _Buffer] = {}
    for node in nodes:
        if not made[node].elements:
            continue
        buffer = buffers.get(over[node]) if node in over else None
        if buffer is None or width[node] > buffer.width:
            buffer = _Buffer(place[node], last[node], made[node].elements, width[node])
        buffer.last = last[node]
        buffers[node] = buffer
    own = {id(buffer): buffer for buffer in buffers.values()}.values()
    return max((sum(one.bytes for one in own if one.first <= now <= one.last) for now in place.values()), default=0)


def _owners(nodes: list[fx.Node], made: dict[fx.Node, Made]) -> dict[fx.Node, frozenset[fx.Node]]:
    """The nodes that have made the memory in which each node's tensors lie."""
    owners: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in nodes:
        shared = frozenset().union(*(owners[source] for source in made[node].shares))
        owners[node] = shared | {node} if made[node].elements else shared
    return owners


def _written_over(node: fx.Node, owners, last, place) -> fx.Node | None:
    """What made the node's first operand, where the node may write over that and is the last that reads it."""
    sources = node.all_input_nodes
    if not sources or not operation_of(node).in_place or len(owners[sources[0]]) != 1:
        return None
    (owner,) = owners[sources[0]]
    return owner if last[owner] == place[node] else None


def _width(node: fx.Node, owners, over, widths: dict[fx.Node, float], width: dict[fx.Node, float]) -> float:
    """The width at which a node's tensors lie in memory: its own, or the widest that is left of it by all its readers.

    over: what writes over what; width: of all later nodes
    """
    aliases = [each for each, makers in owners.items() if node in makers]
    read = []
    readers = {(user, each) for each in aliases for user in each.users if node not in owners[user]}
    for user, each in readers:
        handed_on = over.get(user) is node or operation_of(user).moves
        read.append(width[user] if handed_on and user in width else input_width(module_of(user), widths[each]))
    return min(widths[node], max(read, default=widths[node]))


def _tensors(node: fx.Node, result: object) -> Iterator[Tensor]:
    """The tensors in what a node gave; of one of Brevitas', its values."""
    value: Any = result
    if type(result).__module__.startswith("brevitas"):
        value = value.value
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif type(leaf).__module__ not in ("builtins", "torch"):  # numbers, texts, sizes, dtypes, devices
            raise UserError(
                f"{node.name} ({kind_of(node)}) gives a {type(leaf).__name__}, and how much memory that takes isn't known; "
                "let it give tensors, or a list or dictionary of them"
            )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
