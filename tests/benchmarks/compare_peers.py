"""qprune and its peers on one plot: same data, same budgets of updates, costs counted alike.

python tests/benchmarks/compare_peers.py [SWEEP.yaml] [--workers 2]

All are cells of one sweep; points.csv, summary.csv, equal_cost.csv and the figure are made of its table.
"""

import argparse
from pathlib import Path

from peers import register
from rich.console import Console

from qprune.executors.local import LocalExecutor
from qprune.settings.config import load_config
from qprune.sweep.run import run_sweep

SWEEP = Path(__file__).parent / "peers" / "digits.yaml"
SHAPES = ("precisions=fp32", "order=[prune_first, torch_pruning, same_shape, same_shape_torch_pruning]")
register()  # in the workers too, which import this file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", nargs="?", type=Path, default=SWEEP)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--tables", action="store_true", help="train nothing: tables and figure of what is there")
    parser.add_argument("--same-shape", action="store_true", help="train shapes of pruned networks from scratch")
    options = parser.parse_args()
    config = load_config(options.sweep)
    folder = options.out / config.name
    if options.same_shape:  # a sweep beside it, which shares what has been trained
        config = load_config(options.sweep, [*SHAPES, f"name={config.name}_same_shape"])
    if not options.tables:
        run_sweep(
            config, options.out, lambda stages, store: LocalExecutor(min(options.workers, stages), 1, store), Console()
        )
    if options.same_shape:
        from peers.same_shape import write_same_shape

        print(write_same_shape(config, options.out, folder).to_string(index=False))
        return
    from peers.figure import draw
    from peers.tables import write_tables

    points, summary = write_tables(config, options.out)
    print(summary.to_string(index=False))
    for path in draw(points, folder):
        print(f"-> {path}")


if __name__ == "__main__":
    main()
