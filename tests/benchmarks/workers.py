"""Two workers against one on a 24-cell sweep: wall time of the real command in fresh folders, and peak memory.

python tests/benchmarks/workers.py [--rounds 3] [--set KEY=VALUE ...]

With one worker the sweep should take a minute or more, so that the start of Python doesn't dominate. A worker's memory
is its share of what it and others have mapped (PSS), the most that was seen while it ran.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bench import interleaved, ratio, write

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from processes import memory_share, running  # noqa: E402
from tiny_sweep import COMMAND, environment  # noqa: E402

from qprune.storage.store import Store  # noqa: E402

SWEEP = """\
name: workers
data: digits
model: vgg_tiny
seeds: [0, 1]
train: {epochs: 60, batch_size: 64, lr: 0.05}
prune: {ratios: [0, 0.5, 0.75], channels_per_step: 4%, updates_between: 60}
finetune: {epochs: 16}
quantize: {epochs: 8}
precisions: [fp32, fp16, int8, int4]
"""
WORKERS = (1, 2)
LOOK_SECONDS = 3  # adding up what is mapped takes tenths of a second


def run_sweep(workers: int, settings: list[str]) -> tuple[int, dict[int, float]]:
    """The command in a fresh folder; returns the number of cells, and each worker's peak resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "workers.yaml").write_text(SWEEP)
        sets = [word for setting in settings for word in ("--set", setting)]
        text = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            [*COMMAND, "sweep", "workers.yaml", "--workers", str(workers), *sets], cwd=folder, env=environment(),
            start_new_session=True, stdout=text, stderr=text,
        )  # fmt: skip
        peaks: dict[int, float] = {}
        store = Store(Path(folder) / "results" / "stages")
        while process.poll() is None:
            for pid in running(store):
                peaks[pid] = max(peaks.get(pid, 0.0), memory_share(pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
        text.seek(0)
        printed = text.read()
        assert process.returncode == 0, printed
        done, cells = map(int, re.search(r"(\d+) of (\d+) cells done", printed).groups())
        assert done == cells and len(peaks) == workers, printed
        return cells, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the sweep, to try it out")
    options = parser.parse_args()
    peaks: dict[str, list[float]] = {str(workers): [] for workers in WORKERS}
    cells: set[int] = set()

    def timed(workers: int):
        def action() -> None:
            count, found = run_sweep(workers, options.set)
            cells.add(count)
            peaks[str(workers)].extend(found.values())

        return action

    seconds = interleaved({str(workers): timed(workers) for workers in WORKERS}, options.rounds)
    (count,) = cells
    rows = []
    for name in seconds:
        median, least, largest = ratio(seconds, "1", name)
        rows.append(
            {
                "workers": name,
                "cells": count,
                "cores": len(os.sched_getaffinity(0)),
                "seconds_median": round(sorted(seconds[name])[len(seconds[name]) // 2], 1),
                "speedup_median": round(median, 3),
                "speedup_min": round(least, 3),
                "speedup_max": round(largest, 3),
                "peak_mb_per_worker": round(max(peaks[name])),
                "rounds": options.rounds,
            }
        )
    write("workers", rows)


if __name__ == "__main__":
    main()
