"""The operating point that limits and a preference single out. The report's page decides by the same rules (choose.js).

By means over seeds; accuracy is validation accuracy. Limits on costs hold for the mean and for the cell that is handed over:
of the point's cells that keep them, the one nearest to the median by validation accuracy (front.from_the_median); where none
does, the point doesn't fit. Limits on accuracies and losses hold for the mean alone, or a lucky seed would be picked. Of the points that keep
every limit:
- most-accurate: the largest val_accuracy; of equal ones the smallest cost;
- cheapest: the smallest cost; of equal ones the largest val_accuracy;
- cheapest-within: the same, of those whose lower bound (gains.Gain.low, 95%) of the gain in validation accuracy over the
  baseline is above -max_drop percentage points;
- knee: the knee of their front (the point farthest above its chord on log2 of the cost); where there is none, as on a
  front of fewer than three points, the most accurate one.
What is still equal is decided by the smaller weight_bytes, then the smaller ratio, then the order of the sweep.
"""

import math
import re
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from qprune.analysis.front import (
    COSTS,
    FASTER_ON_A_DEVICE,
    ON_A_DEVICE,
    POINT,
    costs_in,
    from_the_median,
    is_on_front,
    knee,
    on_devices,
    operating_points,
)
from qprune.analysis.gains import Gains, rows_of
from qprune.registry import nearest
from qprune.registry.errors import UserError

CHEAPEST_WITHIN = "cheapest-within"
PREFERENCES = ("most-accurate", "cheapest", CHEAPEST_WITHIN, "knee")
MAXIMA = (*COSTS, "gbops", "macs", "params", "val_loss")
MINIMA = ("val_accuracy", "val_balanced_accuracy", "val_least_recall", "speedup")
ACCURACIES = ("val_accuracy", "val_balanced_accuracy", "val_least_recall")
OF_THE_MEAN = (*ACCURACIES, "val_loss")  # what isn't a cost: limits hold for the mean alone
TEST_RESULTS = ("accuracy", "test_accuracy", "test_loss", "balanced_accuracy", "least_recall")
USUAL_DROP = 1.0  # percentage points, of cheapest-within where none are named
ROUNDING = 1e-12
RUNNERS_UP = 3
SUFFIXES = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "%": -2}  # powers of ten


@dataclass(frozen=True)
class Choices:
    """What is chosen from.

    points: operating_points of one data set; cells: their measured ones, `point` the place of each one's point, and those
    of a point in the order in which they would be handed over
    """

    points: Any
    cells: Any

    def handed_over(self, limits: "Limits") -> np.ndarray:
        """The place in `cells` of the one that each point hands over, -1 where none keeps the limits on costs, int [n]."""
        kept = np.flatnonzero(limits.of_cells().keep(self.cells))
        points, first = np.unique(self.cells.point.to_numpy()[kept], return_index=True)
        places = np.full(len(self.points), -1)
        places[points] = kept[first]
        return places

    def with_bounds(self, gains: Gains) -> "Choices":
        """The same with `val_gain_bound`, the lower bound of each point's gain in validation accuracy."""
        low = {point: gains.of(rows_of(own), "validation").low for point, own in self.cells.groupby("point")}
        return replace(self, points=self.points.assign(val_gain_bound=[low[one] for one in range(len(self.points))]))


def choices_of(cells, folder: Path, data: str | None, model: str | None) -> Choices:
    """The operating points of one data set, and one model where it is named. Raises UserError where that isn't clear."""
    points = operating_points(cells)
    if points.empty:
        raise UserError(f"{folder} has no finished cell yet; run the sweep first (qprune status {folder})")
    for option, column, wanted in (("--data", "data", data), ("--model", "model", model)):
        names = list(points[column].astype(str).unique())
        if wanted is not None and wanted not in names:
            raise UserError(f"{option} {wanted}: the sweep has no such {column}{nearest(wanted, names)}")
        if wanted is None and column == "data" and len(names) > 1:
            raise UserError(f"the sweep has several data sets; name one: --data {' | '.join(names)}")
        points = points[points[column].astype(str) == wanted] if wanted is not None else points
    points = points.reset_index(drop=True)
    places = points[POINT].assign(point=np.arange(len(points)))
    return Choices(points, from_the_median(cells).merge(places, on=POINT))


def check_cost(points, cost: str) -> None:
    """Raises UserError where the points have no such cost."""
    costs = costs_in(points)
    if _is_latency(cost) and not _known(points, cost):
        raise UserError(f"--cost {cost}: {_unmeasured(cost)}")
    if cost not in costs or not _known(points, cost):
        raise UserError(
            f"--cost {cost}: no such cost here{nearest(cost, [one for one in costs if _known(points, one)])}"
        )


@dataclass(frozen=True)
class Limits:
    """What a point must keep: column -> largest, and column -> smallest.

    drop: the most percentage points by which its mean validation accuracy may be under the baseline's; sure: whether the
    gain's lower bound must be above that too (`val_gain_bound`, of Choices.with_bounds)
    """

    largest: dict[str, float] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)
    drop: float | None = None
    sure: bool = False

    def keep(self, points) -> np.ndarray:
        """Which points (or cells) keep all of them, bool [n]; one without the number doesn't."""
        kept = np.ones(len(points), dtype=bool)
        for column, limit in self.largest.items():
            kept &= points[column].to_numpy() <= limit
        for column, limit in self.smallest.items():
            kept &= points[column].to_numpy() >= limit
        if self.drop is not None:
            kept &= points.val_gain.to_numpy() >= -self.drop / 100 - ROUNDING
            if self.sure:
                kept &= points.val_gain_bound.to_numpy() > -self.drop / 100
        return kept

    def unsure(self, points) -> np.ndarray:
        """Which points keep all but for the gain's lower bound, bool [n]."""
        return replace(self, sure=False).keep(points) & ~self.keep(points)

    def of_cells(self) -> "Limits":
        """Those that hold for the cell that is handed over, too."""
        largest, smallest = (
            {key: v for key, v in part.items() if key not in OF_THE_MEAN} for part in (self.largest, self.smallest)
        )
        return Limits(largest, smallest)

    def without(self, text: str) -> "Limits":
        """The same but for the one of `texts`; a drop goes with being sure of it."""
        texts = self.texts()
        largest, smallest = (
            {key: v for key, v in part.items() if texts[key] != text} for part in (self.largest, self.smallest)
        )
        dropped = texts.get("max_drop") == text
        return Limits(largest, smallest, None if dropped else self.drop, self.sure and not dropped)

    def texts(self) -> dict[str, str]:
        """Column -> how the limit is typed; of a drop, under "max_drop"."""
        texts = {column: f"--max {column}={limit:.15g}" for column, limit in self.largest.items()}
        texts |= {column: f"--min {column}={limit:.15g}" for column, limit in self.smallest.items()}
        return texts if self.drop is None else texts | {"max_drop": f"--max-drop {self.drop:.15g}"}


def parse_limits(
    largest: list[str], smallest: list[str], points, prefer: str = "most-accurate", max_drop: str | float | None = None
) -> Limits:
    """Limits from "column=number" texts; k, M, G and % are understood. Accuracies in smallest mean validation's.

    max_drop: percentage points, such as 1, "1" or "0.5%". With cheapest-within limits are sure, and the drop is USUAL_DROP where
    none is named.
    Raises UserError for a text of another form, an unknown column (naming the nearest), a number that can't be meant.
    """
    if prefer not in PREFERENCES:
        raise UserError(f"--prefer {prefer}: unknown{nearest(prefer, list(PREFERENCES))}")
    drop = None if max_drop is None else _percentage_points(str(max_drop))
    for option, texts in (("--max", largest), ("--min", smallest)):
        columns = [text.partition("=")[0].strip() for text in texts]
        if twice := next((column for column in columns if columns.count(column) > 1), None):
            raise UserError(f"{option} {twice}: given twice; keep one of them")
    sure = prefer == CHEAPEST_WITHIN
    drop = USUAL_DROP if sure and drop is None else drop
    if drop is not None and not _known(points, "val_gain"):
        raise UserError(
            "--max-drop: no point has a baseline yet (its model's FP32 network at ratio 0) to hold it against"
        )
    faster = [column for column in points if column.startswith(FASTER_ON_A_DEVICE)]
    return Limits(
        dict(
            _parse(text, "--max", [c for c in (*MAXIMA, *on_devices(points)) if _known(points, c)]) for text in largest
        ),
        dict(_parse(text, "--min", [c for c in (*MINIMA, *faster) if _known(points, c)]) for text in smallest),
        drop,
        sure,
    )


def _percentage_points(text: str) -> float:
    try:
        drop = float(text.strip().removesuffix("%"))
    except ValueError:
        drop = math.nan
    if not 0 <= drop <= 100:
        raise UserError(f"--max-drop {text}: should be percentage points, 0 to 100, e.g. --max-drop 1")
    return drop


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
    if option == "--min" and f"val_{column}" in ACCURACIES:
        column = f"val_{column}"
    if column in TEST_RESULTS:
        raise UserError(
            f"{option} {text}: choices go by validation, test results choose nothing; use --min val_accuracy"
        )
    if _is_latency(column) and column not in valid:
        raise UserError(f"{option} {text}: {_unmeasured(column)}{nearest(column, on_devices(valid))}")
    if column not in valid:
        other = "--min" if option == "--max" else "--max"
        if column in (MAXIMA if option == "--min" else MINIMA):
            raise UserError(f"{option} {text}: {column} is limited by {other}")
        lacking = "; no cell of this table has it" if column in MAXIMA + MINIMA else nearest(column, valid)
        if column.startswith("file_bytes_"):
            lacking += f" yet: qprune export --format {column.removeprefix('file_bytes_')} makes the file that has it"
        raise UserError(f"{option} {text}: no column {column!r} to limit{lacking}")
    if column in ACCURACIES and limit > 1:
        raise UserError(f"{option} {text}: an accuracy is at most 1; did you mean {limit / 100:g} or {limit:g}%?")
    return column, limit


def _is_latency(column: str) -> bool:
    return column == "latency_ms" or column.startswith(ON_A_DEVICE)


def _unmeasured(latency: str) -> str:
    """What is to be said of a latency that no cell has."""
    if latency.startswith(ON_A_DEVICE):
        return "no times of that device were taken in (qprune bench DIR --import CSV --as NAME)"
    return "no cell has a measured latency yet; qprune bench DIR measures it"


@dataclass(frozen=True)
class Pick:
    """What was chosen: places in the table of points. chosen is None where no point keeps the limits.

    prefer: the rule that decided (a knee that doesn't exist is decided as most-accurate); feasible: how many keep them;
    mean_only: those that keep them by their mean, but with no seed's cell; cells: of each point, the place in the choices'
    cells of the one to hand over, -1 where none can be
    """

    chosen: int | None
    runners_up: list[int]
    prefer: str
    feasible: int
    mean_only: list[int]
    cells: np.ndarray


def pick(choices: Choices, limits: Limits, prefer: str = "most-accurate", cost: str = "bit_gflops") -> Pick:
    """The point of the module's rules, and those that follow it.

    The runners-up are the next by the same rule; after a knee, by most-accurate.
    """
    points, cells = choices.points, choices.handed_over(limits)
    by_mean = limits.keep(points) & points.val_accuracy.notna().to_numpy() & points[cost].notna().to_numpy()
    mean_only = np.flatnonzero(by_mean & (cells < 0)).tolist()
    kept = np.flatnonzero(by_mean & (cells >= 0))
    if not len(kept):
        return Pick(None, [], prefer, 0, mean_only, cells)
    some = points.iloc[kept]
    costs, accuracies = some[cost].to_numpy(), some.val_accuracy.to_numpy()
    chosen = None
    if prefer == "knee":
        front = np.flatnonzero(is_on_front(costs, accuracies))
        place = knee(costs[front], accuracies[front])
        if place is not None:
            chosen = front[place]
    ends = (some.weight_bytes, some.pruning_ratio, np.arange(len(some)))
    keys = (costs, -accuracies) if prefer in ("cheapest", CHEAPEST_WITHIN) else (-accuracies, costs)
    order = list(np.lexsort((*reversed(ends), *reversed(keys))))
    if chosen is not None:
        order = [chosen, *(one for one in order if one != chosen)]
    ranked = [int(kept[one]) for one in order[: 1 + RUNNERS_UP]]
    rule = "most-accurate" if prefer == "knee" and chosen is None else prefer
    return Pick(ranked[0], ranked[1:], rule, len(kept), mean_only, cells)


def miss(table, limits: Limits) -> np.ndarray:
    """How far each point (or cell) is from keeping the limits: the worst of them, in octaves of a cost,
    in 10 percentage points of accuracy."""
    worst = np.zeros(len(table))
    for column, limit in limits.largest.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.maximum(worst, np.log2(table[column].to_numpy() / limit) if limit > 0 else math.inf)
    for column, limit in limits.smallest.items():
        values = table[column].to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.maximum(worst, 10 * (limit - values) if column in ACCURACIES else np.log2(limit / values))
    if limits.drop is not None:
        gain = table.val_gain_bound if limits.sure else table.val_gain
        worst = np.maximum(worst, 10 * (-limits.drop / 100 - gain.to_numpy()))
    return np.nan_to_num(worst, nan=math.inf)


def nearest_points(choices: Choices, limits: Limits) -> list[int]:
    """The points that come nearest to limits that none keeps, with the nearest of their cells; nearest first."""
    cells = (
        choices.cells.point.to_frame().assign(miss=miss(choices.cells, limits.of_cells())).groupby("point").miss.min()
    )
    worst = np.maximum(miss(choices.points, limits), cells.reindex(range(len(choices.points))).to_numpy())
    return [int(one) for one in np.argsort(worst, kind="stable")[: 1 + RUNNERS_UP]]


def price_of_limits(choices: Choices, limits: Limits, prefer: str, cost: str) -> dict[str, Pick]:
    """For each limit, as it is typed, what would be picked without it. Without a drop, cheapest-within is cheapest."""
    return {text: pick(choices, limits.without(text), prefer, cost) for text in limits.texts().values()}


def known_of(points, columns: list[str]) -> dict[str, int]:
    """Of columns that not every point has: how many have each."""
    counts = {column: int(points[column].notna().sum()) for column in columns}
    return {column: count for column, count in counts.items() if count < len(points)}
