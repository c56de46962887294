"""How sure a difference in accuracy to the baseline is: the unpruned FP32 network of equal updates, seed by seed.

A gain is own minus baseline, below 0 where accuracy is lost. Its 95% intervals, each paired:
- over seeds: of the differences of the two networks of each seed (statistics.interval: Student's t, below 10 seeds);
- over images: of the differences at each image of the split, means over the seeds (statistics.sampling_interval).
The lower bound by which `--prefer cheapest-within` chooses is that over seeds from three on, else, and where the seeds all
differ by the same (as accuracies of few images do), that over images. The baseline's own gain is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qprune.analysis.front import GROUP, measured
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


def gain_over_seeds(cells, split: str) -> Interval:
    """The interval of a point's gain over the seeds of its measured cells."""
    own, base = f"{PREFIXES[split]}accuracy", f"baseline_{PREFIXES[split]}accuracy"
    return interval(cells[own].astype(float) - cells[base].astype(float) if base in cells else [])


def _same(row, other) -> bool:
    """Whether two cells have one network: another criterion's unpruned one is the same."""
    return row.cell == other.cell or getattr(row, "stage_evaluate", 0) == getattr(other, "stage_evaluate", 1)


class Gains:
    """Gains of points among these cells. correct: which images a cell got right, None where that isn't known."""

    def __init__(self, cells, correct: Correct):
        self.correct = correct
        done = of_the_grid(measured(cells))
        dense = done[(done.precision == "fp32") & (done.pruning_ratio.astype(float) == 0)]
        self._dense: dict[tuple, list] = {}
        for row in dense.itertuples():
            self._dense.setdefault((row.sweep, row.model, row.data, row.seed), []).append(row)

    def of(self, cells, split: str) -> Gain:
        """The gain of a point. cells: its measured ones; split: "validation" or "test"."""
        seeds, rows = gain_over_seeds(cells, split), list(cells.itertuples())
        if f"baseline_{PREFIXES[split]}accuracy" not in cells:
            return Gain(seeds, interval([]))
        dense = [self._baseline(row, split) for row in rows]
        pairs = [self._pair(row, base, split) for row, base in zip(rows, dense, strict=True) if base is not None]
        known = [pair for pair in pairs if pair is not None]
        if not known or len({one.shape for pair in known for one in pair}) > 1:
            return Gain(seeds, interval([]))
        if all(base is not None and _same(row, base) for row, base in zip(rows, dense, strict=True)):
            return Gain(seeds, Interval(0.0, 0.0, 0.0, len(known[0][0])))
        return Gain(seeds, sampling_interval(*map(np.stack, zip(*known, strict=True))))

    def _pair(self, row, dense, split: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Which images a cell and its baseline got right; None where either isn't known."""
        own, base = (self.correct(one.sweep, one.cell, split) for one in (row, dense))
        return None if own is None or base is None else (own, base)

    def _baseline(self, row, split: str):
        """The cell of the network that the row's baseline accuracy is of, of its own group where that has it."""
        own, base = f"{PREFIXES[split]}accuracy", f"baseline_{PREFIXES[split]}accuracy"
        found = [
            one
            for one in self._dense.get((row.sweep, row.model, row.data, row.seed), ())
            if abs(float(getattr(one, own)) - float(getattr(row, base))) < SAME
        ]
        of_group = [one for one in found if all(getattr(one, name) == getattr(row, name) for name in GROUP)]
        return next(iter(of_group or found), None)
