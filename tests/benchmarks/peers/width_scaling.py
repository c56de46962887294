"""The simplest baseline: a uniformly narrower network, trained from scratch for all N + P + F + Q updates.

N + P + F in FP32 under one cosine, then the last Q at the precision, decaying like those of every other method. Width 1 is
quantisation alone: its int8 is torch.ao's.
"""

import copy
from collections.abc import Collection, Iterator

import torch

from qprune.training import cosine, seed_of

from .common import Budget, Clock, Point, at_precision, make_updates, point

WIDTHS = (1.0, 0.75, 0.5, 0.3, 0.15)
PRECISIONS = ("fp32", "int8", "w4a4")


def names(width: float, seed: int) -> list[tuple]:
    """The points of one job: (method, precision, ratio, width, seed). FP32 of width 1 is the sweep's scratch baseline."""
    method = "unpruned" if width == 1 else "width"
    return [(method, precision, None, width, seed) for precision in PRECISIONS if (width, precision) != (1, "fp32")]


def points(budget: Budget, width: float, seed: int, wanted: Collection[tuple]) -> Iterator[Point]:
    """Train one width once, then at each wanted precision."""
    data, spec = budget.load(width)
    clock = Clock()
    torch.manual_seed(seed_of(seed, "initial weights"))
    network = spec.build()
    before = budget.total - budget.quantize
    rate = cosine(budget.lr_dense, before)
    made = make_updates(network, data, budget.recipe, range(before), rate, seed_of(seed, "dense"))
    clock.updates = made
    for name in names(width, seed):
        if name not in wanted:
            continue
        method, precision = name[:2]
        finished, cost, last = at_precision(copy.deepcopy(network), precision, data, budget, seed)
        clock.updates += last
        values = {"method": method, "precision": precision, "width": width, "seed": seed, "updates": made + last}
        yield point(finished, cost, data, clock, **values)
