"""Shape or training? The shapes that pruning has found, trained from scratch like the narrower networks, in FP32.

python tests/benchmarks/peers --same-shape: reads points.csv, writes same_shape.csv.
"""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from qprune.cost import count_cost
from qprune.networks import build_model
from qprune.networks.graph import with_normalize
from qprune.pruning.shrink import layer_widths, resize
from qprune.training import cosine, evaluate, seed_of

from .common import Budget, last_updates, make_updates, one_thread

SHAPES = (("qprune", 0.75), ("qprune", 0.9), ("torch_pruning", 0.75), ("random", 0.9))


def chain_widths(network: nn.Module, maps: Iterable[int]) -> dict[str, tuple[int, int]]:
    """(in, out) of each layer of a chain whose convolutions have so many output maps: what `resize` takes."""
    maps, arriving, widths = list(maps), None, {}
    for name, (channels_in, channels_out) in layer_widths(network).items():
        module = network.get_submodule(name)
        arriving = channels_in if arriving is None else arriving
        if isinstance(module, nn.Conv2d):
            widths[name] = arriving, maps.pop(0)
            arriving = widths[name][1]
        else:
            widths[name] = arriving, channels_out if isinstance(module, nn.Linear) else arriving
    return widths


def train_shape(budget: Budget, row: dict) -> dict:
    """A point's shape with new weights of its seed's, trained for N + P + F + Q updates: its row, with the accuracies."""
    data, spec = budget.load()
    seed = int(row["seed"])
    torch.manual_seed(seed_of(seed, "initial weights"))
    model = build_model(spec.model, spec.in_channels, spec.num_classes, spec.image_size)
    network = with_normalize(model, tuple(spec.mean), tuple(spec.std))
    network = resize(network, chain_widths(network, map(int, row["maps"].split("-"))))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu"
            )  # as qprune.networks initialises
    before = budget.total - budget.quantize
    rate = cosine(budget.lr_dense, before)
    made = make_updates(network, data, budget.recipe, range(before), rate, seed_of(seed, "dense"))
    made += last_updates(network, data, budget, seed)
    return {
        **{name: row[name] for name in ("method", "ratio", "seed", "maps", "bit_gflops", "val_accuracy", "accuracy")},
        "bit_gflops_from_scratch": count_cost(network, spec.image_shape).bit_gflops,
        "val_accuracy_from_scratch": evaluate(network, data.val).accuracy,
        "accuracy_from_scratch": evaluate(network, data.test).accuracy,
        "updates": made,
    }


def write_same_shape(budget: Budget, folder: Path, workers: int) -> pd.DataFrame:
    """Write same_shape.csv: the networks of SHAPES as pruned, and from scratch."""
    points = pd.read_csv(folder / "points.csv")
    points = points[points.precision == "fp32"]
    chosen = [row for row in points.to_dict("records") if (row["method"], row["ratio"]) in SHAPES]
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        table = pd.DataFrame(pool.map(partial(train_shape, budget), chosen))
    table.to_csv(folder / "same_shape.csv", index=False)
    return table
