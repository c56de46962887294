"""qprune itself (Taylor), random pruning, and FP32 unpruned under one schedule: the cells of the sweep, as points."""

from collections.abc import Iterator
from pathlib import Path

from qprune.settings.config import SweepConfig
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store
from qprune.sweep.plan import Plan, make_plan

from .common import COLUMNS

METHODS = {"taylor": "qprune", "random": "random"}


def rows(config: SweepConfig, out: Path) -> Iterator[dict]:
    """The rows of all finished cells; Taylor's ratio 0, which is every criterion's, is in each front."""
    plan, store = make_plan(config), Store(Path(out) / "stages")
    cells = read_cells(Path(out) / config.name).set_index("cell")
    seen: dict[str, set[str]] = {}
    unpruned = set()
    for cell in plan.cells:
        row = cells.loc[cell.id]
        if row.status != "done":
            continue
        method = METHODS[cell.criterion]
        new = plan.needed_by([cell.stages["evaluate"]]) - seen.setdefault(method, set())
        seen[method] |= new
        layers = read_record(Path(out) / config.name, cell.id)["cost"]["layers"]
        yield _row(
            row, method=method, precision=cell.precision, ratio=cell.ratio, achieved_ratio=row.achieved_ratio,
            updates=int(row.total_updates), maps="-".join(str(layer["channels_out"]) for layer in layers[:-1]),
            **_work(plan, store, new),
        )  # fmt: skip
        if cell.scratch and (cell.ratio, cell.precision) == (0, "fp32") and cell.seed not in unpruned:
            unpruned.add(cell.seed)
            work = _work(plan, store, {cell.scratch})
            yield _row(
                row, method="unpruned", precision="fp32", width=1.0, updates=store.meta(cell.scratch)["updates"],
                maps="-".join(str(layer["channels_out"]) for layer in layers[:-1]),
                accuracy=row.scratch_accuracy, val_accuracy=row.scratch_val_accuracy, **work,
            )  # fmt: skip


def _row(cell, **values) -> dict:
    same = ("seed", "val_accuracy", "accuracy", "bit_gflops", "gflops", "weight_bytes")
    return dict.fromkeys(COLUMNS) | {name: cell[name] for name in same} | {"scoring_passes": 0} | values


def _work(plan: Plan, store: Store, stages: set[str]) -> dict:
    return {
        "new_updates": plan.updates_of(stages),
        "seconds": round(sum(store.meta(name)["seconds"] for name in stages), 2),
    }
