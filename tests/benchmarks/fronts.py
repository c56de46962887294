"""What the benchmarks compare: hypervolumes of fronts that are chosen by validation, seed by seed, and points within a cost."""

import pandas as pd

from qprune.analysis.front import hypervolume, is_on_front
from qprune.analysis.statistics import interval
from qprune.analysis.studies import best_at_cost

BELOW = 10  # points under the unpruned baseline: the reference of the hypervolume
POINT = ["precision", "pruning_ratio"]
ACCURACIES = {"validation": "val_accuracy", "test": "accuracy"}


def in_points(cells: pd.DataFrame) -> pd.DataFrame:
    """The done cells, accuracies in points (%)."""
    cells = cells[cells.status == "done"].copy()
    for column in ACCURACIES.values():
        cells[column] = 100 * cells[column].astype(float)
    return cells


def unpruned(cells: pd.DataFrame) -> pd.DataFrame:
    """The unpruned FP32 cells by seed: the reference of hypervolumes."""
    return cells[(cells.precision == "fp32") & (cells.pruning_ratio == 0)].set_index("seed")


def front_of(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells (all seeds) of the points that are on the front by mean validation accuracy and mean bit_gflops."""
    means = cells.groupby(POINT)[["bit_gflops", "val_accuracy"]].mean()
    front = means[is_on_front(means.bit_gflops.to_numpy(), means.val_accuracy.to_numpy())].index
    return cells[cells.set_index(POINT).index.isin(front)]


def hypervolumes(cells: pd.DataFrame, references: pd.DataFrame, accuracy: str) -> pd.Series:
    """Seed -> hypervolume (octaves of bit_gflops x points of that accuracy) of the front that validation has chosen.

    references: by seed; the reference point is the dense FP32 cost and BELOW points under that accuracy.
    """
    column = ACCURACIES[accuracy]
    volumes = {
        seed: hypervolume(
            own.bit_gflops.to_numpy(float), own[column].to_numpy(),
            references.bit_gflops[seed], references[column][seed] - BELOW,
        )
        for seed, own in front_of(cells).groupby("seed")
    }  # fmt: skip
    return pd.Series(volumes, dtype=float)


def gain(these: pd.Series, those: pd.Series) -> dict[str, float]:
    """these - those, paired by seed: mean and 95% interval."""
    difference = interval((these - those).dropna())
    return {"difference": difference.mean, "low": difference.low, "high": difference.high}


def best_within(cells: pd.DataFrame, cost: float) -> pd.DataFrame | None:
    """The cells of the point of best mean validation accuracy at a mean cost of no more than that; None: there is none."""
    means = cells.groupby(POINT)[["bit_gflops", "val_accuracy"]].mean().reset_index()
    best = best_at_cost(means.bit_gflops.to_numpy(), means.val_accuracy.to_numpy(), cost)
    return None if best is None else cells.merge(means.loc[[best], POINT], on=POINT)
