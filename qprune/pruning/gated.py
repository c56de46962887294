"""A network whose feature maps can be scored, switched off and taken out."""

import copy
from typing import Protocol

import torch
from torch import Tensor, fx

from qprune.networks.free_sizes import free_sizes
from qprune.networks.gate import Gate
from qprune.pruning.gates import insert_gates
from qprune.pruning.groups import ChannelGroups, follow_maps
from qprune.pruning.shrink import shrink
from qprune.registry.errors import UserError


class Gated(Protocol):
    """A network with gates on all its prunable maps, whatever its number format."""

    network: fx.GraphModule
    groups: ChannelGroups
    gates: list[Gate]

    @property
    def alive(self) -> Tensor: ...

    @property
    def pruned(self) -> float: ...

    def mask(self, alive: Tensor) -> None: ...

    def shrink(self) -> fx.GraphModule: ...


class GatedNetwork:
    """A copy of a traced network with gates on all its prunable maps.

    network: the gated copy, trained as any other; groups: its maps; alive: bool [maps], on the CPU.
    Arguments as for find_groups. Raises UserError where the network can't be pruned.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        image_shape: tuple[int, int, int],
        linear: bool = False,
        ignore: tuple[str, ...] = (),
    ):
        self.image_shape = image_shape
        self.network = copy.deepcopy(network)
        free_sizes(self.network, image_shape)
        self.groups, followed = follow_maps(self.network, image_shape, linear, ignore)
        if self.groups.total == 0:
            left = "".join(f"\n{each.layer}: {each.why}" for each in self.groups.left_out)
            raise UserError(
                f"the network has no feature map that can be pruned (see prune.ignore and prune.linear){left}"
            )
        self.gates = insert_gates(self.network, self.groups.total, followed)
        self.alive = torch.ones(self.groups.total, dtype=torch.bool)

    @property
    def pruned(self) -> float:
        """The share of the maps that is switched off, 0..1."""
        return (~self.alive).double().mean().item()

    def mask(self, alive: Tensor) -> None:
        """Switch off all maps that are not alive: bool [maps]."""
        self.alive = alive.cpu()
        for gate in self.gates:
            gate.set_mask(self.alive)

    def shrink(self) -> fx.GraphModule:
        """The physically smaller network, checked to give the masked network's outputs.

        Raises UserError where it does not (a forward that counts on its number of channels, say).
        """
        smaller = shrink(self.network, self.groups, self.alive)
        images = torch.rand(4, *self.image_shape, device=next(self.network.parameters()).device)
        training = self.network.training
        self.network.eval(), smaller.eval()
        try:
            with torch.no_grad():
                masked, small = self.network(images), smaller(images)
        except RuntimeError as error:
            raise UserError(f"the network doesn't run after channels were removed: {error}") from error
        finally:
            self.network.train(training), smaller.train(training)
        difference = ((masked - small).abs().max() / masked.abs().max().clamp(min=1e-12)).item()
        if not difference < 1e-3:
            raise UserError(
                f"removing channels changes the outputs by {difference:.1e} of the largest, which masking them doesn't; "
                "some layer carries channels in a way that can't be followed; find it with prune.ignore"
            )
        return smaller
