"""How large a network is without some of its maps, counted from its groups: nothing is rebuilt, and the counts are exact."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qprune.cost import count_cost
from qprune.pruning.groups import ChannelGroups, Member
from qprune.pruning.labels import CHANNELWISE, takes_whole_groups

COUNTED = ("maps", "macs", "params")  # what a pruning ratio can be a share of


@dataclass(frozen=True)
class _Layer:
    """A layer that makes, carries or reads prunable maps, with all its channels.

    outs, ins: channels of each side that belong to each map, float64 [total]; ins is None where an output channel keeps all
    that it reads, channels_in of them (convolutions that lose whole groups; BN). groups: one of how many inputs an output
    channel reads. macs, weights: of one pair of channels; values: parameters of an output channel beside its weights.
    """

    outs: Tensor
    channels_out: int
    ins: Tensor | None
    channels_in: int
    macs: int
    weights: int
    values: int
    groups: int = 1


@dataclass(frozen=True)
class Sizes:
    """MACs per image and parameters of a network, whichever of its maps are gone.

    macs, params: with all maps, as qprune.cost counts them.
    """

    groups: ChannelGroups
    macs: int
    params: int
    layers: tuple[_Layer, ...]

    @classmethod
    def of(cls, network: fx.GraphModule, groups: ChannelGroups, image_shape: tuple[int, int, int]) -> "Sizes":
        """network: with all its maps, in FP32, gated or not; groups: its maps; image_shape: (c, h, w)."""
        cost = count_cost(network, image_shape)
        macs: dict[str, int] = {}
        for layer in cost.layers:  # one that runs twice is there twice
            macs[layer.name] = macs.get(layer.name, 0) + layer.macs
        sides: dict[str, dict[str, list[Member]]] = {}
        for member in groups.members:
            sides.setdefault(member.layer, {}).setdefault(member.side, []).append(member)
        layers = []
        for name, members in sides.items():
            module = network.get_submodule(name)
            outs = _channels(members.get("out", []), groups.total)
            if isinstance(module, (nn.GroupNorm, *CHANNELWISE)):
                tensors = list(module.parameters())  # [channels] each
                width = tensors[0].numel() if tensors else 1
                layers.append(_Layer(outs, width, None, 1, 0, 0, len(tensors)))
                continue
            assert isinstance(module, (nn.Conv2d, nn.Linear)), name
            count, inputs = module.weight.shape[:2]  # of a grouped convolution, of one group
            bias, kernel = int(module.bias is not None), module.weight[0, 0].numel()
            each = macs[name] // (count * inputs)
            if isinstance(module, nn.Conv2d) and takes_whole_groups(module):
                layers.append(_Layer(outs, count, None, inputs, each, kernel, bias))
                continue
            parts = module.groups if isinstance(module, nn.Conv2d) else 1
            ins = _channels(members.get("in", []), groups.total)
            layers.append(_Layer(outs, count, ins, inputs * parts, each, kernel, bias, parts))
        return cls(groups, cost.macs, cost.params, tuple(layers))

    def left(self, of: str, alive: Tensor) -> int:
        """What of the maps, MACs or parameters (COUNTED) is left: alive: bool [total]."""
        dead = ~alive.cpu()
        if of == "maps":
            return int(alive.sum())
        left = {"macs": self.macs, "params": self.params}[of]
        for layer in self.layers:
            n_out = layer.channels_out - int(layer.outs[dead].sum())
            n_in = layer.channels_in - (int(layer.ins[dead].sum()) if layer.ins is not None else 0)
            pairs = (layer.channels_out * layer.channels_in - n_out * n_in) // layer.groups
            each = layer.macs if of == "macs" else layer.weights
            left -= pairs * each
            if of == "params":
                left -= (layer.channels_out - n_out) * layer.values
        return left

    def lost(self, of: str, alive: Tensor) -> float:
        """The share of the maps, MACs or parameters that is gone, 0..1."""
        return 1 - self.left(of, alive) / self.whole(of)

    def whole(self, of: str) -> int:
        """All maps, MACs or parameters."""
        return {"maps": self.groups.total, "macs": self.macs, "params": self.params}[of]


def _channels(members: list[Member], total: int) -> Tensor:
    """How many channels of one side of a layer belong to each map: float64 [total]."""
    counts = torch.zeros(total, dtype=torch.float64)
    for member in members:
        counts.index_add_(0, member.maps.cpu(), torch.ones(len(member.maps), dtype=torch.float64))
    return counts
