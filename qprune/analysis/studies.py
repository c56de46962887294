"""The comparisons that a sweep is for, paired by seed.

Most take the cells of one GROUP, within which (precision, ratio, seed) names one: studied_groups() gives them. orders()
and criterion_means() take several groups that differ in one column, differences() two.
"""

from dataclasses import dataclass

import numpy as np

from qprune.analysis.front import GROUP, NO_CRITERION, hypervolume, is_baseline, measured, operating_points
from qprune.analysis.statistics import Interval, interval

BELOW_BASELINE = 0.10  # of the hypervolume's reference point: 10 percentage points of accuracy
# the method whose cells are unpruned FP32 networks, trained as long as the others under one schedule
SCRATCH = "scratch"
# accuracy of a cell -> the same of the unpruned FP32 network of its seed: after N updates; after N + M by warm restarts
REFERENCES = {
    "val_accuracy": {"dense": "dense_val_accuracy", "baseline": "baseline_val_accuracy"},
    "accuracy": {"dense": "dense_accuracy", "baseline": "baseline_accuracy"},
}


def of_the_grid(cells):
    """Those that a criterion prunes: all but networks from scratch, of any width or shape, which are only held against these."""
    return cells[(cells.criterion != NO_CRITERION) & ~is_baseline(cells.method)]


def of_group(cells, group: dict, names: list[str] = GROUP):
    """The rows that are as a group in these columns. group: GROUP's names -> values."""
    return cells[np.logical_and.reduce([cells[name] == group[name] for name in names])]


def scratch_like(cells, group: dict):
    """The networks from scratch among the cells that are of the group's sweep, model and data set."""
    same = of_group(cells, group, ["sweep", "model", "data"])
    return same[same.method == SCRATCH]


def studied_groups(cells):
    """(GROUP's names -> values, its measured cells, the networks from scratch beside it) of each group of the grid."""
    done = measured(cells)
    for key, own in of_the_grid(done).groupby(GROUP, sort=False):
        group = dict(zip(GROUP, key, strict=True))
        yield group, own, scratch_like(done, group)


def by_seed(cells, column: str) -> dict[tuple[str, float], dict[int, float]]:
    """(precision, ratio) -> seed -> value of a column of the done cells."""
    done = measured(cells)
    table: dict[tuple[str, float], dict[int, float]] = {}
    rows = zip(done.precision, done.pruning_ratio.astype(float), done.seed, done[column].astype(float), strict=True)
    for precision, ratio, seed, value in rows:
        table.setdefault((precision, ratio), {})[int(seed)] = value
    return table


@dataclass(frozen=True)
class Drop:
    """How much accuracy a precision and ratio lose against the FP32 unpruned baseline of equal updates (a fraction)."""

    precision: str
    ratio: float
    drop: Interval


def drops(cells, column: str = "val_accuracy", baseline: str = "baseline_val_accuracy") -> list[Drop]:
    """The loss against the baseline of the same seed, for each (precision, ratio) of the done cells."""
    values, baselines = by_seed(cells, column), by_seed(cells, baseline)
    return [
        Drop(*place, interval([baselines[place][seed] - value for seed, value in seeds.items()]))
        for place, seeds in values.items()
    ]


@dataclass(frozen=True)
class Bears:
    """How much pruning a precision bears. Each is None where no ratio of the grid fulfils it.

    ratio: the largest whose mean drop is within what is allowed. low: the largest whose drop's whole 95% interval
    is; high: the largest where its lower end is. Together, the interval of `ratio`; None with one seed.
    drop: at `ratio`; where that is None, the least drop that there is.
    """

    precision: str
    ratio: float | None
    low: float | None
    high: float | None
    drop: Interval


def largest_ratio(precision_drops: list[Drop], percentage_points: float) -> Bears:
    """The largest ratio of one precision whose mean accuracy stays within so many percentage points of the baseline.

    Smaller ratios of the grid need not hold.
    """

    def largest(fits) -> Drop | None:
        held = [one for one in precision_drops if fits(one.drop) <= percentage_points / 100 + 1e-9]  # nan fits nothing
        return max(held, key=lambda one: one.ratio, default=None)

    best = largest(lambda drop: drop.mean)
    shown = best or min(precision_drops, key=lambda one: one.drop.mean)
    low, high = largest(lambda drop: drop.high), largest(lambda drop: drop.low)
    ratio, least, most = (None if one is None else one.ratio for one in (best, low, high))
    return Bears(shown.precision, ratio, least, most, shown.drop)


@dataclass(frozen=True)
class Interaction:
    """What pruning and quantising together do beyond the sum of both alone."""

    precision: str
    ratio: float
    effect: Interval


def interactions(cells, column: str = "val_accuracy") -> list[Interaction]:
    """For each pruned and quantised (precision, ratio), paired by seed:

    [pruned, quantised] - [pruned, FP32] - [dense, quantised] + [dense, FP32]. For an accuracy, below 0 means that the
    two together lose more than the sum of both alone; for a loss, above 0 does. Left out where the grid has no seed
    with all four.
    """
    values = by_seed(cells, column)
    found = []
    for (precision, ratio), both in values.items():
        if precision == "fp32" or ratio == 0:
            continue
        others = [values.get(place, {}) for place in (("fp32", ratio), (precision, 0.0), ("fp32", 0.0))]
        seeds = sorted(both.keys() & others[0].keys() & others[1].keys() & others[2].keys())
        effect = interval([both[s] - others[0][s] - others[1][s] + others[2][s] for s in seeds])
        if effect.n:
            found.append(Interaction(precision, ratio, effect))
    return found


@dataclass(frozen=True)
class Difference:
    """The same column of two groups of cells at one precision and ratio: a difference, paired by seed.

    cost: bit_gflops of the first over that of the second, means over these seeds: equal shares of maps need not cost the same.
    """

    precision: str
    ratio: float
    effect: Interval
    cost: float


def differences(these, those, column: str = "val_accuracy") -> list[Difference]:
    """these - those for each (precision, ratio) of which both have the same seed. Each: cells of one group."""
    first, second = by_seed(those, column), by_seed(these, column)
    costs = [by_seed(cells, "bit_gflops") for cells in (these, those)]
    found = []
    for place, values in second.items():
        seeds = values.keys() & first.get(place, {}).keys()
        if seeds:
            effect = interval(paired_differences(values, first[place]))
            cost, other = (sum(table[place][seed] for seed in seeds) for table in costs)
            found.append(Difference(*place, effect, cost / other))
    return found


def orders(cells, column: str = "val_accuracy") -> list[Difference]:
    """quantize_first - prune_first for each (precision, ratio), paired by seed.

    cells: of one sweep, model, data set and criterion, of both orders. For an accuracy, above 0 means that quantising
    first is the better.
    """
    these, those = (cells[cells.method == method] for method in ("quantize_first", "prune_first"))
    return differences(these, those, column)


def criterion_means(cells, column: str = "val_accuracy") -> dict[str, dict[int, float]]:
    """Criterion -> seed -> mean of the column over all pruned (precision, ratio) that every criterion has done.

    cells: of one sweep, model, data set and method. Left out for all are seeds that a criterion lacks altogether, and
    places that some criterion lacks with any other seed.
    """
    pruned = measured(cells)
    pruned = pruned[pruned.pruning_ratio > 0]
    values = {name: by_seed(own, column) for name, own in pruned.groupby("criterion", sort=False)}
    seeds = set.intersection(*({seed for place in own.values() for seed in place} for own in values.values()))
    places = set.intersection(
        *({place for place, known in own.items() if seeds <= known.keys()} for own in values.values())
    )
    return {
        name: {seed: float(np.mean([own[place][seed] for place in sorted(places)])) for seed in sorted(seeds) if places}
        for name, own in values.items()
    }


def paired_differences(these: dict[int, float], those: dict[int, float]) -> list[float]:
    """these - those of the seeds that both have: seed -> value."""
    return [these[seed] - those[seed] for seed in sorted(these.keys() & those.keys())]


@dataclass(frozen=True)
class Budget:
    """What one (precision, ratio) loses against the unpruned FP32 network trained for more or fewer updates.

    N: updates of dense training; M: those that a pruned network has had on top (pruning, fine-tuning, its precision).
    apparent: against the network after N, which has had fewer updates; fair: against it after N + M, by warm restarts;
    scratch: against one trained for N + M under a single schedule; extra: what M more updates alone give the unpruned
    network, fair - apparent. All are fractions of accuracy, paired by seed; n is 0 where there is no such reference.
    """

    precision: str
    ratio: float
    apparent: Interval
    fair: Interval
    scratch: Interval
    extra: Interval


def budget(cells, scratch, column: str = "val_accuracy") -> list[Budget]:
    """The losses of each (precision, ratio) against the references of that accuracy (val_accuracy or accuracy).

    scratch: the networks from scratch of the same sweep, model and data set.
    """
    dense, baseline = (by_seed(cells, name) if name in cells else {} for name in REFERENCES[column].values())
    from_scratch = by_seed(scratch, column).get(("fp32", 0.0), {})
    return [
        Budget(
            *place,
            apparent=interval(paired_differences(dense.get(place, {}), values)),
            fair=interval(paired_differences(baseline.get(place, {}), values)),
            scratch=interval(paired_differences(from_scratch, values)),
            extra=interval(paired_differences(baseline.get(place, {}), dense.get(place, {}))),
        )
        for place, values in by_seed(cells, column).items()
    ]


def references(cells, scratch, column: str = "val_accuracy") -> dict[str, np.ndarray]:
    """dense, baseline and scratch -> its value for each seed that has one; those without any are left out."""
    done = measured(cells)
    tables = {name: (done, reference) for name, reference in REFERENCES[column].items() if reference in done}
    found = {}
    for name, (table, reference) in (tables | {SCRATCH: (measured(scratch), column)}).items():
        values = table.groupby("seed")[reference].first().astype(float).dropna()  # the same for all cells of a seed
        if len(values):
            found[name] = values.to_numpy()
    return found


@dataclass(frozen=True)
class EqualCost:
    """The best by pruning alone, by quantising alone and by both at no more than a cost: rows of the points, or None.

    difference: quantised - pruned in validation accuracy, paired by seed; of n 0 where there is no overlap.
    """

    limit: float
    pruned: int | None
    quantised: int | None
    both: int | None
    difference: Interval


def best_at_cost(costs: np.ndarray, accuracies: np.ndarray, limit: float) -> int | None:
    """Index of the most accurate point at no more than this cost, or None: a step function. Of equal ones the cheapest."""
    affordable = np.flatnonzero((costs <= limit) & ~np.isnan(accuracies))
    if not len(affordable):
        return None
    return int(affordable[np.lexsort((costs[affordable], -accuracies[affordable]))[0]])


def equal_cost(cells, points, cost: str = "bit_gflops") -> list[EqualCost]:
    """Prune or quantise? At the cost of each FP32 pruned and each unpruned quantised point, ascending.

    points: operating_points(cells). Pruned: FP32 at any ratio but 0; quantised: ratio 0 at any other precision; both:
    neither in FP32 nor at ratio 0. Nothing is extrapolated.
    """
    costs, accuracies = points[cost].to_numpy(float), points.val_accuracy.to_numpy(float)
    in_fp32, unpruned = (points.precision == "fp32").to_numpy(), (points.pruning_ratio == 0).to_numpy()
    ways = (in_fp32 & ~unpruned, ~in_fp32 & unpruned, ~in_fp32 & ~unpruned)
    places = list(zip(points.precision, points.pruning_ratio, strict=True))
    values = by_seed(cells, "val_accuracy")
    rows = []
    for limit in np.unique(costs[(ways[0] | ways[1]) & ~np.isnan(costs)]):
        pruned, quantised, both = (best_at_cost(np.where(way, costs, np.nan), accuracies, limit) for way in ways)
        difference = interval([])
        if pruned is not None and quantised is not None:
            difference = interval(paired_differences(values[places[quantised]], values[places[pruned]]))
        rows.append(EqualCost(float(limit), pruned, quantised, both, difference))
    return rows


def hypervolumes(cells) -> dict[str, Interval]:
    """Sweep -> hypervolume of its front by bit_gflops, seed by seed, in octaves x percentage points; of one data set.

    The reference point is the same for all: the dearest dense FP32 network, 10 percentage points under the mean of the
    baselines.
    """
    done = of_the_grid(measured(cells))
    cost = (done.bit_gflops / done.relative_bops).astype(float).max()
    accuracy = done.groupby("sweep").baseline_val_accuracy.mean().mean() - BELOW_BASELINE
    volumes = {}
    for sweep, group in done.groupby("sweep", sort=False):
        seeds = [operating_points(seed) for _, seed in group.groupby("seed")]
        volumes[sweep] = interval([100 * hypervolume(p.bit_gflops, p.val_accuracy, cost, accuracy) for p in seeds])
    return volumes
