"""What a map costs: Theta_flops of Molchanov et al. (ICLR 2017), Eq. 9, bit-weighted where the network has quantisers."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from qprune.cost import LayerCost, count_cost
from qprune.cost.widths import FLOAT_BITS
from qprune.pruning.groups import ChannelGroups, Member
from qprune.pruning.labels import takes_whole_groups


def layer_costs(
    network: fx.GraphModule, groups: ChannelGroups, image_shape: tuple[int, int, int]
) -> dict[str, LayerCost]:
    """The cost of each layer that makes, carries or reads prunable maps, with all its channels, by its name.

    Of a layer that runs twice, both together, at the widths of its first run.
    """
    costs: dict[str, LayerCost] = {}
    concerned = {member.layer for member in groups.members}
    for layer in count_cost(network, image_shape).layers:
        if layer.name in costs:
            costs[layer.name] = replace(costs[layer.name], macs=costs[layer.name].macs + layer.macs)
        elif layer.name in concerned:
            costs[layer.name] = layer
    return costs


def map_flops(network: fx.GraphModule, groups: ChannelGroups, alive: Tensor, costs: Mapping[str, LayerCost]) -> Tensor:
    """The bit-weighted FLOPs per image that removing one living map alone would save now: float64 [total], 0 for dead ones.

    alive: bool [total]; costs: layer_costs(). In all layers that make, carry or read the map: for a convolution with
    n_in and n_out living channels, o of its outputs and i of its inputs the map's, 2 H W k^2 (o n_in + i n_out - o i),
    times w_bits x a_bits / 32^2, which is 1 in FP32. A map is thus cheaper where the maps around it are gone. Of a grouped
    convolution a share, or, where it loses whole groups, that of o outputs with all inputs of their group.
    """
    alive = alive.cpu()
    sides: dict[tuple[str, str], list[Member]] = {}  # (layer, side) -> a member for each group there: a concatenation
    for member in groups.members:
        sides.setdefault((member.layer, member.side), []).append(member)
    flops = torch.zeros(groups.total, dtype=torch.float64)
    for name, cost in costs.items():
        module, inputs = network.get_submodule(name), cost.channels_in // cost.groups
        per_pair = 2 * (cost.macs // (cost.channels_out * inputs)) * (cost.w_bits * cost.a_bits / FLOAT_BITS**2)
        makes, n_out = _living(sides.get((name, "out"), []), cost.channels_out, alive)
        if isinstance(module, nn.Conv2d) and takes_whole_groups(module):
            flops += per_pair * makes * inputs
            continue
        reads, n_in = _living(sides.get((name, "in"), []), cost.channels_in, alive)
        flops += per_pair * (makes * n_in + reads * n_out - makes * reads) / cost.groups
    return flops * alive


def relative_flops(
    network: fx.GraphModule, groups: ChannelGroups, alive: Tensor, costs: Mapping[str, LayerCost]
) -> Tensor:
    """Theta_flops: map_flops over their mean over the living maps, float [total] on the device of `alive`.

    Without a unit, 1 on average. The paper takes a layer's absolute FLOPs per map, so that its lambda = 1e-3 depends on
    their unit and is no lambda for these.
    """
    flops = map_flops(network, groups, alive, costs)
    return (flops / (flops.sum() / alive.sum().cpu())).float().to(alive.device)


def _living(members: list[Member], width: int, alive: Tensor) -> tuple[Tensor, int]:
    """How many channels of one side of a layer are each map's, float64 [total], and how many live at all."""
    counts = torch.zeros(len(alive), dtype=torch.float64)
    for member in members:
        counts.index_add_(0, member.maps.cpu(), torch.ones(len(member.maps), dtype=torch.float64))
    return counts, width - int(counts[~alive].sum())
