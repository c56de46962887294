"""mixed{K}: Brevitas layers whose widths are chosen per layer, at no more bit operations than the uniform w{K}a{K}.

Layers that read one tensor share its quantiser, so they share a width; the first and the last layer keep first_last_bits.
Each other group's sensitivity to a width is the KL divergence, mean over calibration images, between the softmax
of the FP32 network and of that network with this group alone quantised (weights and input), in eval mode. The widths
are those of the least sum of sensitivities within the budget: a multiple-choice knapsack, solved exactly. Summed
sensitivities and an integer program under bit operations: HAWQ-V3 (Yao et al., ICML 2021); widths per layer by
sensitivity: HAWQ (Dong et al., ICCV 2019).
"""

import copy
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, fx
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.networks.graph import image_shape_of, layer_of, source_of
from qprune.precision import WIDTHS
from qprune.precision.brevitas_qat import calibrate, finish, place, quantized_at, weight_layers
from qprune.registry.errors import UserError

__all__ = ["any_widths", "choose", "finish", "knapsack", "prepare"]

Bits = TypeVar("Bits", int, float)
SENSITIVITY_IMAGES = 128  # at most, of the calibration images; each width of each group is one forward pass of them


def prepare(
    network: fx.GraphModule,
    calibration: Tensor | None,
    *,
    budget_bits: float,
    first_last_bits: int | None,
    layer_bits: dict[str, int],
) -> fx.GraphModule:
    """A copy with Brevitas layers of these widths: layer name -> bits of its weights and of what arrives at it."""
    if not layer_bits:
        raise ValueError(f"mixed{budget_bits:g} has no widths yet: choose() gives them")
    return place(network, calibration, {name: (bits, bits) for name, bits in layer_bits.items()})


def choose(
    network: fx.GraphModule,
    calibration: Tensor,
    *,
    budget_bits: float,
    first_last_bits: int | None,
    layer_bits: dict[str, int],
) -> dict[str, int]:
    """The widths for a trained FP32 network: layer name -> bits, all layers. calibration: images [n, c, h, w] in 0..1."""
    layers = weight_layers(network)
    names = [layer_of(node) for node in layers]
    fixed = {} if first_last_bits is None else dict.fromkeys(names[:1] + names[-1:], first_last_bits)
    counted = count_cost(network, image_shape_of(calibration)).layers
    macs = dict(zip(layers, (layer.macs for layer in counted if layer.name in names), strict=True))
    groups = [group for group in tied_layers(network) if not {layer_of(node) for node in group} <= fixed.keys()]
    if not groups:
        return fixed

    def asked(node: fx.Node, bits: Bits) -> Bits | int:
        return fixed.get(layer_of(node), bits)

    def bops(group: list[fx.Node], bits: float) -> float:
        arriving: dict[fx.Node, float] = {}
        for node in group:
            source = quantized_at(source_of(node))
            arriving[source] = max(asked(node, bits), arriving.get(source, 0))
        return sum(macs[node] * asked(node, bits) * arriving[quantized_at(source_of(node))] for node in group)

    divergence = _divergence(network, calibration)
    losses, costs = np.empty((len(groups), len(WIDTHS))), np.empty((len(groups), len(WIDTHS)))
    for row, group in enumerate(groups):
        for column, bits in enumerate(WIDTHS):
            losses[row, column] = divergence({layer_of(node): (asked(node, bits),) * 2 for node in group})
            costs[row, column] = bops(group, bits)
    chosen = dict(fixed)
    widths = knapsack(losses, costs, sum(bops(group, budget_bits) for group in groups))
    for group, column in zip(groups, widths, strict=True):
        chosen |= {layer_of(node): asked(node, WIDTHS[column]) for node in group}
    return {name: chosen[name] for name in names}


def any_widths(network: fx.GraphModule, first_last_bits: int | None) -> dict[str, int]:
    """Widths that a choice could have, of every kind by turns: layer name -> bits, all layers. Nothing is measured."""
    names = [layer_of(node) for node in weight_layers(network)]
    bits = {
        layer_of(node): WIDTHS[turn % len(WIDTHS)] for turn, group in enumerate(tied_layers(network)) for node in group
    }
    ends = {} if first_last_bits is None else dict.fromkeys(names[:1] + names[-1:], first_last_bits)
    return {name: (bits | ends)[name] for name in names}


def tied_layers(network: fx.GraphModule) -> list[list[fx.Node]]:
    """The nodes of weight_layers in groups that share a width: the same layer, run again, or the same tensor read."""
    groups: list[tuple[set[str | fx.Node], list[fx.Node]]] = []  # (layers and tensors, nodes)
    for node in weight_layers(network):
        keys: set[str | fx.Node] = {layer_of(node), quantized_at(source_of(node))}
        nodes, others = [node], []
        for group in groups:
            if group[0] & keys:
                keys, nodes = keys | group[0], group[1] + nodes
            else:
                others.append(group)
        groups = [*others, (keys, nodes)]
    return [nodes for _, nodes in groups]


def _divergence(network: fx.GraphModule, images: Tensor) -> Callable[[dict[str, tuple[int, int]]], float]:
    """Layers' widths -> KL(softmax of the FP32 network || of that with these layers alone quantised), mean over images."""

    images = images[:SENSITIVITY_IMAGES]
    with torch.no_grad():
        reference = F.log_softmax(copy.deepcopy(network).eval()(images).double(), 1)

    def of(bits: dict[str, tuple[int, int]]) -> float:
        found = F.log_softmax(calibrate(place(network, None, bits), images).double(), 1)
        value = F.kl_div(found, reference, reduction="batchmean", log_target=True).item()
        if not np.isfinite(value):
            raise UserError(f"layer {next(iter(bits))}: the network's output with it quantised is no finite number")
        return value

    return of


def knapsack(losses: np.ndarray, costs: np.ndarray, budget: float) -> list[int]:
    """One column of each row, of the least sum of losses among those whose costs' sum is at most the budget.

    losses, costs: [rows, columns]. Raises ValueError where even the cheapest columns cost more.
    """
    if costs.min(1).sum() > budget:
        raise ValueError("the cheapest choice costs more than the budget")
    rows, columns = losses.shape
    scale = np.abs(losses).max() or 1.0
    constraints = [
        LinearConstraint(np.kron(np.eye(rows), np.ones(columns)), 1, 1),  # one column of each row
        LinearConstraint(costs.reshape(1, -1) / budget, -np.inf, 1),
    ]
    while True:
        found = milp(
            losses.ravel() / scale, integrality=1, bounds=Bounds(0, 1), constraints=constraints,
            options={"mip_rel_gap": 0},
        )  # fmt: skip
        if found.x is None:
            raise RuntimeError(f"no widths were found within the budget: {found.message}")
        chosen = found.x.reshape(rows, columns).argmax(1)
        if costs[np.arange(rows), chosen].sum() <= budget:
            return chosen.tolist()
        # NOTE the solver's bounds hold to 1e-6 only: a choice that is so little above the budget is ruled out by itself
        taken = np.eye(columns)[chosen].reshape(1, -1)
        constraints.append(LinearConstraint(taken, -np.inf, rows - 1))
