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
        wanted, chain = [cell.stages["evaluate"]], []
        while wanted:
            name = wanted.pop()
            chain.append(name)
            wanted += plan.stages[name].inputs
        copies = {name: f"cell{count}.{name}" for name in chain}
        for name in reversed(chain):
            stage = plan.stages[name]
            settings = dict(stage.settings)
            if "dense" in settings:
                settings["dense"] = copies[settings["dense"]]
            inputs = tuple(copies[source] for source in stage.inputs)
            stages[copies[name]] = dataclasses.replace(stage, id=copies[name], inputs=inputs, settings=settings)
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
