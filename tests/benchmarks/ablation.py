"""What each part of a protocol is worth: one factor at a time from the default, every cell with as many updates.

python tests/benchmarks/ablation.py [SWEEP.yaml] [--only NAME ...] [--workers 2]

Each variant is a sweep of its own; all share what they can. Writes summary.csv (hypervolumes, paired by seed with the
default's) and points.csv (means over seeds) into the folder of the sweep's name.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from fronts import ACCURACIES, POINT, gain, hypervolumes, in_points, unpruned
from rich.console import Console

from qprune.executors.local import LocalExecutor
from qprune.settings.config import SweepConfig, load_config
from qprune.settings.protocols import PROTOCOLS
from qprune.storage.results import read_cells
from qprune.sweep.run import run_sweep

SWEEP = Path(__file__).with_name("ablation.yaml")
DEFAULT = "default"
PROTOCOLS |= {
    "early_linear": replace(PROTOCOLS["early"], decay="linear"),
    "early_cold": replace(PROTOCOLS["early"], dense_warmup=0.0),
}
VARIANTS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "classic": ("protocol=classic",),
    "restart": ("protocol=restart",),
    "linear decay": ("protocol=early_linear",),
    "no warm-up": ("protocol=early_cold",),
    "N 5%": ("budget.shares.dense=0.05",),
    "N 25%": ("budget.shares.dense=0.25",),
    "N 50%": ("budget.shares.dense=0.5",),
    "P 6%": ("budget.shares.prune=0.06",),
    "P 25%": ("budget.shares.prune=0.25",),
    "Q 4%": ("budget.shares.quantize=0.04",),
    "Q 20%": ("budget.shares.quantize=0.2",),
    "half the rate": ("train.lr=0.025",),
    "twice the rate": ("train.lr=0.1",),
    "4 times the rate": ("train.lr=0.2",),
    "P at lr / 5": ("prune.lr=0.01",),
    "Q at lr / 2": ("quantize.lr=0.025",),
    "Q at lr / 20": ("quantize.lr=0.0025",),
    "1% a step": ("prune.channels_per_step=1%",),
    "5% a step": ("prune.channels_per_step=5%",),
    "one cut": ("prune.schedule=one_shot",),
    "taught by ratio 0": ("quantize.distill=true",),
    "flops": ("prune.normalize=flops",),
    "layer": ("prune.normalize=layer",),
    "no normalisation": ("prune.normalize=none",),
    "classic, flops": ("protocol=classic", "prune.normalize=flops"),
    "classic, layer": ("protocol=classic", "prune.normalize=layer"),
    "flops, capped": ("prune.normalize=flops", "prune.max_layer_ratio=0.95"),
    "layer, random": ("prune.normalize=layer", "prune.criterion=random"),
    "layer, weight norm": ("prune.normalize=layer", "prune.criterion=weight_norm"),
    "random": ("prune.normalize=none", "prune.criterion=random"),
    "weight norm": ("prune.criterion=weight_norm",),
    "activation": ("prune.criterion=activation",),
}


def variants(sweep: Path, only: list[str]) -> Iterator[tuple[str, SweepConfig]]:
    """Each variant's name and its sweep."""
    name = load_config(sweep).name
    for variant, overrides in VARIANTS.items():
        if not only or variant in (DEFAULT, *only):
            folder = f"{name}_{''.join(c if c.isalnum() else '_' for c in variant)}"
            yield variant, load_config(sweep, [*overrides, f"name={folder}"])


def tables(found: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, points) of variant -> cells."""
    default = found[DEFAULT]
    references = unpruned(default)
    rows, points = [], []
    for variant, cells in found.items():
        means = cells.groupby(POINT)[["val_accuracy", "accuracy", "bit_gflops"]].mean()
        points.append(means.reset_index().assign(variant=variant, seeds=cells.seed.nunique()))
        for precision in (None, *cells.precision.unique()):
            row: dict = {"variant": variant, "precisions": precision or "all"}
            for accuracy in ACCURACIES:
                own, other = (hypervolumes(_at(one, precision), references, accuracy) for one in (cells, default))
                row |= {accuracy: own.mean(), **{f"{accuracy}_{key}": one for key, one in gain(own, other).items()}}
            rows.append(row | {"seeds": cells.seed.nunique()})
    return pd.DataFrame(rows).round(2), pd.concat(points).round(5)


def _at(cells: pd.DataFrame, precision: str | None) -> pd.DataFrame:
    return cells if precision is None else cells[cells.precision == precision]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", nargs="?", type=Path, default=SWEEP)
    parser.add_argument("--only", nargs="*", default=[], help="variants, beside the default")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    options = parser.parse_args()
    found = {}
    for variant, config in variants(options.sweep, options.only):
        run_sweep(
            config, options.out, lambda stages, store: LocalExecutor(min(options.workers, stages), 1, store), Console()
        )
        found[variant] = in_points(read_cells(options.out / config.name))
        summary, points = tables(found)
        folder = options.out / load_config(options.sweep).name
        folder.mkdir(exist_ok=True)
        summary.to_csv(folder / "summary.csv", index=False)
        points.to_csv(folder / "points.csv", index=False)
        print(summary[summary.variant == variant].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
