"""Means over seeds with their intervals, and the comparisons that a sweep is for, paired by seed."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

BOOTSTRAP_FROM = 10  # seeds; a percentile bootstrap over 3 covers 74% where it says 95%
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval over n values; low and high are nan below 2 values."""

    mean: float
    low: float
    high: float
    n: int


def interval(values) -> Interval:
    """The mean's 95% interval: Student's t below 10 values, a percentile bootstrap from 10 on (fixed seed)."""
    values = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if len(values) < BOOTSTRAP_FROM:
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        return Interval(mean, float(mean - half), float(mean + half), len(values))
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(mean, float(low), float(high), len(values))


def sampling_interval(correct: np.ndarray, other: np.ndarray | None = None) -> Interval:
    """The interval that comes from the finite number of test images: of an accuracy, or of a paired difference.

    correct, other: bool [seeds, images] on the same images, in the same order. Images are resampled, not seeds; for
    the mean of so many it is the normal interval of the per-image means.
    """
    values = np.atleast_2d(correct).mean(0) - (0 if other is None else np.atleast_2d(other).mean(0))  # [images]
    half = 1.959964 * values.std(ddof=1) / math.sqrt(len(values))
    mean = float(values.mean())
    return Interval(mean, float(mean - half), float(mean + half), len(values))


def by_seed(cells, column: str, precision: str, ratio: float) -> dict[int, float]:
    """Seed -> value of a column, for one precision and ratio of one study's done cells."""
    chosen = cells[(cells.status == "done") & (cells.precision == precision) & (cells.pruning_ratio == ratio)]
    return dict(zip(chosen.seed, chosen[column].astype(float), strict=True))


def baseline_by_seed(cells, column: str = "baseline_val_accuracy") -> dict[int, float]:
    """Seed -> the unpruned FP32 network's value after equal updates."""
    done = cells[cells.status == "done"]
    return dict(zip(done.seed, done[column].astype(float), strict=True))


def interaction(cells, precision: str, ratio: float, column: str = "val_accuracy") -> Interval:
    """Is pruning and quantising together worse than both alone? Paired by seed:

    [pruned, quantised] - [pruned, FP32] - [dense, quantised] + [dense, FP32]. For an accuracy, below 0 means that the
    two together lose more than the sum of both alone. Mean of n 0 where the grid lacks one of the four.
    """
    both, pruned = by_seed(cells, column, precision, ratio), by_seed(cells, column, "fp32", ratio)
    quantised, dense = by_seed(cells, column, precision, 0.0), by_seed(cells, column, "fp32", 0.0)
    seeds = sorted(both.keys() & pruned.keys() & quantised.keys() & dense.keys())
    return interval([both[s] - pruned[s] - quantised[s] + dense[s] for s in seeds])


@dataclass(frozen=True)
class Bears:
    """The largest pruning ratio that a precision bears; None where not even the smallest of the grid holds.

    drop: the mean loss of validation accuracy there against the baseline, paired by seed, with its interval.
    """

    precision: str
    ratio: float | None
    drop: Interval


def largest_ratio(cells, precision: str, points: float) -> Bears:
    """The largest ratio whose mean validation accuracy stays within so many points of the FP32 unpruned baseline.

    points: in percentage points. All smaller ratios of the grid need not hold.
    """
    baseline = baseline_by_seed(cells)
    ratios = sorted(cells[cells.precision == precision].pruning_ratio.unique(), reverse=True)
    smallest = interval([])
    for ratio in ratios:
        accuracy = by_seed(cells, "val_accuracy", precision, ratio)
        drops = interval([baseline[seed] - value for seed, value in accuracy.items() if seed in baseline])
        if drops.n and 100 * drops.mean <= points + 1e-9:
            return Bears(precision, float(ratio), drops)
        smallest = drops if drops.n else smallest
    return Bears(precision, None, smallest)


def best_at_cost(points, cost: str, limit: float):
    """The operating point of best mean validation accuracy at no more than this cost, or None: a step function."""
    affordable = points[points[cost] <= limit * (1 + 1e-12)]
    return None if affordable.empty else affordable.loc[affordable.val_accuracy.idxmax()]
