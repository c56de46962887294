"""An update in channels_last against one in the contiguous format: networks, dense and pruned, at every precision, one thread.

python tests/benchmarks/memory_format.py [--rounds 5]

values_per_weight: what `train.channels_last: auto` goes by (qprune.cost.Cost.values_per_weight) times the batch, of the
dense network; from 1 on it takes channels_last.

ratio: channels_last / contiguous, of interleaved rounds. rate: the update's multiplications (three times the forward pass's) over
what this thread does in a product of matrices, in the faster of the two formats; 1 would be an update that does nothing else.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import torch  # noqa: E402
from bench import interleaved, ratio, write  # noqa: E402
from torch import nn  # noqa: E402

import qprune  # noqa: E402
from qprune.data import Split  # noqa: E402
from qprune.precision import get_precision  # noqa: E402
from qprune.recipe import Recipe, constant  # noqa: E402
from qprune.stages.saved import NetworkSpec  # noqa: E402
from qprune.training import train  # noqa: E402

NETWORKS = {  # settings, channels, side, batch
    "vgg_tiny": ({"name": "vgg_tiny"}, 1, 8, 64),
    "vgg_tiny, 28x28": ({"name": "vgg_tiny"}, 1, 28, 128),
    "vgg_small": ({"name": "vgg_small"}, 1, 28, 128),
    "vgg7 x 0.25": ({"name": "vgg7", "width": 0.25}, 3, 32, 64),
    "resnet20": ({"name": "resnet20"}, 3, 32, 64),
    "resnet18": ({"name": "torchvision:resnet18"}, 3, 64, 16),
    "resnet18, batch 64": ({"name": "torchvision:resnet18"}, 3, 64, 64),
    "resnet18, 32x32": ({"name": "torchvision:resnet18"}, 3, 32, 64),
    "mobilenet_v3_small": ({"name": "torchvision:mobilenet_v3_small"}, 3, 64, 16),
    "squeezenet1_1": ({"name": "torchvision:squeezenet1_1"}, 3, 64, 32),
    "vgg11, 32x32": ({"name": "torchvision:vgg11"}, 3, 32, 32),
    "alexnet": ({"name": "torchvision:alexnet"}, 3, 64, 32),
    "alexnet, batch 128": ({"name": "torchvision:alexnet"}, 3, 64, 128),
}
PRECISIONS = ("fp32", "fp16", "int8", "int4")
PRUNED, UPDATES = 0.75, 2


def matrix_rate(size: int = 1024, rounds: int = 7) -> float:
    """Multiplications a second of one thread in a product of FP32 matrices."""
    one, other = torch.rand(size, size), torch.rand(size, size)
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - begun)
    return size**3 / min(times)


def networks_of(settings: dict, channels: int, side: int, split: Split):
    """(share of pruned maps, FP32 network)."""
    dense = NetworkSpec(settings, channels, side, 10, (0.5,) * channels, (0.3,) * channels).build()
    yield 0.0, dense
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of maps that stay
        yield (
            PRUNED,
            qprune.prune(
                dense, split.images, split.labels, PRUNED, updates=3, step=0.5, batch_size=8, criterion="weight_norm"
            ),
        )


@dataclass
class Case:
    """A network at a precision, and a minibatch of its images. macs, values_per_weight: of an image, the latter
    in the dense network; place: what names it in a table."""

    place: dict
    network: nn.Module
    split: Split
    macs: int
    values_per_weight: float

    def updates(self, count: int, channels_last: bool) -> Callable[[], None]:
        """Makes so many of them."""
        recipe = Recipe(batch_size=len(self.split.labels), channels_last=channels_last)

        def make() -> None:
            train(self.network, self.split, recipe, range(count), constant(1e-5), 0)

        return make


def cases(names: Iterable[str], precisions: Iterable[str]) -> Iterator[Case]:
    """Of these networks, dense and pruned, at these precisions."""
    for name in names:
        settings, channels, side, batch = NETWORKS[name]
        torch.manual_seed(0)
        split = Split(torch.randint(0, 256, (batch, channels, side, side), dtype=torch.uint8), torch.arange(batch) % 10)
        values_per_weight = 0.0
        for pruned, network in networks_of(settings, channels, side, split):
            cost = qprune.count_cost(network, (channels, side, side))
            values_per_weight = values_per_weight if pruned else cost.values_per_weight  # the dense one is first
            for precision in precisions:
                prepared = get_precision(precision).prepare(network, split.images[:64].float() / 255)
                place = {"network": name, "pruned": pruned, "precision": precision, "batch": batch}
                yield Case(place, prepared, split, cost.macs, values_per_weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = []
    for case in cases(NETWORKS, PRECISIONS):
        seconds = interleaved(
            {"contiguous": case.updates(UPDATES, False), "channels_last": case.updates(UPDATES, True)}, rounds
        )
        median, least, largest = ratio(seconds, "channels_last", "contiguous")
        rate = matrix_rate()  # here, for a shared machine's speed changes
        best = min(min(times) for times in seconds.values()) / UPDATES
        rows.append({
            **case.place, "macs_of_an_image": case.macs,
            "values_per_weight": round(case.values_per_weight * case.place["batch"], 2),
            "ms": round(1000 * min(seconds["contiguous"]) / UPDATES, 2), "ratio_median": round(median, 3),
            "ratio_min": round(least, 3), "ratio_max": round(largest, 3),
            "rate": round(3 * case.macs * len(case.split.labels) / best / rate, 3), "rounds": rounds,
        })  # fmt: skip
        print(rows[-1], flush=True)
    write("memory_format", rows)


if __name__ == "__main__":
    main()
