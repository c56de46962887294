"""points.csv; summary.csv: hypervolumes, paired by seed; equal_cost.csv: accuracies at no more than a cost, paired."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from qprune.analysis.front import hypervolume
from qprune.analysis.statistics import interval
from qprune.analysis.studies import best_at_cost
from qprune.settings.config import SweepConfig
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store
from qprune.sweep.plan import Cell, make_plan

COLUMNS = (
    "method", "precision", "ratio", "achieved_ratio", "width", "seed", "val_accuracy", "accuracy", "bit_gflops",
    "gflops", "weight_bytes", "updates", "new_updates", "scoring_passes", "seconds", "maps",
)  # fmt: skip
OWN = {"taylor": "qprune", "random": "random"}  # criterion -> its points' method
LABELS = {"int4": "w4a4", "brevitas_w8a8": "w8a8", "brevitas_w4a4": "w4a4"}
BELOW = 10  # points under the baseline's validation accuracy: the reference of the hypervolume
SUBSETS = {"all": None, "fp32": ("fp32",), "8 bits": ("int8", "w8a8"), "4 bits": ("w4a4",)}
COSTS = tuple(2.0**-octaves for octaves in range(1, 12))  # of the dense FP32 network's
POINT = ["method", "precision", "ratio", "width"]
SHARED = {"width": ("unpruned",)}  # points of other methods that are on a method's front: width 1


def write_tables(config: SweepConfig, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write points.csv, summary.csv and equal_cost.csv into the sweep's folder; returns the first two."""
    folder = Path(out) / config.name
    points = pd.DataFrame([row for cell, row in rows_of(config, out)], columns=list(COLUMNS))
    points = points.sort_values(["method", "precision", "ratio", "width", "seed"], kind="stable")
    points.to_csv(folder / "points.csv", index=False)
    summary = summarise(points)
    summary.to_csv(folder / "summary.csv", index=False)
    equal_cost(points).to_csv(folder / "equal_cost.csv", index=False)
    return points, summary


def rows_of(config: SweepConfig, out: Path) -> Iterator[tuple[Cell, dict]]:
    """The finished cells of a sweep as points. Work that a method's points share counts at the first; ratio 0 of a
    criterion, which is every criterion's, is in each front."""
    plan, store, folder = make_plan(config), Store(Path(out) / "stages"), Path(out) / config.name
    cells = read_cells(folder).set_index("cell")
    seen: dict[str, set[str]] = {}
    for cell in plan.cells:
        row = cells.loc[cell.id]
        if row.status != "done":
            continue
        method, width = _place(cell)
        new = plan.needed_by([cell.stages["evaluate"]]) - seen.setdefault(method, set())
        seen[method] |= new
        path = plan.stages.get(cell.stages.get("torch_pruning", ""))
        layers = read_record(folder, cell.id)["cost"]["layers"]
        measured = ("seed", "val_accuracy", "accuracy", "bit_gflops", "gflops", "weight_bytes")
        yield (
            cell,
            {
                "method": method,
                "precision": LABELS.get(cell.precision, cell.precision),
                "ratio": cell.ratio if width is None else None,
                "achieved_ratio": row.achieved_ratio if width is None else None,
                "width": width,
                **{name: row[name] for name in measured},
                "updates": int(row.total_updates),
                "new_updates": plan.updates_of(new),
                "scoring_passes": path.stop * path.scored if path else 0,
                "seconds": round(sum(store.meta(name)["seconds"] for name in new), 2),
                "maps": "-".join(str(layer["channels_out"]) for layer in layers[:-1]),
            },
        )


def _place(cell: Cell) -> tuple[str, float | None]:
    """The method of a cell's point, and the width of a network that no method has pruned."""
    if cell.method in ("scratch", "narrower"):
        width = cell.width or 1.0
        return ("unpruned" if width == 1 else "width"), width
    return OWN.get(cell.criterion, "torch_pruning"), None


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
    means = points.groupby(POINT, dropna=False)[["bit_gflops", "val_accuracy"]].mean().reset_index()
    best = best_at_cost(means.bit_gflops.to_numpy(), means.val_accuracy.to_numpy(), cost)
    return None if best is None else points.merge(means.loc[[best], POINT], on=POINT).sort_values("seed")


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
