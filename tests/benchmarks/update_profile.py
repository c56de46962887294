"""What an update spends its time on, dense and heavily pruned, one thread; and what shortens it, each against what it replaced.

python tests/benchmarks/update_profile.py [--rounds 7]

results/benchmarks/update_profile.csv: share of a profiled update (torch.profiler) by what is computed, in the format that
`train.channels_last: auto` takes. "between": Python, and the dispatch of operators.
results/benchmarks/update_shortened.csv: ratio to the update as it is, of interleaved rounds: optimizer steps of one parameter after
another or in one kernel (fused; other in the last bit), the contiguous format, convolutions without oneDNN, the loss never read back.
optimizer_us: of the steps alone.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import time  # noqa: E402
from collections import Counter  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from unittest import mock  # noqa: E402

import torch  # noqa: E402
from bench import interleaved, ratio, write  # noqa: E402
from memory_format import cases  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402

from qprune import training  # noqa: E402
from qprune.recipe import Recipe, takes_channels_last  # noqa: E402

PROFILED = ("vgg_tiny", "vgg_tiny, 28x28", "resnet20")
PRECISIONS = ("fp32", "int4")
UPDATES = 10
KINDS = {  # part of an operator's or range's name -> what it computes; the outermost that is known has the time
    "minibatch": "images",
    "Optimizer.step": "optimizer",
    "Optimizer.zero_grad": "optimizer",
    "Quantize": "quantizers",
    "conv": "convolutions",
    "Conv": "convolutions",
    "batch_norm": "batch normalisation",
    "BatchNorm": "batch normalisation",
    "pool": "pooling",
    "Pool": "pooling",
    "relu": "activations",
    "Relu": "activations",
    "clamp_min": "activations",
    "threshold": "activations",
    "linear": "linear layers",
    "Addmm": "linear layers",
    "cross_entropy": "loss",
    "NllLoss": "loss",
    "LogSoftmax": "loss",
    "AccumulateGrad": "gradients' sums",
    "item": "loss read back",
}


def kind_of(event) -> str:
    """What the outermost known operator around an event computes."""
    found = "other operators"
    while event is not None:
        found = next((kind for part, kind in KINDS.items() if part in event.name), found)
        event = event.cpu_parent
    return found


def shares_of(run) -> dict[str, float]:
    """Kind -> share of the wall time of run(), under a profiler."""
    real = training.minibatch

    def marked(*given):
        with record_function("minibatch"):
            return real(*given)

    with mock.patch.object(training, "minibatch", marked), profile(activities=[ProfilerActivity.CPU]) as profiled:
        begun = time.perf_counter()
        run()
        wall = 1e6 * (time.perf_counter() - begun)
    spent: Counter = Counter()
    for event in profiled.events():
        spent[kind_of(event)] += event.self_cpu_time_total
    return {kind: us / wall for kind, us in spent.most_common()} | {"between": 1 - sum(spent.values()) / wall}


@contextmanager
def optimizers(**settings):
    """With another implementation of their steps."""
    real = training.make_optimizer

    def make(*given):
        optimizer = real(*given)
        for group in optimizer.param_groups:
            group.update(settings)
        return optimizer

    with mock.patch.object(training, "make_optimizer", make):
        yield


def optimizer_us(network: torch.nn.Module, **settings) -> float:
    """Microseconds of a step by itself; the least of several."""
    with optimizers(**settings):
        optimizer = training.make_optimizer(network, Recipe(), 1e-5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return 1e6 / UPDATES * min(interleaved({"": lambda: [optimizer.step() for _ in range(UPDATES)]}, 5)[""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    spent, shortened = [], []
    for case in cases(PROFILED, PRECISIONS):
        run = case.updates(UPDATES, takes_channels_last(case.values_per_weight, case.place["batch"]))
        contiguous = case.updates(UPDATES, False)

        def one_by_one(run=run):
            with optimizers(foreach=False):
                run()

        def fused(run=run):
            with optimizers(foreach=False, fused=True):
                run()

        def without_onednn(contiguous=contiguous):
            with torch.backends.mkldnn.flags(enabled=False):
                contiguous()

        def unread(run=run):
            with mock.patch.object(Tensor, "item", lambda loss: 0.0):
                run()

        actions = {
            "as it is": run, "steps one by one": one_by_one, "steps fused": fused,
            "contiguous": contiguous, "contiguous; without oneDNN": without_onednn,
            "loss not read": unread,
        }  # fmt: skip
        seconds = interleaved(actions, rounds)
        ms = {"ms": round(1000 * min(seconds["as it is"]) / UPDATES, 2)}
        spent += [
            case.place | ms | {"spent_on": kind, "share": round(share, 3)} for kind, share in shares_of(run).items()
        ]
        steps = {
            "as it is": {}, "steps one by one": {"foreach": False}, "steps fused": {"foreach": False, "fused": True},
        }  # fmt: skip
        for action in actions:
            median, least, largest = ratio(seconds, action, "as it is")
            alone = round(optimizer_us(case.network, **steps[action]), 1) if action in steps else None
            shortened.append(
                case.place | ms | {
                    "update": action, "ratio_median": round(median, 3), "ratio_min": round(least, 3),
                    "ratio_max": round(largest, 3), "optimizer_us": alone, "rounds": rounds,
                }
            )  # fmt: skip
    write("update_profile", spent)
    write("update_shortened", shortened)


if __name__ == "__main__":
    main()
