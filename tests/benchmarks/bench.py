"""What the benchmarks share: interleaved timing, and tables that say where they were made."""

import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent.parent.parent / "results" / "benchmarks"


def interleaved(actions: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each action in each round, the actions in turn, after one round that isn't counted."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for count in range(rounds + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if count:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Median, least and largest of the ratios round by round."""
    ratios = [one / other for one, other in zip(seconds[name], seconds[base], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def write(name: str, rows: list[dict]) -> None:
    """Print the rows and write them to results/benchmarks/<name>.csv, with machine and command."""
    import torch

    from qprune.stages.provenance import processor_name

    command = "python " + " ".join(["tests/benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    machine = f"{processor_name()}, {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine", "command"])
        writer.writeheader()
        writer.writerows({**row, "machine": machine, "command": command} for row in rows)
    print(f"-> {RESULTS / name}.csv")
