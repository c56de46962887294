"""How sure a difference in accuracy to the baseline is: the unpruned FP32 network of equal updates, seed by seed.

A gain is own minus baseline, below 0 where accuracy is lost. Its 95% intervals, each paired:
- over seeds: of the differences of the two networks of each seed (statistics.interval: Student's t, below 10 seeds);
- over images: of the differences at each image of the split, means over the seeds (statistics.sampling_interval).
The lower bound by which `--prefer cheapest-within` chooses is that over seeds from three on, else, and where the seeds all
differ by the same (as accuracies of few images do), that over images. The baseline's own gain is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qprune.analysis.front import GROUP, POINT, measured
from qprune.analysis.statistics import Interval, interval, sampling_interval
from qprune.analysis.studies import of_the_grid

ENOUGH_SEEDS = 3
PREFIXES = {"validation": "val_", "test": ""}  # of a split's columns
SAME = 1e-9  # accuracies that are closer are of one network
Correct = Callable[[str, str, str], np.ndarray | None]  # (sweep, cell, split) -> bool [images]


@dataclass(frozen=True)
class Gain:
    """seeds, images: the intervals over either, as fractions; n is 0 where nothing is known, as without a baseline."""

    seeds: Interval
    images: Interval

    @property
    def low(self) -> float:
        """The lower bound; nan where it isn't known."""
        return self.seeds.low if decide(self.seeds) else self.images.low

    @property
    def half_width(self) -> float:
        """Of the interval over images; nan where it isn't known."""
        return (self.images.high - self.images.low) / 2


def decide(seeds: Interval) -> bool:
    """Whether the lower bound is that over seeds."""
    return seeds.n >= ENOUGH_SEEDS and seeds.low < seeds.high


class Own(NamedTuple):
    """What gains need of a measured cell; a column that its table hasn't is None."""

    sweep: str
    cell: str
    model: str
    data: str
    criterion: str
    method: str
    precision: str
    pruning_ratio: float
    seed: int
    val_accuracy: float
    accuracy: float
    baseline_val_accuracy: float | None
    baseline_accuracy: float | None
    stage_evaluate: str | None

    @property
    def point(self) -> tuple:
        return tuple(getattr(self, name) for name in POINT)

    def gain(self, split: str) -> float | None:
        """Own minus baseline; None where the table has no baselines."""
        own, base = self._both(split)
        return None if base is None else own - base

    def is_baseline_of(self, other: Own, split: str) -> bool:
        """Whether its accuracy is what the other is held against."""
        own, base = self._both(split)[0], other._both(split)[1]
        return base is not None and abs(own - base) < SAME

    def is_same(self, other: Own) -> bool:
        """Whether two cells have one network: another criterion's unpruned one is the same."""
        known = self.stage_evaluate is not None and self.stage_evaluate == other.stage_evaluate
        return self.cell == other.cell or known

    def _both(self, split: str) -> tuple[float, float | None]:
        if split == "validation":
            return self.val_accuracy, self.baseline_val_accuracy
        return self.accuracy, self.baseline_accuracy


NUMBERS = ("pruning_ratio", *(f"{base}{prefix}accuracy" for base in ("", "baseline_") for prefix in PREFIXES.values()))


def rows_of(cells) -> list[Own]:
    """A table's cells, in its order."""
    columns = []
    for name in Own._fields:
        if name not in cells:
            columns.append([None] * len(cells))
        else:
            columns.append((cells[name].astype(float) if name in NUMBERS else cells[name]).tolist())
    return [Own(*values) for values in zip(*columns, strict=True)]


def gain_over_seeds(rows: list[Own], split: str) -> Interval:
    """The interval of a point's gain over the seeds of its measured cells."""
    gains = [row.gain(split) for row in rows]
    return interval([] if None in gains else gains)


class Gains:
    """Gains of points among these cells. correct: which images a cell got right, None where that isn't known."""

    def __init__(self, cells, correct: Correct):
        self.correct = correct
        done = of_the_grid(measured(cells))
        self._dense: dict[tuple, list[Own]] = {}
        for row in rows_of(done[(done.precision == "fp32") & (done.pruning_ratio.astype(float) == 0)]):
            self._dense.setdefault((row.sweep, row.model, row.data, row.seed), []).append(row)

    def of(self, rows: list[Own], split: str) -> Gain:
        """The gain of a point. rows: its measured cells; split: "validation" or "test"."""
        seeds = gain_over_seeds(rows, split)
        if any(row.gain(split) is None for row in rows):
            return Gain(seeds, interval([]))
        dense = [self._baseline(row, split) for row in rows]
        pairs = [self._pair(row, base, split) for row, base in zip(rows, dense, strict=True) if base is not None]
        known = [pair for pair in pairs if pair is not None]
        if not known or len({one.shape for pair in known for one in pair}) > 1:
            return Gain(seeds, interval([]))
        if all(base is not None and row.is_same(base) for row, base in zip(rows, dense, strict=True)):
            return Gain(seeds, Interval(0.0, 0.0, 0.0, len(known[0][0])))
        return Gain(seeds, sampling_interval(*map(np.stack, zip(*known, strict=True))))

    def _pair(self, row: Own, dense: Own, split: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Which images a cell and its baseline got right; None where either isn't known."""
        own, base = (self.correct(one.sweep, one.cell, split) for one in (row, dense))
        return None if own is None or base is None else (own, base)

    def _baseline(self, row: Own, split: str) -> Own | None:
        """The cell of the network that the row's baseline accuracy is of, of its own group where that has it."""
        alike = self._dense.get((row.sweep, row.model, row.data, row.seed), ())
        found = [one for one in alike if one.is_baseline_of(row, split)]
        of_group = [one for one in found if all(getattr(one, name) == getattr(row, name) for name in GROUP)]
        return next(iter(of_group or found), None)
