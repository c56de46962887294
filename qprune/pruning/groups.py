"""Groups of coupled channels: what has to be removed together, and which positions of which layers that is.

Every prunable feature map of a network gets one number, 0 .. total-1; a coupled channel counts once. Scores and
masks are flat vectors over these numbers, and a layer (a group set) is a contiguous slice of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qprune.pruning.classes import FIXED
from qprune.pruning.labels import IGNORED, OUTPUT, SLICEABLE, Labels
from qprune.pruning.maps import Layer, LeftOut, Maps
from qprune.registry.errors import UserError


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
class ChannelGroups(Maps):
    """All prunable maps of a network, what isn't, and the channels that carry them."""

    members: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Carried:
    """Which maps a tensor carries. axis: along which its channels lie; maps: int64 [size of that axis], -1 for none."""

    axis: int
    maps: Tensor


def find_groups(
    network: fx.GraphModule, image_shape: tuple[int, int, int], linear: bool = False, ignore: tuple[str, ...] = ()
) -> ChannelGroups:
    """The groups of coupled channels of a network.

    network: as from qprune.networks.graph.with_normalize; image_shape: (c, h, w); linear: hidden units of linear layers
    count as maps too; ignore: names of layers, or of modules that hold some, whose output maps are left alone.
    The channels that leave the network (the classes) are never among them; those of frozen layers (requires_grad=False) are.

    Raises UserError for an unknown name in `ignore`.
    """
    return follow_maps(network, image_shape, linear, ignore)[0]


def follow_maps(
    network: fx.GraphModule, image_shape: tuple[int, int, int], linear: bool = False, ignore: tuple[str, ...] = ()
) -> tuple[ChannelGroups, dict[fx.Node, Carried]]:
    """find_groups, and which maps each tensor of the network's graph carries."""
    modules = dict(network.named_modules())
    for name in ignore:
        if name not in modules:
            near = [layer for layer in modules if isinstance(modules[layer], SLICEABLE)]
            raise UserError(f"prune.ignore: the network has no layer {name!r} (layers: {', '.join(near)})")
    training = network.training
    network.eval()
    labels = Labels(network, image_shape, ignore)
    network.train(training)
    kinds = (nn.Conv2d, nn.Linear) if linear else (nn.Conv2d,)
    makers = [name for name in labels.makers if isinstance(modules[name], kinds)]
    made_by: dict[int, list[str]] = {}  # class -> the layers that make its channels, in the order in which data flows
    for name in labels.makers:
        for label in set(labels.classes.of(labels.sides[name, "out"]).tolist()) - {FIXED}:
            made_by.setdefault(label, []).append(name)
    layers: list[Layer] = []
    number: dict[int, int] = {}  # class -> its map
    for name in makers:
        found: dict[tuple[str, ...], list[int]] = {}  # layers that make the same maps are one group set
        for label in dict.fromkeys(labels.classes.of(labels.sides[name, "out"]).tolist()):
            if label != FIXED and label not in number:
                found.setdefault(tuple(made_by[label]), []).append(label)
        for part, members in enumerate(found.values()):
            layers.append(Layer(f"{name}:{part}" if part else name, len(number), len(number) + len(members)))
            number.update({label: len(number) + place for place, label in enumerate(members)})
    maps = {key: _maps(labels.classes.of(side), number) for key, side in labels.sides.items()}
    found_members = [
        Member(layer, side, places, carried[places])
        for (layer, side), carried in maps.items()
        if len(places := (carried >= 0).nonzero().flatten())
    ]
    carried_by = {
        node: Carried(each.axis, _maps(labels.classes.of(each.labels), number)) for node, each in labels.tensors.items()
    }
    return ChannelGroups(tuple(layers), tuple(_left_out(labels, makers)), tuple(found_members)), carried_by


def _maps(classes: Tensor, number: dict[int, int]) -> Tensor:
    return torch.tensor([number.get(label, -1) for label in classes.tolist()], dtype=torch.int64)


def _left_out(labels: Labels, makers: list[str]) -> list[LeftOut]:
    found = []
    for name in makers:
        made = labels.sides[name, "out"]
        fixed = made[labels.classes.of(made) == FIXED]
        why = labels.classes.why(fixed)
        if why is not None and why not in (OUTPUT, IGNORED):
            found.append(LeftOut(name, len(fixed), why))
    return found
