"""Scores of all maps, gathered at the gates while a network trains."""

from contextlib import contextmanager

import torch
from torch import Tensor, fx

from qprune.pruning.criteria.base import WatchedCriterion
from qprune.pruning.gates import Gate
from qprune.pruning.groups import ChannelGroups


class Scorer:
    """Gathers a criterion's scores from a gated network, one minibatch at a time.

    The loss of a minibatch must be the mean over its examples, as cross-entropy is by default.
    """

    def __init__(self, network: fx.GraphModule, groups: ChannelGroups, gates: list[Gate], criterion):
        self.network, self.groups, self.gates, self.criterion = network, groups, gates, criterion
        self.watches = isinstance(criterion, WatchedCriterion)
        self._carried = {gate: _carried(gate) for gate in gates}
        self._sizes: dict[Gate, int] = {}  # gate -> positions of one of its channels
        self._positions: Tensor | None = None  # [maps], once a minibatch has been seen
        self.reset()

    def reset(self) -> None:
        """Forget all minibatches so far."""
        self.sum = torch.zeros(self.groups.total, device=next(self.network.parameters()).device)  # over minibatches
        self.minibatches = 0

    @contextmanager
    def minibatch(self):
        """Watch the forward and backward pass of one minibatch."""
        if not self.watches:
            yield
            return
        self._sums = None  # [batch, maps]
        for gate in self.gates:
            gate.watcher = self._watch
        try:
            yield
        finally:
            for gate in self.gates:
                gate.watcher = None
        if self._positions is None:
            self._positions = self._count_positions()
        self.sum += self.criterion.per_batch(self._sums) / self._positions
        self.minibatches += 1

    def _watch(self, gate: Gate, z: Tensor) -> None:
        if self._sums is None:
            self._sums = z.new_zeros(len(z), self.groups.total)
        if self._positions is None:
            self._sizes[gate] = z[0, 0].numel()
        if self.criterion.degree == 0:
            self._add(gate, z.detach(), None)
        else:
            seen = z.detach()
            # the mean loss gives each example 1/batch of its own gradient
            z.register_hook(lambda dz: self._add(gate, seen, dz, len(dz) ** self.criterion.degree))

    @torch.no_grad()
    def _add(self, gate: Gate, z: Tensor, dz: Tensor | None, scale: float = 1.0) -> None:
        sums = self.criterion.per_example(_positions_last(z), _positions_last(dz)) * scale  # [batch, c]
        channels, maps = self._carried[gate]
        if isinstance(maps, slice):
            self._sums[:, maps] += sums
        else:
            self._sums.index_add_(1, maps, sums[:, channels])

    def _count_positions(self) -> Tensor:
        """Positions of each map over all its gates: float [maps]."""
        positions = torch.zeros_like(self.sum)
        for gate, size in self._sizes.items():
            maps = gate.index[gate.index >= 0]
            positions.index_add_(0, maps, torch.full_like(maps, size, dtype=positions.dtype))
        return positions.clamp(min=1)

    def scores(self, generator: torch.Generator) -> Tensor:
        """The criterion's score of every map, [total]: the mean over the minibatches seen."""
        if not self.watches:
            return self.criterion.scores(self.network, self.groups, generator)
        return self.sum / self.minibatches


def _carried(gate: Gate) -> tuple[Tensor, Tensor | slice]:
    """The channels of a gate that carry maps, and these maps; a slice where the whole gate is one run of maps."""
    channels = (gate.index >= 0).nonzero().flatten()
    maps = gate.index[channels]
    first = int(maps[0])
    if len(maps) == len(gate.index) and torch.equal(maps.cpu(), torch.arange(first, first + len(maps))):
        return channels, slice(first, first + len(maps))
    return channels, maps


def _positions_last(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.flatten(2) if tensor.dim() > 2 else tensor[..., None]


def normalize(scores: Tensor, groups: ChannelGroups) -> Tensor:
    """Each layer's scores divided by their l2 norm (Molchanov et al. 2017, Sec. 2.2), [total] -> [total]."""
    normalised = torch.zeros_like(scores)
    for layer in groups.layers:
        part = scores[layer.start : layer.stop]
        normalised[layer.start : layer.stop] = part / part.norm().clamp(min=torch.finfo(part.dtype).tiny)
    return normalised
