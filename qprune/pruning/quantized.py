"""Pruning at low precision: a network trained in a number format while its feature maps are scored and masked."""

from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from qprune.networks.gate import Gate
from qprune.precision import Precision
from qprune.pruning.gated import GatedNetwork


class QuantizedGatedNetwork:
    """A network in a number format, with gates on all its prunable maps; used as a GatedNetwork is.

    network: made by the format from the gated FP32 network: float masters, forwards rounded to the format. Its
        state_dict, strictly loaded into that of another object built with calibration=None, gives it again
    groups: its maps, members named as their layers are in `network`; alive: bool [maps], on the CPU

    Unmasked, it computes what the format makes of the network without gates. A masked map is exactly 0 in what reads
    it: zero points map 0 to 0. What the weights of masked maps still touch are int8's per-channel weight ranges (a
    kernel's largest weight may belong to a masked input) and its activation ranges where no gate comes first
    (depthwise chains, ReLU6); both are made anew when the smaller network is rebuilt.

    network (argument): dense, FP32, not changed; calibration: as for Precision.prepare; the others as for find_groups.
    Raises UserError where the network can't be pruned or the format can't take it.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        image_shape: tuple[int, int, int],
        precision: Precision,
        calibration: Tensor | None,
        linear: bool = False,
        ignore: tuple[str, ...] = (),
    ):
        self.precision = precision
        self._masters = GatedNetwork(network, image_shape, linear, ignore)  # its weights are stale until `shrink`
        gated = self._masters.network
        self.network = precision.prepare(gated, calibration).to(next(gated.parameters()).device)
        places = {module: name for name, module in gated.named_modules()}
        self.gates: list[Gate] = []
        for each in self._masters.gates:
            gate = self.network.get_submodule(places[each])
            assert isinstance(gate, Gate)
            self.gates.append(gate)
        names = precision.names(self.network, gated)
        groups = self._masters.groups
        members = (replace(member, layer=names.get(member.layer, member.layer)) for member in groups.members)
        self.groups = replace(groups, members=tuple(members))

    @property
    def alive(self) -> Tensor:
        """Which maps are not switched off: bool [maps], on the CPU."""
        return self._masters.alive

    @property
    def pruned(self) -> float:
        """The share of the maps that is switched off, 0..1."""
        return self._masters.pruned

    def mask(self, alive: Tensor) -> None:
        """Switch off all maps that are not alive: bool [maps]."""
        self._masters.mask(alive)
        for gate in self.gates:
            gate.set_mask(self.alive)

    def masters(self) -> dict[str, Tensor]:
        """The dense FP32 network's state_dict: float master weights, batch normalisation as trained in the format."""
        masters = self.precision.masters(self.network, self._masters.network)
        return {name: tensor.detach().clone() for name, tensor in masters.items()}

    def rebuild(self, smaller: fx.GraphModule, calibration: Tensor) -> fx.GraphModule:
        """The network that `shrink` gave, in the format: quantisers at its own shapes, with the scales learned so far.

        A w..a.. network so computes what the masked one did. calibration: as for Precision.prepare.
        """
        kept: dict[str, Tensor] = {}
        for member in self._masters.groups.members:
            module = self._masters.network.get_submodule(member.layer)
            if member.side == "out" and isinstance(module, (nn.Conv2d, nn.Linear)):
                living = kept.setdefault(member.layer, torch.ones(len(module.weight), dtype=torch.bool))
                living[member.positions.cpu()] = self.alive[member.maps.cpu()]
        prepared = self.precision.prepare(smaller, calibration)
        self.precision.keep_scales(prepared, self.network, kept)
        return prepared

    def shrink(self) -> fx.GraphModule:
        """The physically smaller FP32 network with the masters, for `rebuild`.

        Checked as GatedNetwork.shrink is, in FP32; raises UserError as it does.
        """
        self._masters.network.to(next(self.network.parameters()).device).load_state_dict(self.masters())
        return self._masters.shrink()
