"""The quickstart grid against the same grid cell by cell from scratch: updates (exact) and wall time.

python tests/benchmarks/shared_stages.py
"""

import dataclasses
import tempfile
import time
from pathlib import Path

from bench import write
from rich.console import Console

from qprune.executors.base import run_stages
from qprune.executors.local import LocalExecutor
from qprune.settings.config import load_config
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan
from qprune.sweep.run import run_sweep

QUICKSTART = Path(__file__).parent.parent.parent / "sweeps" / "quickstart.yaml"
WORKERS = 2


def unshared(plan) -> dict:
    """A copy of every cell's chain of stages for that cell alone."""
    stages = {}
    for count, cell in enumerate(plan.cells):
        needed, copies = plan.needed_by([cell.stages["evaluate"]]), {}
        for name, stage in plan.stages.items():
            if name not in needed:
                continue
            values = ((field.name, getattr(stage, field.name)) for field in dataclasses.fields(stage))
            sources = {key: copies[value] for key, value in values if isinstance(value, str) and value in copies}
            copy = dataclasses.replace(stage, **sources)
            if not sources:  # the others are named by their sources
                vars(copy)["id"] = f"cell{count}.{name}"  # in front of the cached property
            copies[name] = copy.id
            stages[copy.id] = copy
    return stages


def main() -> None:
    config = load_config(QUICKSTART)
    plan = make_plan(config)
    scratch = unshared(plan)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_sweep(config, Path(folder), lambda stages, store: LocalExecutor(WORKERS, 1, store), Console())
        shared_seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        failures = []
        with LocalExecutor(WORKERS, 1, Path(folder)) as executor:
            run_stages(
                scratch, executor, Store(Path(folder)), lambda event: event.kind == "failed" and failures.append(event)
            )
        scratch_seconds = time.perf_counter() - start
        assert not failures, failures[0]
    rows = []
    for name, stages, seconds in (("shared", plan.stages, shared_seconds), ("from scratch", scratch, scratch_seconds)):
        updates = sum(stage.updates for stage in stages.values())
        rows.append(
            {
                "grid": name,
                "cells": len(plan.cells),
                "stages": len(stages),
                "updates": updates,
                "seconds": round(seconds, 1),
            }
        )
    rows.append(
        {
            "grid": "ratio",
            "cells": 1,
            "stages": round(len(scratch) / len(plan.stages), 2),
            "updates": round(rows[1]["updates"] / rows[0]["updates"], 2),
            "seconds": round(scratch_seconds / shared_seconds, 2),
        }
    )
    for row in rows:
        row["workers"] = WORKERS
    write("shared_stages", rows)


if __name__ == "__main__":
    main()
