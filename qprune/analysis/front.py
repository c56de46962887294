"""Operating points (means over seeds), their Pareto front, its knee and its hypervolume.

A cost is to be small and an accuracy large. Choices go by validation accuracy; test accuracy is only carried along.
"""

from collections.abc import Iterable

import numpy as np

GROUP = ["sweep", "model", "data", "criterion", "method"]  # within it, (precision, ratio, seed) names one cell
POINT = [*GROUP, "precision", "pruning_ratio"]
NO_CRITERION = "none"  # in the column `criterion`, of cells that no criterion has to do with
BASELINES = ("narrower", "same_shape")  # methods of networks that pruning has to be better than, also <name>.flops
STUDY = ["model", "data"]  # points are compared within one model and data set
MEASURED = ("file_bytes_onnx", "file_bytes_qonnx", "file_bytes_torch", "file_bytes_pt2", "latency_ms")  # by commands
ON_A_DEVICE = "latency_ms@"  # begins the columns of times that were imported, by the device's name
FASTER_ON_A_DEVICE = "speedup@"
COSTS = (
    "bit_gflops", "linear_gflops", "gbops_acc", "relative_bops", "gflops", "weight_bytes", "weight_bits_bytes",
    "stored_bytes", "peak_activation_bytes", *MEASURED,
)  # fmt: skip
RECALLS = ("val_balanced_accuracy", "val_least_recall", "balanced_accuracy", "least_recall")
MEANS = (
    "val_accuracy", "accuracy", *RECALLS, "val_loss", "test_loss", "baseline_val_accuracy", "baseline_accuracy",
    "achieved_ratio", *COSTS, "gbops", "macs", "params", "speedup", "seconds",
)  # fmt: skip
SPREADS = ("val_accuracy", "accuracy", *COSTS)


def on_devices(columns: Iterable[str]) -> list[str]:
    """Those of a table's columns that are times imported from other devices, such as latency_ms@phone."""
    return [column for column in columns if column.startswith(ON_A_DEVICE)]


def _means_in(columns: Iterable[str]) -> list[str]:
    """The columns of a table of which points have means."""
    columns = list(columns)
    faster = [column for column in columns if column.startswith(FASTER_ON_A_DEVICE)]
    return [column for column in (*MEANS, *on_devices(columns), *faster) if column in columns]


def costs_in(columns: Iterable[str]) -> list[str]:
    """COSTS, and the times on other devices that a table has."""
    return [*COSTS, *on_devices(columns)]


def base_of(method: str) -> str:
    """narrower.flops -> narrower."""
    return str(method).partition(".")[0]


def is_baseline(methods):
    """Which of a column of methods are BASELINES, whatever of theirs is equal."""
    return methods.map(base_of).isin(BASELINES)


def measured(cells):
    """The done cells of operating points. A point of which a seed was skipped (strategy: front scouts with one seed) is
    none: one seed's luck is not set against means."""
    import pandas as pd

    is_done = cells.status == "done"
    if is_done.all():
        return cells  # which is asked again and again for the same few
    done, skipped = cells[is_done], cells[cells.status == "skipped"]
    if skipped.empty:
        return done
    return done[~pd.MultiIndex.from_frame(done[POINT]).isin(pd.MultiIndex.from_frame(skipped[POINT]))]


def operating_points(cells):
    """One row per POINT of the measured cells: means over seeds (a DataFrame).

    Beside the means: `seeds` (their number), `<column>_sd` for accuracies and costs (nan for one seed), `val_gain`, of
    val_accuracy over the baseline's, and `cell`, the cell whose network is handed over: that of the seed of median
    validation accuracy (from_the_median). Rows are in the order of the cells.
    """
    done = _in_numbers(measured(cells))
    groups = done.groupby(POINT, sort=False)
    points = groups[_means_in(done)].mean()
    points["seeds"] = groups.size()
    spreads = [column for column in (*SPREADS, *on_devices(done)) if column in done]
    points = points.join(groups[spreads].std().add_suffix("_sd"))
    if "baseline_val_accuracy" in done:
        points["val_gain"] = groups["_gain"].mean()
    points["cell"] = _from_the_median(done).drop_duplicates(POINT).set_index(POINT)["cell"]
    return points.reset_index()


def from_the_median(cells):
    """The measured cells, of each operating point the one of median validation accuracy first (of an even number, the lower
    of the two in the middle; of equal ones, the smaller seed), then by the places between (of two, the lower first)."""
    return _from_the_median(_in_numbers(measured(cells)))


def _from_the_median(done):
    ranked = done.sort_values(["val_accuracy", "seed"], kind="stable")
    places = ranked.groupby(POINT, sort=False)["cell"]
    rank = places.cumcount()
    away = (rank - (places.transform("size") - 1) // 2).abs()
    return ranked.assign(_away=away, _rank=rank).sort_values(["_away", "_rank"], kind="stable")


def _in_numbers(done):
    """A copy with numbers in the columns of which there are means, and `_gain`, the gain over the baseline."""
    import pandas as pd

    done = done.assign(**done[_means_in(done)].apply(pd.to_numeric))
    return (
        done.assign(_gain=done.val_accuracy - done.baseline_val_accuracy) if "baseline_val_accuracy" in done else done
    )


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
    """Index of the point of a front farthest above the chord between its ends, on log2 of the cost.

    Both axes are scaled to the front's extent, so that units don't matter. None where no point lies above the chord,
    as on a front of fewer than three different points. Of equally far ones, the first.
    """
    if len(cost) < 3:
        return None
    x, y = np.log2(np.asarray(cost, dtype=float)), np.asarray(accuracy, dtype=float)
    first, last = np.argmin(x), np.argmax(x)
    if x[first] == x[last] or y[first] == y[last]:
        return None
    above = (y - y[first]) / (y[last] - y[first]) - (x - x[first]) / (x[last] - x[first])
    best = int(np.argmax(above))
    return best if above[best] > 1e-12 else None


def hypervolume(cost: np.ndarray, accuracy: np.ndarray, reference_cost: float, reference_accuracy: float) -> float:
    """Area that points dominate, in octaves of cost x accuracy: log2 of the cost, so that one 4-bit point isn't all of it.

    reference_cost: of the dense FP32 network; reference_accuracy: 10 percentage points under the baseline's. Points
    with a nan count nothing. moocore's algorithm.
    """
    import moocore

    values = np.column_stack([np.log2(np.asarray(cost, dtype=float)), np.asarray(accuracy, dtype=float)])
    values = values[~np.isnan(values).any(1)]
    if not len(values):
        return 0.0
    reference = [np.log2(reference_cost), reference_accuracy]
    return float(moocore.hypervolume(values, ref=reference, maximise=[False, True]))


def front_cells(cells, cost: str = "bit_gflops") -> set[str]:
    """Ids of the cells (all seeds) whose operating point is on the front of its model and data set."""
    ids: set[str] = set()
    for _, points in operating_points(cells).groupby(STUDY):
        keys = points[is_on_front(points[cost].to_numpy(), points.val_accuracy.to_numpy())][POINT]
        ids |= set(cells.merge(keys, on=POINT)["cell"])
    return ids
