"""The operating point that limits and a preference single out. The report's page decides by the same rules (choose.js).

All by means over seeds; accuracy is validation accuracy. Of the points that keep every limit:
- most-accurate: the largest val_accuracy; of equal ones the smallest cost;
- cheapest: the smallest cost; of equal ones the largest val_accuracy;
- knee: the knee of their front (the point farthest above its chord on log2 of the cost); where there is none, as on a
  front of fewer than three points, the most accurate one.
What is still equal is decided by the smaller weight_bytes, then the smaller ratio, then the order of the sweep.
"""

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np

from qprune.analysis.front import COSTS, is_on_front, knee
from qprune.registry import nearest
from qprune.registry.errors import UserError

PREFERENCES = ("most-accurate", "cheapest", "knee")
MAXIMA = (*COSTS, "gbops", "macs", "params", "val_loss")
MINIMA = ("val_accuracy", "speedup")
RUNNERS_UP = 3
SUFFIXES = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "%": -2}  # powers of ten


def choose_points(points, folder: Path, data: str | None, model: str | None):
    """The operating points of one data set, and one model where it is named. Raises UserError where that isn't clear."""
    if points.empty:
        raise UserError(f"{folder} has no finished cell yet; run the sweep first (qprune status {folder})")
    for option, column, wanted in (("--data", "data", data), ("--model", "model", model)):
        names = list(points[column].astype(str).unique())
        if wanted is not None and wanted not in names:
            raise UserError(f"{option} {wanted}: the sweep has no such {column}{nearest(wanted, names)}")
        if wanted is None and column == "data" and len(names) > 1:
            raise UserError(f"the sweep has several data sets; name one: --data {' | '.join(names)}")
        points = points[points[column].astype(str) == wanted] if wanted is not None else points
    return points.reset_index(drop=True)


def check_cost(points, cost: str) -> None:
    """Raises UserError where the points have no such cost."""
    if cost not in COSTS or not _known(points, cost):
        raise UserError(
            f"--cost {cost}: no such cost here{nearest(cost, [one for one in COSTS if _known(points, one)])}"
        )


@dataclass(frozen=True)
class Limits:
    """What a point must keep: column -> largest, and column -> smallest mean."""

    largest: dict[str, float] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)

    def keep(self, points) -> np.ndarray:
        """Which points keep all of them, bool [n]; one without the number doesn't."""
        kept = np.ones(len(points), dtype=bool)
        for column, limit in self.largest.items():
            kept &= points[column].to_numpy() <= limit
        for column, limit in self.smallest.items():
            kept &= points[column].to_numpy() >= limit
        return kept

    def without(self, column: str) -> "Limits":
        """The same but for one column."""
        return Limits(*({key: v for key, v in part.items() if key != column} for part in (self.largest, self.smallest)))

    def texts(self) -> dict[str, str]:
        """Column -> how the limit is typed."""
        return {column: f"--max {column}={limit:.15g}" for column, limit in self.largest.items()} | {
            column: f"--min {column}={limit:.15g}" for column, limit in self.smallest.items()
        }


def parse_limits(largest: list[str], smallest: list[str], points) -> Limits:
    """Limits from "column=number" texts; k, M, G and % are understood. `accuracy` in smallest means val_accuracy.

    Raises UserError for a text of another form, an unknown column (naming the nearest), a number that can't be meant.
    """
    return Limits(
        dict(_parse(text, "--max", [c for c in MAXIMA if _known(points, c)]) for text in largest),
        dict(_parse(text, "--min", [c for c in MINIMA if _known(points, c)]) for text in smallest),
    )


def _known(points, column: str) -> bool:
    return column in points and bool(points[column].notna().any())


def _parse(text: str, option: str, valid: list[str]) -> tuple[str, float]:
    match = re.fullmatch(r"\s*([^=\s]+)\s*=\s*([-+.\deE]+)\s*([kKMG%]?)\s*", text)
    try:
        if match is None:
            raise ArithmeticError
        column, limit = match[1], float(Decimal(match[2]).scaleb(SUFFIXES[match[3]]))
    except ArithmeticError:
        raise UserError(f"{option} {text}: should be COLUMN=NUMBER, e.g. {option} {valid[0]}=0.5") from None
    if option == "--min" and column == "accuracy":
        column = "val_accuracy"
    if column in ("accuracy", "test_accuracy", "test_loss"):
        raise UserError(
            f"{option} {text}: choices go by validation, test results choose nothing; use --min val_accuracy"
        )
    if column == "latency_ms" and column not in valid:
        raise UserError(f"{option} {text}: no cell has a measured latency yet; qprune bench measures it")
    if column not in valid:
        other = "--min" if option == "--max" else "--max"
        if column in MAXIMA + MINIMA:
            raise UserError(f"{option} {text}: {column} is limited by {other}")
        raise UserError(f"{option} {text}: no column {column!r} to limit{nearest(column, valid)}")
    if column == "val_accuracy" and limit > 1:
        raise UserError(f"{option} {text}: an accuracy is at most 1; did you mean {limit / 100:g} or {limit:g}%?")
    return column, limit


@dataclass(frozen=True)
class Pick:
    """What was chosen: positions in the table of points. chosen is None where no point keeps the limits.

    prefer: the rule that decided (a knee that doesn't exist is decided as most-accurate); feasible: how many keep them.
    """

    chosen: int | None
    runners_up: list[int]
    prefer: str
    feasible: int


def pick(points, limits: Limits, prefer: str = "most-accurate", cost: str = "bit_gflops") -> Pick:
    """The point of the module's rules, and those that follow it.

    points: operating_points of one data set. The runners-up are the next by the same rule; after a knee, by
    most-accurate.
    """
    if prefer not in PREFERENCES:
        raise UserError(f"--prefer {prefer}: unknown{nearest(prefer, list(PREFERENCES))}")
    kept = np.flatnonzero(limits.keep(points) & points.val_accuracy.notna() & points[cost].notna())
    if not len(kept):
        return Pick(None, [], prefer, 0)
    some = points.iloc[kept]
    costs, accuracies = some[cost].to_numpy(), some.val_accuracy.to_numpy()
    chosen = None
    if prefer == "knee":
        front = np.flatnonzero(is_on_front(costs, accuracies))
        place = knee(costs[front], accuracies[front])
        if place is not None:
            chosen = front[place]
    ends = (some.weight_bytes, some.pruning_ratio, np.arange(len(some)))
    keys = (costs, -accuracies) if prefer == "cheapest" else (-accuracies, costs)
    order = list(np.lexsort((*reversed(ends), *reversed(keys))))
    if chosen is not None:
        order = [chosen, *(one for one in order if one != chosen)]
    ranked = [int(kept[one]) for one in order[: 1 + RUNNERS_UP]]
    rule = "most-accurate" if prefer == "knee" and chosen is None else prefer
    return Pick(ranked[0], ranked[1:], rule, len(kept))


def miss(points, limits: Limits) -> np.ndarray:
    """How far each point is from keeping the limits: the worst of them, in octaves of a cost,
    in 10 percentage points of accuracy."""
    worst = np.zeros(len(points))
    for column, limit in limits.largest.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.maximum(worst, np.log2(points[column].to_numpy() / limit) if limit > 0 else math.inf)
    for column, limit in limits.smallest.items():
        values = points[column].to_numpy()
        worst = np.maximum(worst, 10 * (limit - values) if column == "val_accuracy" else np.log2(limit / values))
    return np.nan_to_num(worst, nan=math.inf)


def nearest_points(points, limits: Limits) -> list[int]:
    """The points that come nearest to limits that none keeps, nearest first."""
    return [int(one) for one in np.argsort(miss(points, limits), kind="stable")[: 1 + RUNNERS_UP]]


def price_of_limits(points, limits: Limits, prefer: str, cost: str) -> dict[str, int | None]:
    """For each limit, the position of what would be picked without it; None where the others can't be kept either."""
    return {
        column: pick(points, limits.without(column), prefer, cost).chosen
        for column in [*limits.largest, *limits.smallest]
    }
