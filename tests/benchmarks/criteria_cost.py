"""What scoring costs: an update scored by each criterion against a plain update and one scored by Taylor.

python tests/benchmarks/criteria_cost.py [--runs 3]

Time: medians over interleaved rounds of one process, as ratios; then the median and the spread over the runs. Memory: the
most that a fresh process has resident (VmHWM) as it builds the network and makes such updates, less what it had with the
data loaded and nothing else: so weights, their gradients, momentum, activations, and what scoring needs.
"""

import argparse
import multiprocessing
import statistics
from pathlib import Path

import torch
from bench import interleaved, ratio, write

from qprune.data import load_data
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.recipe import Recipe, constant
from qprune.registry.choice import Choice
from qprune.stages.work import dense_spec
from qprune.training import train

ROUNDS = 5
CRITERIA = {
    "taylor": "taylor",
    "taylor_2019": "taylor_2019",
    "activation": "activation",
    "gradient_variance": "gradient_variance",
    "weight_norm": "weight_norm",
    "obd_lecun": "obd_lecun",
    "obd_gate, Monte Carlo": "obd_gate",
    "obd_gate, Hutchinson": {"name": "obd_gate", "estimator": "hutchinson"},
    "obd_gate, exact": {"name": "obd_gate", "estimator": "exact"},
    "obd_element, Monte Carlo": "obd_element",
}
NETWORKS = (("vgg_tiny", "digits", 64, 10), ("resnet20", "digits", 64, 2), ("vgg_small", "fashion_mnist", 128, 2))


def updates_of(model: str, data_name: str, batch_size: int, updates: int, criterion):
    """An action that makes so many updates, scored by the criterion (None: plain)."""
    data = load_data({"name": data_name})
    recipe = Recipe(batch_size=batch_size)
    spec = dense_spec(Choice.of({"name": model}), data)
    torch.manual_seed(0)
    network, scorer = spec.build(), None
    if criterion is not None:
        gated = GatedNetwork(network, spec.image_shape)
        network = gated.network
        scorer = Scorer(network, gated.groups, gated.gates, get_criterion(criterion))
    optimizer = train(network, data.train, recipe, range(1), constant(0.001), 0)

    def action() -> None:
        train(network, data.train, recipe, range(updates), constant(0.001), 0, optimizer, scorer)

    return action


def peak_memory(arguments: tuple) -> float:
    """MB that a fresh process's largest resident size grew by: network, optimizer and scored updates, without the data."""
    torch.set_num_threads(1)
    load_data({"name": arguments[1]})
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest size so far
    updates_of(*arguments)()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def in_fresh_process(arguments: tuple) -> float:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["qprune.stages.work", "bench"])  # imported once; nothing has been computed there
    with context.Pool(1) as pool:
        return pool.apply(peak_memory, (arguments,))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        names = {"plain": None, **CRITERIA}
        actions = {name: updates_of(*network, criterion) for name, criterion in names.items()}
        times = [interleaved(actions, ROUNDS) for _ in range(runs)]
        memory = {name: [in_fresh_process((*network, names[name])) for _ in range(runs)] for name in names}
        plain, taylor = (statistics.median(memory[name]) for name in ("plain", "taylor"))
        for name in names:
            of_plain, of_taylor = ([ratio(seconds, name, base)[0] for seconds in times] for base in ("plain", "taylor"))
            rows.append(
                {
                    "model": network[0],
                    "data": network[1],
                    "batch_size": network[2],
                    "update": name,
                    "ms": round(1000 * min(min(seconds[name]) for seconds in times) / network[3], 2),
                    "time_of_plain": round(statistics.median(of_plain), 3),
                    "time_of_plain_min": round(min(of_plain), 3),
                    "time_of_plain_max": round(max(of_plain), 3),
                    "time_of_taylor": round(statistics.median(of_taylor), 3),
                    "memory_mb": round(statistics.median(memory[name]), 1),
                    "memory_of_plain": round(statistics.median(memory[name]) / plain, 3),
                    "memory_of_plain_min": round(min(memory[name]) / plain, 3),
                    "memory_of_plain_max": round(max(memory[name]) / plain, 3),
                    "memory_of_taylor": round(statistics.median(memory[name]) / taylor, 3),
                    "runs": runs,
                    "rounds": ROUNDS,
                }
            )
    write("criteria_cost", rows)


if __name__ == "__main__":
    main()
