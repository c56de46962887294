"""Which cells of a grid are worth computing: successive search for the Pareto front of each model and data set.

Two steps. Scouting, with one seed: a Gaussian process with fixed scales foretells validation accuracy and bit_gflops of
the points that are not known, and what promises most hypervolume for its updates is computed next. Then confirming:
of the points that are known, those that carry the front are computed with the other seeds. Both end where no point is
worth its updates. Choices go by validation accuracy alone.

The search is a function of the outcomes: it starts over from nothing each time, looks only at outcomes that it has asked
for, in the order in which it asked, and so takes the same way however often a sweep is interrupted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qprune.analysis.front import hypervolume
from qprune.analysis.studies import BELOW_BASELINE
from qprune.precision import PRECISIONS
from qprune.settings.methods import METHODS
from qprune.sweep.plan import Cell, Plan

Outcomes = Mapping[str, tuple[float, float] | None]  # evaluate stage -> (val accuracy, bit_gflops); None: it failed

ROUND = 4  # points that are scouted at once, so that several workers have something to do
WORTH = 0.6  # share of the hypervolume that a point must add for each share of the updates, once SPENT of them (but for
SPENT = 1 / 3  # the baselines', which no choice saves) are spent; less before and more after, with the square of that
OPTIMISM = 0.75  # standard deviations above the expected accuracy that a point is thought capable of
FLOOR = 1.5 * BELOW_BASELINE  # accuracies further under the baseline's count nothing, and are all the same


def next_cells(plan: Plan, outcomes: Outcomes) -> list[Cell]:
    """The cells to compute next, in the plan's order; none: the search is done. Those that have an outcome are left out.

    outcomes: of the cells (and of their baselines, which are computed with them) as far as they are known.
    """
    return Search(plan).advance(outcomes)


class Search:
    """The search of a plan's studies. asked: ids of the cells that it has asked for."""

    def __init__(self, plan: Plan):
        self.plan = plan
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in plan.cells:
            groups.setdefault((cell.model, cell.data), []).append(cell)
        self.studies = [_Study(plan, cells) for cells in groups.values()]

    @property
    def asked(self) -> set[str]:
        return {cell for study in self.studies for cell in study.asked}

    def advance(self, outcomes: Outcomes) -> list[Cell]:
        """next_cells; called again with more outcomes it goes on from where it was."""
        chosen = {cell.id for study in self.studies for cell in study.advance(outcomes)}
        return [cell for cell in self.plan.cells if cell.id in chosen]


@dataclass(frozen=True)
class Point:
    """A point of the grid: its place for the Gaussian process, and its cells, one for each seed."""

    variant: tuple[str, str]  # criterion, method and what is equal
    bits: tuple[float, float]  # of weights, of activations
    ratio: float
    cells: tuple[Cell, ...]


def is_of_the_grid(cell: Cell) -> bool:
    """Whether it has its place by precision and ratio: what is pruned, and what is narrower instead."""
    method = METHODS.get(cell.method)
    return method.ranks or method.baseline


class _Study:
    """The search for the front of one model on one data set."""

    def __init__(self, plan: Plan, cells: list[Cell]):
        self.plan = plan
        self.beside = [cell for cell in cells if not is_of_the_grid(cell)]
        cells = [cell for cell in cells if is_of_the_grid(cell)]
        groups: dict[tuple, list[Cell]] = {}
        for cell in cells:  # points of equal work (ratio 0 of two criteria) are one
            groups.setdefault((cell.variant, cell.precision, cell.ratio, cell.criterion), []).append(cell)
        points: dict[tuple[str, ...], Point] = {}
        for group in groups.values():
            first = group[0]
            point = Point(
                (first.criterion, first.variant), PRECISIONS.get(first.precision).bits, first.ratio, tuple(group)
            )
            points.setdefault(tuple(cell.stages["evaluate"] for cell in group), point)
        self.points = list(points.values())
        self.twins: dict[str, list[Cell]] = {}
        for cell in (*cells, *self.beside):
            self.twins.setdefault(cell.stages["evaluate"], []).append(cell)
        self.needs: dict[str, set[str]] = {}  # cell -> stages
        self.seen: dict[str, tuple[float, float] | None] = {}
        self.bought: set[str] = set()  # stages
        self.asked: set[str] = set()
        self.pending: list[Cell] = []
        self.seeds = max(len({cell.seed for cell in cells}), 1)
        self.seed_updates = max(plan.updates_of(self._stages(cells)) / self.seeds, 1)
        unavoidable = plan.updates_of(plan.needed_by(cell.baseline for cell in cells))
        self.unavoidable = unavoidable / self.seed_updates / self.seeds  # share of the updates

    def advance(self, outcomes: Outcomes) -> list[Cell]:
        while True:
            if not self.pending:
                self.pending = self._choose()
                self.asked |= {twin.id for cell in self.pending for twin in self.twins[cell.stages["evaluate"]]}
            missing = [c for c in self.pending if not {c.stages["evaluate"], c.baseline} <= outcomes.keys()]
            if missing or not self.pending:
                return missing
            for cell in self.pending:
                if cell in self.beside:
                    continue
                self.bought |= self._stages([cell])
                for stage in (cell.stages["evaluate"], cell.baseline):
                    self.seen[stage] = outcomes[stage]
            self.pending = []

    # What is known

    def _value(self, cell: Cell) -> tuple[float, float] | None:
        """(log2 of bit_gflops, accuracy), both less the seed's baseline's; None where it is not known or failed."""
        outcome = self.seen.get(cell.stages["evaluate"])
        if outcome is None:
            return None
        accuracy, cost = self.seen.get(cell.baseline) or self._stand_in()
        return float(np.log2(outcome[1] / cost)), max(outcome[0] - accuracy, -FLOOR)

    def _stand_in(self) -> tuple[float, float]:
        """Of a baseline that failed: the best accuracy and the largest cost that are known."""
        known = [outcome for outcome in self.seen.values() if outcome]
        return max(accuracy for accuracy, _ in known), max(cost for _, cost in known)

    def _values(self, point: Point) -> list[tuple[float, float]]:
        return [value for value in map(self._value, point.cells) if value]

    def _untried(self, point: Point) -> list[Cell]:
        return [cell for cell in point.cells if cell.stages["evaluate"] not in self.seen]

    # What it costs

    def _stages(self, cells: list[Cell]) -> set[str]:
        """All stages that cells and their baselines need."""
        return set().union(*map(self._stages_of, cells))

    def _stages_of(self, cell: Cell) -> set[str]:
        if cell.id not in self.needs:
            self.needs[cell.id] = self.plan.needed_by([*cell.stages.values(), cell.baseline])
        return self.needs[cell.id]

    # Choosing

    def _choose(self) -> list[Cell]:
        if not self.points:  # what no criterion prunes is no part of the search
            return [] if self.asked else self.beside
        if not self.seen:
            return self._first()
        return self._scout() or self._confirm()

    def _first(self) -> list[Cell]:
        """Where nothing is known: the baseline with every seed, which needs it anyway, and with one seed the least pruned
        network at each precision, which share most of their work; and what no criterion has to do with, which is no part of
        the search."""
        least = min(point.ratio for point in self.points)
        variant = self.points[0].variant
        first = [point for point in self.points if point.ratio == least and point.variant == variant]
        baselines = [cell for point in self.points for cell in point.cells if cell.stages["evaluate"] == cell.baseline]
        return list(
            {cell.id: cell for cell in (*self.beside, *baselines, *(point.cells[0] for point in first))}.values()
        )

    def _scout(self) -> list[Cell]:
        """The cells of one seed, at most ROUND, that promise most hypervolume for their updates."""
        known = [point for point in self.points if self._values(point)]
        open_ = [point for point in self.points if not self._values(point) and self._untried(point)]
        if not known:
            return [self._untried(point)[0] for point in open_[:ROUND]]  # all have failed so far
        values = np.array([self._values(point)[0] for point in known])
        scouts = [next(cell for cell in point.cells if self._value(cell)) for point in known]
        chosen: list[Cell] = []
        bought = self._stages(scouts)  # without the other seeds' baselines
        while open_ and len(chosen) < ROUND:
            expected, capable = foretell(known, values, [*open_, *known])
            cells = [self._untried(point)[:1] for point in open_]
            best = self._best(capable[: len(open_)], expected[len(open_) :], cells, bought, 1)
            if best is None:
                break
            chosen += cells[best]
            bought |= self._stages(cells[best])
            known.append(open_.pop(best))  # as if it came out as expected
            values = np.vstack([values, expected[best]])
        return chosen

    def _confirm(self) -> list[Cell]:
        """The other seeds' cells of the scouted points that the front needs."""
        known = [point for point in self.points if self._values(point)]
        if not known:
            return []
        expected, capable = foretell(known, np.array([self._values(point)[0] for point in known]), known)
        hopeless = [max(accuracy for _, accuracy in self._values(point)) <= -FLOOR for point in known]
        open_ = [number for number, point in enumerate(known) if self._untried(point) and not hopeless[number]]
        means = [np.mean(self._values(point), axis=0) for point in known if not self._untried(point)]
        if not means:  # nothing may be worth it, but some point is to be a mean over seeds
            return self._untried(known[int(np.argmax(expected[:, 1]))])
        chosen: list[Cell] = []
        front, bought = np.array(means), set(self.bought)
        while open_:
            cells = [self._untried(known[number]) for number in open_]
            best = self._best(capable[open_], front, cells, bought, self.seeds)
            if best is None:
                break
            chosen += cells[best]
            bought |= self._stages(cells[best])
            front = np.vstack([front, expected[open_.pop(best)]])
        return chosen

    def _best(
        self, points: np.ndarray, front: np.ndarray, cells: list[list[Cell]], bought: set[str], seeds: int
    ) -> int | None:
        """Which point adds most hypervolume to the front for the updates of its cells, if it is worth them.

        seeds: among how many what has been bought is shared out.
        """
        both = np.vstack([front, points])
        whole = max(hypervolume(2.0 ** both[:, 0], both[:, 1], 1.0, -BELOW_BASELINE), BELOW_BASELINE)
        prices = [self.plan.updates_of(self._stages(each) - bought) / len(each) / self.seed_updates for each in cells]
        worths = hypervolume_gains(front, points) / whole / np.maximum(prices, 1e-6)
        best = int(np.argmax(np.round(worths, 9)))  # of equal ones the first
        spent = self.plan.updates_of(bought) / self.seed_updates / seeds
        spent = max(spent - self.unavoidable, 0.0) / max(1 - self.unavoidable, 1e-6)
        return best if worths[best] > WORTH * (spent / SPENT) ** 2 else None


def hypervolume_gains(known: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What each point alone would add to the hypervolume of known ones: [k, 2], [n, 2] -> [n], in octaves x accuracy.

    Columns: log2 of the cost and accuracy, both less the baseline's, so that the reference point is (0, -0.1).
    """
    low = -BELOW_BASELINE
    known = known[known[:, 0] < 0]
    order = np.argsort(known[:, 0], kind="stable")
    edges = np.append(known[order, 0], 0.0)
    steps = np.maximum(np.maximum.accumulate(known[order, 1]), low) if len(known) else np.empty(0)
    left = np.append(-np.inf, edges[:-1])  # between two edges, the best accuracy at no more than that cost
    best = np.append(low, steps)
    width = np.maximum(edges - np.maximum(left, points[:, :1]), 0.0)  # [n, k + 1]
    return (width * np.maximum(points[:, 1:] - best, 0.0)).sum(1)


# Foretelling ----------------------------------------------------------------------------------------------------------

# Standard deviations of what precision, ratio, both together, and criterion and method change, and of one seed's noise.
ACCURACY = (0.05, 0.08, 0.02, 0.02, 0.005)
COST = (0.5, 0.7, 0.2, 0.3, 0.05)  # in octaves
NOISE_OF_LOSS = 0.2  # how much noisier accuracy is where some is lost, for each point lost


def foretell(known: list[Point], values: np.ndarray, points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    """(expected, capable) values of points, each [n, 2]: log2 cost and accuracy, both less the baseline's.

    A Gaussian process on 1 / bits and -log2(1 - ratio), around a rough guess that holds for no network in particular:
    low widths and high ratios lose accuracy fast, costs go with the bits' product and about with (1 - ratio)^1.5.
    capable: OPTIMISM standard deviations above the expected accuracy, but hardly above the best known one.
    values: of the known points, one seed's, [k, 2]. Rasmussen and Williams 2006, Algorithm 2.1.
    """
    guessed, guess = _guess(known), _guess(points)
    noisier = 1 + NOISE_OF_LOSS / ACCURACY[-1] * np.maximum(-values[:, 1], 0.0)
    columns, spread = [], np.empty(0)
    for column, scales in enumerate((COST, ACCURACY)):
        within = _covariance(known, known, scales) + np.diag((scales[-1] * noisier) ** 2)
        across = _covariance(points, known, scales)
        weights = np.linalg.solve(within, across.T)  # [k, n]
        columns.append(guess[:, column] + weights.T @ (values[:, column] - guessed[:, column]))
        spread = np.sqrt(np.maximum(sum(s**2 for s in scales[:-1]) - (across.T * weights).sum(0), 0.0))
    capable = np.minimum(columns[1] + OPTIMISM * spread, max(0.0, values[:, 1].max()) + ACCURACY[-1])
    return np.column_stack(columns), np.column_stack([columns[0], capable])


def _guess(points: list[Point]) -> np.ndarray:
    bits, ratios = (np.array([getattr(point, axis) for point in points], float) for axis in ("bits", "ratio"))
    cost = np.log2(bits.prod(1) / 32**2) + 1.5 * np.log2(1 - ratios)
    accuracy = -0.15 * (2**-bits).mean(1) - 0.01 * (1 / (1 - ratios) - 1)
    return np.column_stack([cost, np.maximum(accuracy, -FLOOR)])


def _covariance(one: list[Point], other: list[Point], scales: tuple[float, ...]) -> np.ndarray:
    """[n, k]: widths are alike within about 0.2 of 1 / bits, ratios within about a factor of 3 of what is left."""
    variants = {variant: number for number, variant in enumerate({point.variant: None for point in (*one, *other)})}
    features = [
        np.array([(*(1 / np.array(p.bits) / 0.2), -np.log2(1 - p.ratio) / 1.5, variants[p.variant]) for p in points])
        for points in (one, other)
    ]
    squares = (features[0][:, None] - features[1][None]) ** 2  # [n, k, 4]
    bits, ratio = np.exp(-squares[..., :2].mean(-1) / 2), np.exp(-squares[..., 2] / 2)
    same = squares[..., 3] == 0
    return scales[0] ** 2 * bits + (scales[1] ** 2 + scales[2] ** 2 * bits + scales[3] ** 2 * same) * ratio
