"""Operating points (means over seeds), their Pareto front, its knee and its hypervolume.

A cost is to be small and an accuracy large. Choices go by validation accuracy; test accuracy is only carried along.
"""

import math

import numpy as np

POINT = ["model", "data", "criterion", "precision", "pruning_ratio"]
STUDY = ["model", "data"]  # points are compared within one model and data set


def operating_points(cells):
    """One row per (model, data, criterion, precision, ratio) of the done cells: means over seeds (pandas DataFrame).

    Beside the means: `seeds` (their number), `val_accuracy_sd`, `accuracy_sd`, `bit_gflops_sd`, and `cell`, the cell
    whose network is handed over: that of the seed of median validation accuracy (the lower one of two).
    """
    done = cells[cells.status == "done"]
    groups = done.groupby(POINT, sort=False)
    points = groups.mean(numeric_only=True)
    points["seeds"] = groups.size()
    for column in ("val_accuracy", "accuracy", "bit_gflops"):
        points[f"{column}_sd"] = groups[column].std()
    points["cell"] = groups[["cell", "val_accuracy", "seed"]].apply(_median_cell)
    return points.reset_index()


def _median_cell(seeds) -> str:
    ranked = seeds.sort_values(["val_accuracy", "seed"])
    return ranked.cell.iloc[(len(ranked) - 1) // 2]


def is_on_front(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Which points no other dominates (at least as good in both, better in one): [n], [n] -> bool [n].

    Equal points are on the front together; a point with a nan is not. moocore's non-dominated sorting, O(n log n).
    """
    import moocore

    values = np.column_stack([cost, accuracy]).astype(float)
    known = ~np.isnan(values).any(1)
    front = np.zeros(len(values), dtype=bool)
    if known.any():
        front[known] = moocore.is_nondominated(values[known], maximise=[False, True], keep_weakly=True)
    return front


def knee(cost: np.ndarray, accuracy: np.ndarray) -> int | None:
    """Index of the point of a front farthest above the chord between its ends, on log2 of the cost; None below 3 points.

    Both axes are scaled to the front's extent, so that units don't matter.
    """
    if len(cost) < 3:
        return None
    x, y = np.log2(np.asarray(cost, dtype=float)), np.asarray(accuracy, dtype=float)
    first, last = np.argmin(x), np.argmax(x)
    if x[first] == x[last] or y[first] == y[last]:
        return None
    x, y = (x - x[first]) / (x[last] - x[first]), (y - y[first]) / (y[last] - y[first])
    return int(np.argmax(y - x))


def hypervolume(cost: np.ndarray, accuracy: np.ndarray, reference_cost: float, reference_accuracy: float) -> float:
    """Area that points dominate, in octaves of cost x accuracy: log2 of the cost, so that one 4-bit point isn't all of it.

    reference_cost: of the dense FP32 network; reference_accuracy: 10 points under the baseline's.
    """
    points = sorted((math.log2(reference_cost / c), a) for c, a in zip(cost, accuracy, strict=True))
    area, reached = 0.0, reference_accuracy
    # from the cheapest (most octaves saved) to the dearest, each adds what lies above the accuracy reached so far
    for octaves, value in reversed(points):
        if octaves > 0 and value > reached:
            area += octaves * (value - reached)
            reached = value
    return area


def front_cells(cells, cost: str = "bit_gflops") -> set[str]:
    """Ids of the cells (all seeds) whose operating point is on the front of its model and data set."""
    ids: set[str] = set()
    for _, points in operating_points(cells).groupby(STUDY):
        keys = points[is_on_front(points[cost].to_numpy(), points.val_accuracy.to_numpy())][POINT]
        ids |= set(cells.merge(keys, on=POINT)["cell"])
    return ids
