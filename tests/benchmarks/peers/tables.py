"""points.csv; summary.csv: hypervolumes, paired by seed; equal_cost.csv: accuracies at no more than a cost, paired."""

import json
from pathlib import Path

import pandas as pd

from qprune.analysis.front import hypervolume
from qprune.analysis.statistics import interval
from qprune.settings.config import SweepConfig

from . import sweep_cells
from .common import COLUMNS

BELOW = 10  # points under the baseline's validation accuracy: the reference of the hypervolume
SUBSETS = {"all": None, "fp32": ("fp32",), "8 bits": ("int8", "w8a8"), "4 bits": ("w4a4",)}
COSTS = tuple(2.0**-octaves for octaves in range(1, 12))  # of the dense FP32 network's
POINT = ["method", "precision", "ratio", "width"]
SHARED = {"width": ("unpruned",)}  # points of other methods that are on a method's front: width 1


def write_tables(config: SweepConfig, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write points.csv, summary.csv and equal_cost.csv into the sweep's folder; returns the first two."""
    folder = Path(out) / config.name
    rows = [*sweep_cells.rows(config, out)]
    rows += [json.loads(path.read_text()) for path in sorted((folder / "points").glob("*.json"))]
    points = pd.DataFrame(rows, columns=list(COLUMNS))
    points.precision = points.precision.replace("int4", "w4a4")
    points = points.sort_values(["method", "precision", "ratio", "width", "seed"], kind="stable")
    points.to_csv(folder / "points.csv", index=False)
    summary = summarise(points)
    summary.to_csv(folder / "summary.csv", index=False)
    equal_cost(points).to_csv(folder / "equal_cost.csv", index=False)
    return points, summary


def front_of(points: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows from which a method's front is made."""
    return points[points.method.isin([method, *SHARED.get(method, ())])]


def hypervolumes(points: pd.DataFrame, method: str, precisions: tuple[str, ...] | None = None) -> pd.Series:
    """Seed -> hypervolume (octaves of bit_gflops x points of validation accuracy), of some precisions or of all.

    The reference is one for all methods: the dense FP32 cost, and 10 points under that seed's baseline.
    """
    baselines = points[(points.method == "qprune") & (points.ratio == 0) & (points.precision == "fp32")]
    baselines = baselines.set_index("seed")
    rows = front_of(points, method)
    rows = rows if precisions is None else rows[rows.precision.isin(precisions)]
    return pd.Series(
        {
            seed: hypervolume(
                part.bit_gflops.to_numpy(),
                100 * part.val_accuracy.to_numpy(),
                baselines.bit_gflops[seed],
                100 * baselines.val_accuracy[seed] - BELOW,
            )
            for seed, part in rows.groupby("seed")
        },
        dtype=float,
    )


def summarise(points: pd.DataFrame) -> pd.DataFrame:
    """One row per method and set of precisions: mean hypervolume, and qprune's minus it, both with 95% t-intervals.

    Work (updates, scoring passes, seconds) is that of the rows with all precisions; what qprune's front shares with
    another (the dense network, ratio 0) counts in both.
    """
    rows = []
    for subset, precisions in SUBSETS.items():
        own = hypervolumes(points, "qprune", precisions)
        for method in points.method.drop_duplicates():
            volumes = hypervolumes(points, method, precisions)
            if volumes.empty:
                continue
            front = front_of(points, method)
            mean, above = interval(volumes), interval((own - volumes).dropna())
            row = {
                "method": method, "precisions": subset, "seeds": mean.n,
                "hypervolume": mean.mean, "low": mean.low, "high": mean.high,
                "qprune_minus_it": above.mean, "difference_low": above.low, "difference_high": above.high,
            }  # fmt: skip
            if precisions is None:
                row |= {
                    "points": len(front), "updates": front.new_updates.sum(),
                    "scoring_passes": front.groupby("seed").scoring_passes.max().sum(), "seconds": front.seconds.sum(),
                }  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows).round(3)


def best_within(points: pd.DataFrame, cost: float) -> pd.DataFrame | None:
    """The rows, one per seed, of the operating point of best mean validation accuracy at a mean cost of no more than that.

    None where there is none: a front is a step function, and isn't extrapolated.
    """
    means = points.groupby(POINT, dropna=False)[["bit_gflops", "val_accuracy"]].mean()
    means = means[means.bit_gflops <= cost]
    if means.empty:
        return None
    best = means.val_accuracy.idxmax()
    chosen = [rows for name, rows in points.groupby(POINT, dropna=False) if _plain(name) == _plain(best)]
    return chosen[0].sort_values("seed")


def _plain(name: tuple) -> tuple:
    return tuple(None if value != value else value for value in name)  # nan is not equal to itself


def equal_cost(points: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy (%) of each method's best point within each of COSTS, and qprune's minus it, paired by seed."""
    dense = points[(points.method == "qprune") & (points.ratio == 0) & (points.precision == "fp32")].bit_gflops.iloc[0]
    rows = []
    for share in COSTS:
        own = best_within(front_of(points, "qprune"), share * dense)
        for method in points.method.drop_duplicates():
            best = best_within(front_of(points, method), share * dense)
            if best is None:
                continue
            first, accuracy = best.iloc[0], best.set_index("seed").accuracy
            row = {
                "share_of_dense_cost": share, "method": method, "precision": first.precision, "ratio": first.ratio,
                "width": first.width, "accuracy": 100 * accuracy.mean(), "val_accuracy": 100 * best.val_accuracy.mean(),
                "relative_cost": best.bit_gflops.mean() / dense, "maps": " ".join(best.maps),
            }  # fmt: skip
            if own is not None:
                above = interval((100 * (own.set_index("seed").accuracy - accuracy)).dropna())
                row |= {"qprune_minus_it": above.mean, "difference_low": above.low, "difference_high": above.high}
            rows.append(row)
    return pd.DataFrame(rows).round(5)
