"""How sure a difference in accuracy to the baseline is: the unpruned FP32 network of equal updates, seed by seed.

A gain is own minus baseline, below 0 where accuracy is lost. Its 95% intervals, each paired:
- over seeds: of the differences of the two networks of each seed (statistics.interval: Student's t, below 10 seeds);
- over images: of the differences at each image of the split, means over the seeds (statistics.sampling_interval).
The lower bound by which `--prefer cheapest-within` chooses is that over seeds from three on, else that over images.
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
        return self.seeds.low if self.seeds.n >= ENOUGH_SEEDS else self.images.low

    @property
    def half_width(self) -> float:
        """Of the interval over images; nan where it isn't known."""
        return (self.images.high - self.images.low) / 2


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
        own, base = f"{PREFIXES[split]}accuracy", f"baseline_{PREFIXES[split]}accuracy"
        if base not in cells:
            return Gain(interval([]), interval([]))
        differences = interval(cells[own].astype(float) - cells[base].astype(float))
        pairs = [pair for row in cells.itertuples() if (pair := self._pair(row, split)) is not None]
        if not pairs or len({one.shape for pair in pairs for one in pair}) > 1:
            return Gain(differences, interval([]))
        return Gain(differences, sampling_interval(*map(np.stack, zip(*pairs, strict=True))))

    def _pair(self, row, split: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Which images a cell and its baseline got right; None where either isn't known."""
        dense = self._baseline(row, split)
        both = [None if one is None else self.correct(one.sweep, one.cell, split) for one in (row, dense)]
        return None if both[0] is None or both[1] is None else (both[0], both[1])

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
