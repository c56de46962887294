"""Gates: where a feature map can be watched and switched off, so that switching off equals removal.

A gate sits on a tensor of the graph. Together, a map's gates are the smallest set of tensors whose zeroing takes
the map out of every layer that reads it: after the activation and before pooling in a plain network, on every
branch into a residual add, after the last BN (and activation) of a depthwise chain, behind each reader's own BN
in a DenseNet.
"""

import torch
from torch import Tensor, fx, nn

from qprune.networks.gate import Gate
from qprune.networks.graph import insert_behind, layer_of, module_of, operation_of, record_shapes, source_of, sources_of
from qprune.pruning.groups import ChannelGroups, is_depthwise
from qprune.registry.errors import UserError


def insert_gates(network: fx.GraphModule, groups: ChannelGroups, image_shape: tuple[int, int, int]) -> list[Gate]:
    """Put gates into the network's graph, in place; the list is in the order in which data flows.

    image_shape: (c, h, w).

    Raises UserError where zeroing the tensors found would not take a map out of a layer that reads it.
    """
    record_shapes(network, image_shape)
    readers = _readers(network, groups)
    sites: dict[fx.Node, Tensor] = {}
    for node, index in readers.items():
        _climb(source_of(node), index, sites)
    _drop_redundant(sites)
    for node, index in readers.items():
        if not _zeroed(source_of(node), sites)[index >= 0].all():
            raise UserError(
                f"{node.target}: its input can't be masked, so its channels can't be pruned; "
                "add the layers before it to prune.ignore"
            )
    gates: list[Gate] = []
    for node in [node for node in network.graph.nodes if node in sites]:
        gate = Gate(sites[node].to(next(network.parameters()).device))
        insert_behind(node, f"gate_{len(gates)}", gate)
        gates.append(gate)
    network.recompile()
    return gates


def remove_gates(network: fx.GraphModule) -> None:
    """Take every gate out of the graph again, in place."""
    for node in list(network.graph.nodes):
        if isinstance(module_of(node), Gate):
            node.replace_all_uses_with(source_of(node))
            network.graph.erase_node(node)
            network.delete_submodule(layer_of(node))
    network.recompile()


def _readers(network: fx.GraphModule, groups: ChannelGroups) -> dict[fx.Node, Tensor]:
    """The convolutions and linear layers that read prunable maps: node -> map of each input channel, -1 for none."""
    nodes = {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            if node.target in nodes and any(node.target == member.layer for member in groups.members):
                raise UserError(
                    f"{node.target}: a layer that is run twice in one pass can't be pruned; add it to prune.ignore"
                )
            nodes[node.target] = node
    readers: dict[fx.Node, Tensor] = {}
    for member in groups.members:
        module = network.get_submodule(member.layer)
        if member.side == "in" and isinstance(module, (nn.Conv2d, nn.Linear)) and not is_depthwise(module):
            width = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
            index = readers.setdefault(nodes[member.layer], torch.full((width,), -1))
            index[member.positions] = member.maps
    return readers


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [arg for arg in node.args if isinstance(arg, fx.Node)]


def _channels(node: fx.Node) -> int:
    return node.meta["tensor_meta"].shape[1]


def _climb(node: fx.Node, index: Tensor, sites: dict[fx.Node, Tensor]) -> None:
    """From a tensor that a layer reads, up to the tensors that gate it; index: the map of each channel."""
    if (index < 0).all():
        return
    operation = operation_of(node)
    if operation.moves or operation.averages:
        source = source_of(node)
        repeat = len(index) // _channels(source)  # flatten: h*w positions of one channel stand side by side
        return _climb(source, index.view(-1, repeat)[:, 0], sites)
    if operation.joins == "add":
        for branch in _tensors(node):
            _climb(branch, index, sites)
        return None
    if operation.keeps_zero and operation_of(source_of(node)).joins == "add":
        return _climb(source_of(node), index, sites)
    if operation.joins == "concatenate":
        parts = sources_of(node)
        for part, piece in zip(parts, index.split([_channels(part) for part in parts]), strict=True):
            _climb(part, piece, sites)
        return None
    known = sites.get(node)
    sites[node] = index if known is None else torch.maximum(known, index)
    return None


def _zeroed(node: fx.Node, sites: dict[fx.Node, Tensor], without: fx.Node | None = None) -> Tensor:
    """Which channels of a tensor vanish when all gates (but one) are shut: bool [c]."""
    gated = sites[node] >= 0 if node in sites and node is not without else False
    operation = operation_of(node)
    if operation.moves or operation.averages:
        flow = _zeroed(source_of(node), sites, without)
        flow = flow.repeat_interleave(_channels(node) // len(flow))
    elif operation.keeps_zero:
        flow = _zeroed(source_of(node), sites, without)
    elif operation.joins == "concatenate":
        flow = torch.cat([_zeroed(part, sites, without) for part in sources_of(node)])
    elif operation.joins == "add" and len(_tensors(node)) == 2:
        flow = torch.stack([_zeroed(part, sites, without) for part in _tensors(node)]).all(0)
    elif operation.joins == "multiply" and len(_tensors(node)) == 2:
        flow = torch.stack([_zeroed(part, sites, without) for part in _tensors(node)]).any(0)
    else:
        flow = torch.zeros(_channels(node), dtype=torch.bool)
    return flow | gated


def _drop_redundant(sites: dict[fx.Node, Tensor]) -> None:
    """Leave out each tensor that the other gates already silence: counted twice, it would score twice."""
    for node in list(sites):
        if _zeroed(node, sites, without=node)[sites[node] >= 0].all():
            del sites[node]
