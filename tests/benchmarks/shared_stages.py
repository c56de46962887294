"""Updates of the quickstart grid (4 precisions x 5 ratios x 3 seeds), shared against cell by cell: exact counts of the plan.

python tests/benchmarks/shared_stages.py: nothing is trained. Baselines, which share little, are counted by themselves.
"""

from pathlib import Path

from bench import write

from qprune.analysis.front import is_baseline
from qprune.settings.config import load_config
from qprune.settings.protocols import PROTOCOLS
from qprune.sweep.plan import Plan, make_plan

QUICKSTART = Path(__file__).parent.parent.parent / "sweeps" / "quickstart.yaml"
GRID = ("baselines=[narrower]",)


def shared_and_alone(plan: Plan, baselines: bool) -> tuple[int, int, int]:
    """(cells, updates of all stages behind them, each once, updates of the cells one by one)."""
    import pandas as pd

    chosen = is_baseline(pd.Series([cell.method for cell in plan.cells]))
    cells = [cell for cell, narrow in zip(plan.cells, chosen, strict=True) if narrow == baselines]
    together = plan.updates_of(plan.needed_by(cell.network for cell in cells))
    return len(cells), together, sum(map(plan.total_updates, cells))


def main() -> None:
    rows = []
    for protocol in PROTOCOLS:
        plan = make_plan(load_config(QUICKSTART, [f"protocol={protocol}", *GRID]))
        for baselines in (False, True):
            cells, together, alone = shared_and_alone(plan, baselines)
            what = "narrower" if baselines else "grid"
            rows.append(
                {"protocol": protocol, "what": what, "cells": cells, "updates_shared": together, "updates_alone": alone,
                 "ratio": round(alone / together, 2)}
            )  # fmt: skip
    write("shared_stages", rows)


if __name__ == "__main__":
    main()
