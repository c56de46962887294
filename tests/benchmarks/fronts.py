"""What the benchmarks compare: hypervolumes of fronts that are chosen by validation, seed by seed, and points within a cost."""

import pandas as pd

from qprune.analysis.front import hypervolume
from qprune.analysis.statistics import interval
from qprune.analysis.worth import POINT, best_within, front_of

__all__ = ["ACCURACIES", "POINT", "best_within", "front_of", "gain", "hypervolumes", "in_points", "unpruned"]

BELOW = 10  # points under the unpruned baseline: the reference of the hypervolume
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
