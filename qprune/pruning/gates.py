"""Gates: where a feature map can be watched and switched off, so that switching off equals removal.

A gate sits on a tensor of the graph. Together, a map's gates are the smallest set of tensors whose zeroing takes
the map out of every layer that reads it: after the activation and before pooling in a plain network, on every
branch into a residual add, after the last BN (and activation) of a depthwise chain, behind each reader's own BN
in a DenseNet.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.padding import _ConstantPadNd

from qprune.networks.gate import Gate
from qprune.networks.graph import insert_behind, layer_of, module_of, operation_of, source_of
from qprune.networks.operations import argument
from qprune.pruning.groups import Carried
from qprune.pruning.labels import is_depthwise
from qprune.registry.errors import UserError

Followed = dict[fx.Node, Carried]


def insert_gates(network: fx.GraphModule, total: int, followed: Followed) -> list[Gate]:
    """Put gates into the network's graph, in place; the list is in the order in which data flows.

    total: the number of maps; followed: which of them each tensor carries.

    Raises UserError where zeroing the tensors found would not take a map out of a layer that reads it.
    """
    carries = {node: _carries(node, total, followed) for node in network.graph.nodes}
    wanted: dict[fx.Node, Tensor] = {}  # tensor -> the maps to be silenced in it: bool [total]
    readers = [node for node in network.graph.nodes if _reads(node)]
    for node in readers:
        _climb(source_of(node), carries[source_of(node)], carries, wanted)
    for node in list(wanted):  # a tensor that the other gates already silence would score twice
        rest = {other: maps for other, maps in wanted.items() if other is not node}
        if _silent(carries, rest)[node][wanted[node]].all():
            del wanted[node]
    silent = _silent(carries, wanted)
    for node in readers:
        if not silent[source_of(node)].all():
            raise UserError(
                f"{node.target}: its input can't be masked, so its channels can't be pruned; "
                "add the layers before it to prune.ignore"
            )
    gates: list[Gate] = []
    for node in [node for node in network.graph.nodes if node in wanted]:
        maps = followed[node].maps
        index = torch.where((maps >= 0) & wanted[node][maps], maps, -1)
        gate = Gate(index.to(next(network.parameters()).device), followed[node].axis)
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


def _reads(node: fx.Node) -> bool:
    """Whether it is a layer that reads maps, and makes others of them."""
    module = module_of(node)
    return isinstance(module, (nn.Conv2d, nn.Linear)) and not is_depthwise(module)


def _carries(node: fx.Node, total: int, followed: Followed) -> Tensor:
    """Which maps a tensor carries, or those that a tuple holds: bool [total]."""
    carried = torch.zeros(total, dtype=torch.bool)
    inside = [node] if node in followed or not operation_of(node).rearranges else list(node.users)
    for each in [each for each in inside if each in followed]:
        maps = followed[each].maps
        carried[maps[maps >= 0]] = True
    return carried


def _climb(node: fx.Node, maps: Tensor, carries: Mapping[fx.Node, Tensor], wanted: dict[fx.Node, Tensor]) -> None:
    """From a tensor that a layer reads, up to the tensors that gate it; maps: which are to be silenced there, bool [total]."""
    maps = maps & carries[node]
    if not maps.any():
        return
    operation = operation_of(node)
    if _hands_on(node) or (operation.keeps_zero and operation_of(source_of(node)).joins == "add"):
        for source in node.all_input_nodes:
            _climb(source, maps, carries, wanted)
    elif operation.joins == "add" and _adds_alike(node, maps, carries):
        for branch in node.all_input_nodes:
            _climb(branch, maps, carries, wanted)
    else:
        wanted[node] = wanted[node] | maps if node in wanted else maps


def _hands_on(node: fx.Node) -> bool:
    """Whether channels of zeros stay so, and no others become so."""
    operation, module = operation_of(node), module_of(node)
    value: object = module.value if isinstance(module, _ConstantPadNd) else 0
    if node.target is F.pad:
        value = argument(node, 3, "value", 0)
    hands = operation.averages or operation.rearranges or operation.joins == "concatenate"
    return hands and not value


def _adds_alike(node: fx.Node, maps: Tensor, carries: Mapping[fx.Node, Tensor]) -> bool:
    """Whether all that is added or subtracted carries the maps, and no number is added."""
    numbers = [arg for arg in node.args if not isinstance(arg, fx.Node)]
    return not numbers and all(bool(carries[each][maps].all()) for each in node.all_input_nodes)


def _silent(carries: Mapping[fx.Node, Tensor], gated: Mapping[fx.Node, Tensor]) -> dict[fx.Node, Tensor]:
    """In each tensor, which maps vanish when all gates are shut, those that it doesn't carry among them: bool [total]."""
    silent: dict[fx.Node, Tensor] = {}
    for node, carried in carries.items():
        found, operation = ~carried, operation_of(node)
        sources = [silent[each] for each in node.all_input_nodes]
        adds = operation.joins in ("add", "subtract") and _adds_alike(node, carried, carries)
        if not carried.any():
            pass
        elif adds or _hands_on(node) or operation.keeps_zero:
            found = found | torch.stack(sources).all(0)
        elif operation.joins == "multiply":
            found = found | torch.stack([silent[each] & carries[each] for each in node.all_input_nodes]).any(0)
        silent[node] = found | gated[node] if node in gated else found
    return silent
