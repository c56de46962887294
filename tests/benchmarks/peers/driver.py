"""Runs the sweep, then what is missing of the peers; writes points.csv, summary.csv and the figure."""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from rich.console import Console

from qprune.executors.local import LocalExecutor
from qprune.settings.config import SweepConfig, load_config
from qprune.storage.durable import write_whole
from qprune.sweep.run import run_sweep

from . import torch_pruning_brevitas, width_scaling
from .common import Budget, budget_of, one_thread

SWEEP = Path(__file__).parent / "digits.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", nargs="?", type=Path, default=SWEEP)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--tables", action="store_true", help="train nothing: tables and figure of what is there")
    parser.add_argument("--same-shape", action="store_true", help="train shapes of finished pruned points from scratch")
    options = parser.parse_args()
    config = load_config(options.sweep)
    if options.same_shape:
        from .same_shape import write_same_shape

        table = write_same_shape(budget_of(config, options.out), options.out / config.name, options.workers)
        print(table.to_string(index=False))
        return
    if not options.tables:
        run(config, options.out, options.workers)
    from .figure import draw
    from .tables import write_tables

    points, summary = write_tables(config, options.out)
    print(summary.to_string(index=False))
    for path in draw(points, options.out / config.name):
        print(f"-> {path}")


def run(config: SweepConfig, out: Path, workers: int) -> None:
    """The sweep, then the peers' missing points; each is on disk as soon as it is trained, and is never trained twice."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by libraries as the workers load them
    run_sweep(config, out, lambda stages, store: LocalExecutor(min(workers, stages), 1, store), Console())
    run_peers(budget_of(config, out), config.seeds, Path(out) / config.name / "points", workers)


def jobs(budget: Budget, seeds: Iterable[int]) -> list[tuple]:
    """(names of the points, the call that yields them): seed by seed, the longest first."""
    return [
        job
        for seed in seeds
        for job in (
            (torch_pruning_brevitas.names(budget, seed), partial(torch_pruning_brevitas.points, budget, seed)),
            *(
                (width_scaling.names(width, seed), partial(width_scaling.points, budget, width, seed))
                for width in width_scaling.WIDTHS
            ),
        )
    ]


def run_peers(budget: Budget, seeds: Iterable[int], folder: Path, workers: int) -> list[Path]:
    """Train the points that have no file yet; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [(wanted, call) for names, call in jobs(budget, seeds) if (wanted := lacking(names, folder))]
    spawn = multiprocessing.get_context("spawn")
    written = []
    with ProcessPoolExecutor(workers, spawn, one_thread) as pool:
        for done in as_completed([pool.submit(run_job, wanted, call, folder) for wanted, call in todo]):
            written += done.result()
    return written


def lacking(names: list[tuple], folder: Path) -> list[tuple]:
    """The points that have no file yet."""
    return [name for name in names if not file_of(name, folder).exists()]


def file_of(name: tuple, folder: Path) -> Path:
    """Where a point's row is kept. name: (method, precision, ratio, width, seed)."""
    method, precision, ratio, width, seed = name
    where = f"r{ratio:.2f}" if width is None else f"x{width:.2f}"
    return folder / f"{method}-{precision}-{where}-s{seed}.json"


def run_job(wanted: list[tuple], call, folder: Path) -> list[Path]:
    """One job's points, each written as it is finished."""
    written = []
    for point in call(wanted):
        path = file_of(tuple(point.row[key] for key in ("method", "precision", "ratio", "width", "seed")), folder)
        write_whole(path, json.dumps(point.row, indent=1).encode())
        print(f"{path.stem}: {point.row['val_accuracy']:.4f}, {point.row['bit_gflops']:.3g}", flush=True)
        written.append(path)
    return written
