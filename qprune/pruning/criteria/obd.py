"""Optimal brain damage with the curvature taken as it is: 1/2 of the second derivative of the loss along a removal.

LeCun, Denker and Solla (1990), Sec. 2: where the gradient is 0, removing a parameter u raises the loss by
1/2 h_uu u^2. Here the parameter is a whole map. BN in eval mode: each minibatch gets, after its training pass, one
forward pass in eval mode and the estimator's backward passes, down to the first gate and without the weights'
gradients: as many as there are classes ("exact"), `samples` ("mc"), or 1 + 2 x samples ("hutchinson", by its work).
The curvature is Gauss-Newton's (see curvature.py).
"""

from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, fx

from qprune.networks.gate import Gate
from qprune.pruning.criteria.base import CurvatureCriterion
from qprune.pruning.criteria.curvature import gauss_newton_diagonal
from qprune.pruning.groups import ChannelGroups


class _Factors(Protocol):
    """Factors of 1 on what gates show, by which the loss is differentiated: leaves, each [batch, ...]."""

    leaves: list[Tensor]

    def of(self, gate: Gate, z: Tensor) -> Tensor:
        """What the gate's tensor is multiplied by."""

    def per_map(self, diagonal: list[Tensor]) -> Tensor:
        """Curvatures of the leaves -> of the maps, [batch, maps]."""


class _Obd(CurvatureCriterion):
    def factors(self, groups: ChannelGroups, images: Tensor) -> _Factors:
        raise NotImplementedError

    def __init__(self, estimator: str = "mc", samples: int = 1):
        self.estimator, self.samples = estimator, samples

    def per_batch(
        self,
        network: fx.GraphModule,
        groups: ChannelGroups,
        gates: list[Gate],
        images: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        factors = self.factors(groups, images)
        with torch.enable_grad(), _multiplied(gates, factors):
            logits = network(images)
        diagonal = gauss_newton_diagonal(logits, factors.leaves, self.estimator, self.samples, generator)
        return 0.5 * factors.per_map(diagonal).double().mean(0)  # [batch, maps] -> [maps]


class _OfMaps:
    """One factor m of 1 for each example and map, the same at all positions and gates of the map."""

    def __init__(self, groups: ChannelGroups, images: Tensor):
        self.leaves = [torch.ones(len(images), groups.total, device=images.device, requires_grad=True)]

    def of(self, gate: Gate, z: Tensor) -> Tensor:
        """Factors for the gate's tensor: [batch, c, 1, ...]."""
        factors = torch.where(gate.index >= 0, self.leaves[0][:, gate.index.clamp(min=0)], 1.0)
        return factors.reshape(*factors.shape, *[1] * (z.dim() - 2))

    def per_map(self, diagonal: list[Tensor]) -> Tensor:
        return diagonal[0]


class _OfElements:
    """One factor of 1 for each element of each gate's tensor."""

    def __init__(self, groups: ChannelGroups, images: Tensor):
        self.total = groups.total
        self.gates: list[Gate] = []
        self.leaves: list[Tensor] = []

    def of(self, gate: Gate, z: Tensor) -> Tensor:
        self.gates.append(gate)
        self.leaves.append(torch.ones_like(z, requires_grad=True))
        return self.leaves[-1]

    def per_map(self, diagonal: list[Tensor]) -> Tensor:
        sums = diagonal[0].new_zeros(len(diagonal[0]), self.total)
        for gate, values in zip(self.gates, diagonal, strict=True):
            carried = gate.index >= 0
            sums.index_add_(1, gate.index[carried], values.reshape(*values.shape[:2], -1).sum(2)[:, carried])
        return sums


@contextmanager
def _multiplied(gates: list[Gate], factors: _Factors):
    """Every gate's output multiplied by its factors."""
    handles = [gate.register_forward_hook(lambda gate, args, z: z * factors.of(gate, z)) for gate in gates]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ObdGate(_Obd):
    """Theta = mean over examples of 1/2 d^2C/dm^2, m = 1 a factor that multiplies the map at all its positions and gates.

    h = d^2C/dz^2 between all pairs of positions p, q: 1/2 sum_pq z_p h_pq z_q. The second-order change of the loss
    when the whole map goes. A coupled map whose gates follow each other (a residual stream) multiplies itself, and
    the network is no longer piecewise linear in m: there Gauss-Newton leaves out the part of the Hessian that has
    the residual (p - y) of the logits as factor.
    """

    def factors(self, groups: ChannelGroups, images: Tensor) -> _OfMaps:
        return _OfMaps(groups, images)


class ObdElement(_Obd):
    """Theta = mean over examples of 1/2 sum over positions p (and a coupled map's gates) of h_pp z_p^2.

    h_pp = d^2C/dz_p^2: each position goes by itself, and what they have in common isn't counted, so it is smaller
    than obd_gate where positions act together.
    """

    def factors(self, groups: ChannelGroups, images: Tensor) -> _OfElements:
        return _OfElements(groups, images)
