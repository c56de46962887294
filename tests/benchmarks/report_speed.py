"""How long a report takes to write and to answer: 1,000 and 10,000 cells of one seed, made up.

python tests/benchmarks/report_speed.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import write

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from browser import chromium, open_page
from made_sweep import make_sweep

from qprune.report.commands import write_report

GRIDS = {
    1000: {"models": ("a",), "criteria": ("taylor",), "precisions": 20, "ratios": 50},
    10_000: {"models": ("a", "b", "c", "d"), "criteria": ("taylor", "random"), "precisions": 25, "ratios": 50},
}
LAYERS = 54  # as ResNet-50 has
MOVES = 30
# moves the slider of the largest cost; the time until the browser has painted, from the event on
MOVE = """
  const [slider, steps] = [document.getElementById('max-bit_gflops-range'), arguments[0]];
  const done = arguments[1], times = [];
  const move = (count) => {
    if (!count) return done(times);
    slider.value = Math.round(slider.max * (0.1 + 0.8 * ((count * 0.37) % 1)));
    const start = performance.now();
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    const handled = performance.now() - start;
    requestAnimationFrame(() => setTimeout(() => {
      times.push([handled, performance.now() - start]);
      setTimeout(() => move(count - 1), 50);
    }));
  };
  move(steps);"""


def main() -> None:
    rows = []
    for cells, grid in GRIDS.items():
        with tempfile.TemporaryDirectory() as folder:
            precisions = [f"w{w}a{a}" for w in range(2, 9) for a in range(2, 9)][: grid["precisions"] - 1]
            ratios = tuple(number / 52 for number in range(grid["ratios"]))
            sweep = make_sweep(
                Path(folder), models=grid["models"], criteria=grid["criteria"], precisions=("fp32", *precisions),
                ratios=ratios, seeds=(0,), layers=LAYERS,
            )  # fmt: skip
            start = time.perf_counter()
            path = write_report(sweep)
            written = time.perf_counter() - start
            with chromium(Path(folder)) as driver:
                start = time.perf_counter()
                open_page(driver, path)
                opened = time.perf_counter() - start
                times = driver.execute_async_script(MOVE, MOVES)
            handled, painted = zip(*times, strict=True)
            rows.append(
                {
                    "cells": cells,
                    "bytes": path.stat().st_size,
                    "write_s": round(written, 2),
                    "open_s": round(opened, 2),
                    "slider_handled_ms": round(statistics.median(handled), 1),
                    "slider_painted_ms": round(statistics.median(painted), 1),
                    "slider_painted_worst_ms": round(max(painted), 1),
                }
            )
    write("report_speed", rows)


if __name__ == "__main__":
    main()
