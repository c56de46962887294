"""points.csv; summary.csv: hypervolumes and qprune's minus them, paired by seed; equal_cost.csv: accuracies within a cost."""

from pathlib import Path

import pandas as pd
from fronts import ACCURACIES, POINT, best_within, gain, hypervolumes, unpruned

from qprune.analysis.statistics import holm, interval, paired_p

COLUMNS = (
    "contender", *POINT, "seed", "val_accuracy", "accuracy", "bit_gflops", "macs", "weight_bytes", "achieved_ratio",
    "total_updates", "training_flops", "lr_dense", "protocol", "seconds",
)  # fmt: skip
COSTS = tuple(2.0**-octaves for octaves in range(0, 13))  # of the dense FP32 network's
PRIMARY = ("qprune", "narrower")
Found = dict[str, pd.DataFrame]  # contender -> its cells, accuracies in points


def write_tables(found: Found, folder: Path) -> pd.DataFrame:
    """Write points.csv, summary.csv and equal_cost.csv; returns the summary."""
    points = pd.concat([cells.assign(contender=name) for name, cells in found.items()])
    points[[column for column in COLUMNS if column in points]].to_csv(folder / "points.csv", index=False)
    summary = summarise(found)
    summary.to_csv(folder / "summary.csv", index=False)
    equal_cost(found).to_csv(folder / "equal_cost.csv", index=False)
    return summary


def summarise(found: Found) -> pd.DataFrame:
    """One row per contender, precisions and accuracy: mean hypervolume and qprune's minus it, with 95% t-intervals.

    p: of a paired t-test over seeds; holm: that adjusted over all rows of test accuracy but the primary one.
    """
    first = found[PRIMARY[0]]
    references, rows = unpruned(first), []
    for accuracy in ACCURACIES:
        for precision in (None, *first.precision.unique()):
            own = hypervolumes(_at(first, precision), references, accuracy)
            for name, cells in found.items():
                volumes = hypervolumes(_at(cells, precision), references, accuracy)
                if volumes.empty:
                    continue
                mean, above = interval(list(volumes)), (own - volumes).dropna()
                row = {
                    "contender": name, "precisions": precision or "all", "accuracy": accuracy, "seeds": mean.n,
                    "hypervolume": mean.mean, "hypervolume_low": mean.low, "hypervolume_high": mean.high,
                }  # fmt: skip
                if name != PRIMARY[0]:
                    row |= {f"qprune_minus_it_{key}": one for key, one in gain(own, volumes).items()} | {
                        "p": paired_p(above)
                    }
                    row["primary"] = (name, precision, accuracy) == (PRIMARY[1], None, "test")
                rows.append(row)
    table = pd.DataFrame(rows)
    secondary = table[(table.accuracy == "test") & (table.primary == False) & table.p.notna()]  # noqa: E712 (objects)
    table.loc[secondary.index, "holm"] = holm(secondary.p.astype(float))
    return table.round(4)


def _at(cells: pd.DataFrame, precision: str | None) -> pd.DataFrame:
    """The cells of a precision; of Brevitas' stock formats those of as many bits."""
    same = {"brevitas_w8a8": "int8", "brevitas_w4a4": "int4"}
    return cells if precision is None else cells[cells.precision.replace(same) == precision]


def equal_cost(found: Found) -> pd.DataFrame:
    """Test accuracy of each contender's best point (by validation) within each of COSTS, and qprune's minus it, paired."""
    first = found[PRIMARY[0]]
    dense = unpruned(first).bit_gflops.iloc[0]
    rows = []
    for share in COSTS:
        own = best_within(first, share * dense)
        for name, cells in found.items():
            best = best_within(cells, share * dense)
            if best is None:
                continue
            row = {
                "share_of_dense_cost": share, "contender": name, "precision": best.precision.iloc[0],
                "ratio": best.pruning_ratio.iloc[0], "accuracy": best.accuracy.mean(),
                "relative_cost": best.bit_gflops.mean() / dense,
            }  # fmt: skip
            if own is not None and name != PRIMARY[0]:
                paired = gain(own.set_index("seed").accuracy, best.set_index("seed").accuracy)
                row |= {f"qprune_minus_it_{key}": one for key, one in paired.items()}
            rows.append(row)
    return pd.DataFrame(rows).round(5)
