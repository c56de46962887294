"""What a protocol makes of networks that are trained already: restart against classic, for equal updates.

python tests/benchmarks/from_checkpoint.py [SWEEP.yaml] [--trained 240] [--workers 2]

Each seed has a checkpoint of its own, trained with one cosine from the file's train.lr; each protocol then has the
file's budget. Writes summary.csv: mean test accuracy of every operating point, and the difference to classic, paired by seed.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from fronts import POINT, gain, in_points
from rich.console import Console

from qprune.data import load_data
from qprune.executors.local import LocalExecutor
from qprune.networks import build_model
from qprune.recipe import Recipe, cosine
from qprune.settings.config import SweepConfig, load_config
from qprune.storage.results import read_cells
from qprune.sweep.run import run_sweep
from qprune.training import train

SWEEP = Path(__file__).with_suffix(".yaml")
PROTOCOLS = ("restart", "early", "classic")  # the last is what the others are compared with


def train_checkpoint(config: SweepConfig, seed: int, updates: int, file: Path) -> None:
    """The network of a seed after that many updates, as a state dict."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load_data(config.data[0].settings)
    _, channels, size, _ = data.train.images.shape
    network = build_model(config.model[0].settings, channels, data.num_classes, size)
    recipe = Recipe(batch_size=config.train.batch_size)
    train(network, data.train, recipe, range(updates), cosine(config.train.lr, updates), seed)
    torch.save(network.eval().state_dict(), file)


def summary(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per operating point and protocol, accuracies in points."""
    keys = ["seed", *POINT]
    own = {protocol: cells.set_index(keys).accuracy for protocol, cells in found.items()}
    rows = []
    for protocol, accuracies in own.items():
        for point, theirs in accuracies.groupby(level=POINT):
            difference = gain(theirs, own[PROTOCOLS[-1]].loc[theirs.index])
            rows.append(
                dict(zip(POINT, point, strict=True)) | {"protocol": protocol, "test": theirs.mean(), **difference}
            )
    return pd.DataFrame(rows).round(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", nargs="?", type=Path, default=SWEEP)
    parser.add_argument("--trained", type=int, default=240, help="updates of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    options = parser.parse_args()
    base = load_config(options.sweep)
    folder = options.out / base.name
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[pd.DataFrame]] = {protocol: [] for protocol in PROTOCOLS}
    for seed in base.seeds:
        file = folder / f"seed_{seed}.pt"
        if not file.exists():
            train_checkpoint(base, seed, options.trained, file)
        for protocol in PROTOCOLS:
            name = f"{base.name}_{protocol}_{seed}"
            start = (f"name={name}", f"seeds=[{seed}]", f"protocol={protocol}", f"train.checkpoint={file}")
            run_sweep(
                load_config(options.sweep, list(start)), options.out,
                lambda stages, store: LocalExecutor(min(options.workers, stages), 1, store), Console(),
            )  # fmt: skip
            found[protocol].append(in_points(read_cells(options.out / name)))
    table = summary({protocol: pd.concat(cells) for protocol, cells in found.items()})
    table.to_csv(folder / "summary.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
