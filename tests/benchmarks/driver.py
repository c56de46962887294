"""What a sweep's driver takes beside its stages, from 1,000 to 30,000 of them: milliseconds of each, memory, and the commands after.

python tests/benchmarks/driver.py [--stages 1000 3000 10000 30000]

The stages are made up: what one small cell left is written under each one's name at once, and the time of that is taken off. The
grid is of real settings: seeds x criteria x ratios x precisions, each cell with its records, its row and its place on the page.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from bench import write  # noqa: E402
from rich.console import Console  # noqa: E402
from tiny_sweep import Inline, run_inline, tiny_config  # noqa: E402

from qprune.executors.base import Event  # noqa: E402
from qprune.storage.store import Store  # noqa: E402
from qprune.sweep.plan import make_plan  # noqa: E402
from qprune.sweep.run import run_sweep  # noqa: E402

CRITERIA = ("taylor", "activation", "apoz", "weight_norm", "bn_gamma", "taylor_signed", "taylor_2019", "activation_std")
PRECISIONS = ("fp32", "fp16", "int8", "int4", "w8a8")
RATIOS = 25
COMMON = (
    "train.updates=2",
    "prune.channels_per_step=1",
    "prune.updates_between=1",
    "finetune={updates: 1}",
    "quantize.updates=1",
)


class Instant(Inline):
    """Writes what a stage of the kind has left elsewhere. own: seconds of that."""

    def __init__(self, store_folder: Path, samples: dict[str, tuple[dict, dict | None]]):
        super().__init__(store_folder)
        self.samples, self.own = samples, 0.0

    def start(self, stage) -> None:
        begun = time.perf_counter()
        meta, tensors = self.samples[stage.kind]
        self.store.write(stage.id, {**meta, "named_by": stage.named_by, "label": stage.label}, tensors)
        self.own += time.perf_counter() - begun
        self.ended.append(Event("done", stage.id))


def sample(folder: Path) -> dict[str, tuple[dict, dict | None]]:
    """Kind -> what a stage of it leaves."""
    config = tiny_config(folder, *COMMON, "seeds=0", "precisions=[int4]", "prune.ratios=[0.5]")
    code, _, text = run_inline(config, folder / "results")
    assert code == 0, text
    store, plan = Store(folder / "results" / "stages"), make_plan(config)
    found = {}
    for name, stage in plan.stages.items():
        meta = store.meta(name)
        kept = {key: value for key, value in meta.items() if key != "tensors_sha256"}
        found[stage.kind] = kept, store.tensors(name) if meta.get("tensors_sha256") else None
    return found


def grid_of(folder: Path, stages: int):
    """The smallest grid of at least so many stages."""
    for seeds in range(1, 100):
        for criteria in range(1, len(CRITERIA) + 1):
            cells = seeds * criteria * RATIOS * len(PRECISIONS)
            if 2.4 * cells >= stages:
                ratios = [round(0.9 * number / RATIOS, 3) for number in range(RATIOS)]
                return tiny_config(
                    folder, *COMMON, f"seeds={list(range(seeds))}", f"prune.criterion={list(CRITERIA[:criteria])}",
                    f"prune.ratios={ratios}", f"precisions={list(PRECISIONS)}",
                )  # fmt: skip
    raise ValueError(stages)


def seconds_of(folder: Path, *arguments: str) -> float:
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-m", "qprune", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    return round(time.perf_counter() - begun, 1)


def measured(stages: int, samples: dict, before: float) -> dict:
    """before: MB of this process with nothing planned."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = grid_of(folder, stages)
        begun = time.perf_counter()
        plan = make_plan(config)
        planned = time.perf_counter() - begun
        executors: list[Instant] = []

        def make_executor(count: int, store: Path) -> Instant:
            executors.append(Instant(store, samples))
            return executors[-1]

        begun = time.perf_counter()
        with (
            mock.patch("qprune.sweep.run.write_report"),
            mock.patch("qprune.sweep.run.rehearse", return_value=mock.Mock(faults={}, unwritten=())),
        ):
            code = run_sweep(config, folder / "results", make_executor, Console(file=io.StringIO(), width=120))
        whole = time.perf_counter() - begun
        assert code == 0 and len(executors) == 1
        count = len(plan.stages)
        row = {
            "stages": count,
            "cells": len(plan.cells),
            "plan_seconds": round(planned, 1),
            "ms_per_stage": round(1000 * (whole - executors[0].own) / count, 2),
            "driver_mb_more": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 - before),
        }
        for command in ("status", "pick", "report"):
            row[f"{command}_seconds"] = seconds_of(folder, command, "results/tiny")
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = sample(Path(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    write("driver", [measured(stages, samples, before) for stages in sorted(given.stages)])


if __name__ == "__main__":
    main()
