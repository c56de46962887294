"""Groups of coupled channels: what has to be removed together, and which positions of which layers that is.

Every prunable feature map of a network gets one number, 0 .. total-1; a coupled channel counts once. Scores and
masks are flat vectors over these numbers, and a layer (a group set) is a contiguous slice of them.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch_pruning.dependency import DependencyGraph

from qprune.networks.graph import layer_of, module_of
from qprune.registry.errors import UserError

CHANNELWISE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.PReLU)  # each channel by itself
SLICEABLE = (nn.Conv2d, nn.Linear, *CHANNELWISE)


@dataclass(frozen=True)
class Layer:
    """One group set: the maps start .. stop-1, named after the layer that makes them."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Member:
    """Positions of one layer's channels that carry prunable maps.

    layer: module name; side: "out" (makes or carries the maps; BN and depthwise too) or "in" (reads them);
    positions: int64 [m], channels of that side of the layer; maps: int64 [m], the map each position belongs to.
    """

    layer: str
    side: str
    positions: Tensor
    maps: Tensor


@dataclass(frozen=True)
class ChannelGroups:
    """All prunable maps of a network. total = number of maps."""

    layers: tuple[Layer, ...]
    members: tuple[Member, ...]

    @property
    def total(self) -> int:
        return self.layers[-1].stop if self.layers else 0


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output map of a convolution reads its own input map only, one for one."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def find_groups(
    network: fx.GraphModule, image_shape: tuple[int, int, int], linear: bool = False, ignore: tuple[str, ...] = ()
) -> ChannelGroups:
    """The groups of coupled channels of a network, from Torch-Pruning's dependency graph.

    network: as from qprune.networks.graph.with_normalize; image_shape: (c, h, w); linear: hidden units of linear layers
    count as maps too; ignore: names of layers whose output maps are left alone.
    The channels that leave the network (the classes) are never among them; those of frozen layers (requires_grad=False) are.

    Raises UserError for an unknown name in `ignore`, or a layer that can't be cut.
    """
    modules = dict(network.named_modules())
    for name in ignore:
        if name not in modules:
            near = [layer for layer in modules if isinstance(modules[layer], SLICEABLE)]
            raise UserError(f"prune.ignore: the network has no layer {name!r} (layers: {', '.join(near)})")
    graph = _dependency_graph(network, image_shape)
    root_types = [nn.Conv2d, nn.Linear] if linear else [nn.Conv2d]
    names = {module: name for name, module in modules.items()}
    order = {node.target: place for place, node in enumerate(network.graph.nodes) if node.op == "call_module"}
    found = []
    spared = [modules[name] for name in {*ignore, *_output_layers(network)}]
    for group in graph.get_all_groups(ignored_layers=spared, root_module_types=root_types):
        members = [member for item in group.items if (member := _member(graph, item, names)) is not None]
        makers = [m.layer for m in members if m.side == "out" and isinstance(modules[m.layer], tuple(root_types))]
        found.append((min(makers, key=order.__getitem__), len(group[0].idxs), members))
    layers, shifted, total = [], [], 0
    for name, count, members in sorted(found, key=lambda one: order[one[0]]):  # in the order in which data flows
        layers.append(Layer(name, total, total + count))
        shifted += [Member(m.layer, m.side, m.positions, m.maps + total) for m in members]
        total += count
    return ChannelGroups(tuple(layers), tuple(shifted))


def _output_layers(network: fx.GraphModule) -> list[str]:
    """The convolutions and linear layers whose maps leave the network."""
    found, frontier, seen = [], [node for node in network.graph.nodes if node.op == "output"], set()
    while frontier:
        node = frontier.pop()
        module = module_of(node)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not is_depthwise(module):
            found.append(layer_of(node))
        elif node not in seen:
            seen.add(node)
            frontier += node.all_input_nodes
    return found


def _dependency_graph(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> DependencyGraph:
    training = network.training
    device = next(network.parameters()).device
    network.eval()
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in frozen:  # Torch-Pruning finds layers by the gradients that they would give
        parameter.requires_grad_(True)
    same = {name: module for name, module in network.named_modules() if _is_same_for_all(module)}
    for name in same:  # which it takes for layers of one channel, or of none
        network.set_submodule(name, nn.Identity())
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            example = torch.rand(2, *image_shape, device=device)
            # Torch-Pruning's defaults for these are mutable and shared between graphs, so they are given
            return DependencyGraph().build_dependency(
                network, example, customized_pruners={}, unwrapped_parameters=[], ignored_params=[], verbose=False
            )
    except Exception as error:  # Torch-Pruning raises many kinds
        raise UserError(
            f"Torch-Pruning can't find the coupled channels of {type(network).__name__}: {error!r}. "
            "Channel shuffles and attention aren't supported; such layers can't be pruned by qprune."
        ) from error
    finally:
        for name, module in same.items():
            network.set_submodule(name, module)
        network.train(training)
        for parameter in frozen:
            parameter.requires_grad_(False)


def _is_same_for_all(module: nn.Module) -> bool:
    """Whether it has no tensor of its own for each channel."""
    if isinstance(module, nn.PReLU):
        return module.num_parameters == 1
    return isinstance(module, nn.InstanceNorm2d) and not (module.affine or module.track_running_stats)


def _member(graph: DependencyGraph, item, names: dict[nn.Module, str]) -> Member | None:
    module = item.dep.target.module
    if isinstance(module, nn.Parameter):
        raise UserError(
            f"a bare parameter of shape {tuple(module.shape)} carries prunable channels; "
            "list the convolutions around it in prune.ignore"
        )
    if module not in names:  # an operation of the graph (add, cat, reshape ...), nothing to cut
        return None
    name = names[module]
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
        raise UserError(
            f"{name}: a grouped convolution (groups={module.groups}) can't be cut; "
            f"add {name!r} and the layers that feed it to prune.ignore"
        )
    if not isinstance(module, SLICEABLE):
        if next(module.parameters(), None) is None:
            return None
        over = "; its statistics run over channels, so that a map switched off isn't a map removed"
        normalises = isinstance(module, (nn.GroupNorm, nn.LayerNorm))
        raise UserError(
            f"{name}: {type(module).__name__} can't be cut{over if normalises else ''}; "
            "add the convolutions that feed it to prune.ignore"
        )
    side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
    if isinstance(module, CHANNELWISE) or is_depthwise(module):
        side = "out"
    return Member(name, side, torch.tensor(item.idxs), torch.tensor(item.root_idxs))
