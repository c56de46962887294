"""The brute-force oracle: each map switched off alone, the loss measured. Slow, and what criteria are held against."""

from collections.abc import Callable

import torch
from torch import Tensor

from qprune.data import Split
from qprune.pruning.gated import GatedNetwork
from qprune.training import evaluate


def oracle_loss(gated: GatedNetwork, split: Split, on_map: Callable[[], None] = lambda: None) -> Tensor:
    """The change of the mean loss on a split when one living map is switched off, for each: float64 [maps], nan for dead ones.

    In eval mode. Molchanov et al. (ICLR 2017), Sec. 2.2 "Oracle pruning": this is oracle-loss, its absolute value
    oracle-abs.
    """
    alive = gated.alive.clone()
    base = evaluate(gated.network, split).loss
    changes = torch.full((gated.groups.total,), torch.nan, dtype=torch.float64)
    for number in alive.nonzero().flatten().tolist():
        without = alive.clone()
        without[number] = False
        gated.mask(without)
        changes[number] = evaluate(gated.network, split).loss - base
        on_map()
    gated.mask(alive)
    return changes
