"""Scores of all maps, gathered at the gates while a network trains."""

from collections.abc import Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from qprune.cost import LayerCost
from qprune.networks.gate import Gate
from qprune.networks.graph import image_shape_of
from qprune.pruning.criteria.base import (
    Criterion,
    CurvatureCriterion,
    GradientCriterion,
    MapCriterion,
    MapGradientCriterion,
    StaticCriterion,
    WatchedCriterion,
)
from qprune.pruning.flops import layer_costs, relative_flops
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.normalizations import get_normalization


class Scorer:
    """Gathers a criterion's scores from a gated network, one minibatch at a time.

    The loss of a minibatch must be the mean over its examples, as cross-entropy is by default.
    Raises UserError where the criterion can't work with the network.
    """

    def __init__(self, network: fx.GraphModule, groups: ChannelGroups, gates: list[Gate], criterion: Criterion):
        self.network, self.groups, self.gates, self.criterion = network, groups, gates, criterion
        self.parts = criterion.parts
        for part in self.parts:
            part.check(network, groups)
        self._watches = [_Watch(part, groups.total) for part in self.parts if isinstance(part, WatchedCriterion)]
        self._carried = {gate: _carried(gate) for gate in gates}
        self._sizes: dict[Gate, int] = {}  # gate -> positions of one of its channels
        self._positions: Tensor | None = None  # [maps], once a minibatch has been seen
        self._image_shape: tuple[int, int, int] | None = None  # likewise
        self.reset()

    def reset(self) -> None:
        """Forget all minibatches so far."""
        self._sums: dict[object, Tensor] = {}  # part -> sum over minibatches of what its per_batch gave, [..., maps]
        self.minibatches = 0

    @contextmanager
    def minibatch(self):
        """Watch the forward and backward pass of one minibatch, then make the passes that the criterion needs itself."""
        of_gradients = [part for part in self.parts if isinstance(part, GradientCriterion)]
        of_curvature = [part for part in self.parts if isinstance(part, CurvatureCriterion)]
        frozen = self._frozen() if of_gradients else []
        before = _gradients(self.network) if of_gradients else {}
        wanted = bool(of_curvature) or self._image_shape is None
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            with self._watching(), _first_argument(self.network, wanted) as seen:
                yield
            gradients = _gradients(self.network) if of_gradients else {}
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
                parameter.grad = None
        if self._image_shape is None:
            self._image_shape = image_shape_of(seen[-1])
        for watch in self._watches:
            assert watch.sums is not None
            self._add(watch.part, watch.part.per_batch(watch.sums, self._count_positions()))
        if of_gradients:
            gradients = {name: grad - before[name] if name in before else grad for name, grad in gradients.items()}
            for gradient in of_gradients:
                self._add(gradient, gradient.per_batch(self.network, self.groups, gradients))
        if of_curvature:
            with _eval_mode(self.network):
                arguments = (self.network, self.groups, self.gates, seen[-1])
                for curvature in of_curvature:
                    self._add(curvature, curvature.per_batch(*arguments, self._generator()))
        self.minibatches += 1

    def _frozen(self) -> list[nn.Parameter]:
        """The parameters of layers around the maps that training leaves as they are."""
        layers = {member.layer for member in self.groups.members}
        own = (p for name in layers for p in self.network.get_submodule(name).parameters(recurse=False))
        return [parameter for parameter in own if not parameter.requires_grad]

    def scores(self, generator: torch.Generator) -> Tensor:
        """The criterion's score of every map, [total], from the minibatches seen; not normalised."""
        return self.criterion.combine(self._part_scores(generator))

    def ranking(self, generator: torch.Generator, normalization: str | Mapping[str, Any] = "l2") -> Tensor:
        """What maps are ranked by over all layers, [total], the least to be removed first.

        normalization: how layers compete, one of normalizations.py. Where a criterion is a sum of terms each is made
        comparable by itself. Then Theta - lambda Theta_flops (Molchanov et al., ICLR 2017, Eq. 9) for a criterion with
        flops_lambda, so that this can be negative. Raises UserError for an unknown normalization.
        """
        competition, alive = get_normalization(normalization), self._alive()
        weight, flops = self.criterion.flops_lambda, None
        if weight or competition.needs_flops:
            flops = relative_flops(self.network, self.groups, alive, self.layer_costs)
        ranks = self.criterion.rank(
            self._part_scores(generator), lambda scores: competition.scale(scores, self.groups, flops)
        )
        if weight and flops is not None:
            ranks = ranks - weight * flops
        return competition.place(ranks, self.groups, alive)

    @cached_property
    def layer_costs(self) -> dict[str, LayerCost]:
        """What each layer around the maps costs with all its channels (flops.layer_costs), once a minibatch has been seen."""
        if self._image_shape is None:
            raise RuntimeError("no minibatch has been seen, so the layers' sizes aren't known")
        return layer_costs(self.network, self.groups, self._image_shape)

    def _part_scores(self, generator: torch.Generator) -> list[Tensor]:
        alive, scores = self._alive(), []
        for part in self.parts:
            if isinstance(part, StaticCriterion):
                own = part.scores(self.network, self.groups, alive, generator)
            elif self.minibatches == 0:
                raise RuntimeError("no minibatch has been seen: run a forward and backward pass in `minibatch()` first")
            else:
                own = part.score(self._sums[part] / self.minibatches, self.minibatches)
            scores.append(own * alive)  # a dead map has a gradient and weights, but no place in its layer's norm
        return scores

    def _add(self, part, statistic: Tensor) -> None:
        self._sums[part] = self._sums[part] + statistic if part in self._sums else statistic

    def _generator(self) -> torch.Generator:
        """Random numbers for an estimator: from the seed of the update (or of the process) and the minibatch's number.

        Drawn apart from the global generator, so that training goes on as it would have.
        """
        seed = (torch.initial_seed() + self.minibatches) % 2**63
        return torch.Generator(next(self.network.parameters()).device).manual_seed(seed)

    @contextmanager
    def _watching(self):
        if not self._watches:
            yield
            return
        for watch in self._watches:
            watch.sums = None
        for gate in self.gates:
            gate.watcher = self._watch
        try:
            yield
        finally:
            for gate in self.gates:
                gate.watcher = None

    def _watch(self, gate: Gate, z: Tensor) -> None:
        if self._positions is None:
            self._sizes[gate] = z[0, 0].numel()
        seen, carried = z.detach(), self._carried[gate]
        for watch in self._watches:
            if isinstance(watch.part, MapCriterion):
                watch.add(carried, watch.part.per_example(_positions_last(seen)))
        needed = [(watch, watch.part) for watch in self._watches if isinstance(watch.part, MapGradientCriterion)]
        if needed:

            def on_gradient(dz: Tensor) -> None:
                with torch.no_grad():
                    for watch, part in needed:  # the mean loss gives each example 1/batch of its own gradient
                        sums = part.per_example(_positions_last(seen), _positions_last(dz))
                        watch.add(carried, sums * len(dz))

            if not z.requires_grad:  # what made it is frozen
                z.requires_grad_(True)
            z.register_hook(on_gradient)

    def _count_positions(self) -> Tensor:
        """Positions of each map over all its gates: float [maps]."""
        if self._positions is None:
            positions = torch.zeros(self.groups.total, device=next(self.network.parameters()).device)
            for gate, size in self._sizes.items():
                maps = gate.index[gate.index >= 0]
                positions.index_add_(0, maps, torch.full_like(maps, size, dtype=positions.dtype))
            self._positions = positions.clamp(min=1)
        return self._positions

    def _alive(self) -> Tensor:
        """Which maps no gate has switched off: bool [maps]."""
        alive = torch.ones(self.groups.total, dtype=torch.bool, device=self.gates[0].index.device)
        for gate in self.gates:
            carried = gate.index >= 0
            alive[gate.index[carried]] = gate.mask[carried] != 0
        return alive


class _Watch:
    """One part's sums over positions and gates of a minibatch: [..., batch, maps]."""

    def __init__(self, part: WatchedCriterion, total: int):
        self.part, self.total = part, total
        self.sums: Tensor | None = None

    def add(self, carried: tuple[Tensor, Tensor | slice], sums: Tensor) -> None:
        """Of a gate's channels: [..., batch, c]."""
        channels, maps = carried
        if self.sums is None:
            self.sums = sums.new_zeros(*sums.shape[:-1], self.total)
        if isinstance(maps, slice):
            self.sums[..., maps] += sums
        else:
            self.sums.index_add_(-1, maps, sums[..., channels])


def _carried(gate: Gate) -> tuple[Tensor, Tensor | slice]:
    """The channels of a gate that carry maps, and these maps; a slice where the whole gate is one run of maps."""
    channels = (gate.index >= 0).nonzero().flatten()
    maps = gate.index[channels]
    first = int(maps[0])
    if len(maps) == len(gate.index) and torch.equal(maps.cpu(), torch.arange(first, first + len(maps))):
        return channels, slice(first, first + len(maps))
    return channels, maps


def _positions_last(tensor: Tensor) -> Tensor:
    """[batch, c, ...] -> [batch, c, positions]; sums over positions of what is in BF16 are made in FP32."""
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return tensor.flatten(2) if tensor.dim() > 2 else tensor[..., None]


def _gradients(network: fx.GraphModule) -> dict[str, Tensor]:
    """Parameter's name -> a copy of its gradient, where it has one."""
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@contextmanager
def _first_argument(network: fx.GraphModule, wanted: bool):
    """A list of what the network is called with: the images."""
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return
    handle = network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _eval_mode(network: fx.GraphModule):
    """Eval mode inside, each module's own mode after."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
