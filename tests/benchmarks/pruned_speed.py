"""Images per second of networks with 75% of their maps removed at random, against dense, beside the ratio of MACs.

python tests/benchmarks/pruned_speed.py
"""

import statistics

import torch
from bench import interleaved, ratio, write

from qprune.cost import count_cost
from qprune.networks import build_model
from qprune.networks.graph import with_normalize
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import select

ROUNDS = 9
BATCH = 32


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, channels, size in (("vgg_small", 1, 28), ("vgg7", 3, 32), ("resnet20", 3, 32)):
        torch.manual_seed(0)
        network = with_normalize(build_model({"name": name}, channels, 10, size), (0.5,) * channels, (0.25,) * channels)
        gated = GatedNetwork(network, (channels, size, size))
        scores = torch.rand(gated.groups.total, generator=torch.Generator().manual_seed(0))
        gated.mask(select(scores, gated.alive, gated.groups, int(0.75 * gated.groups.total)))
        networks = {"dense": network.eval(), "pruned": gated.shrink().eval()}
        images = torch.rand(BATCH, channels, size, size)
        with torch.no_grad():
            seconds = interleaved({key: (lambda one=one: one(images)) for key, one in networks.items()}, ROUNDS)
        macs = {key: count_cost(one, (channels, size, size)).macs for key, one in networks.items()}
        median, least, largest = ratio(seconds, "dense", "pruned")
        rows.append(
            {
                "model": name,
                "pruned_maps": f"{int(0.75 * gated.groups.total)}/{gated.groups.total}",
                "images_per_second_dense": round(BATCH / statistics.median(seconds["dense"])),
                "images_per_second_pruned": round(BATCH / statistics.median(seconds["pruned"])),
                "speedup_median": round(median, 2),
                "speedup_min": round(least, 2),
                "speedup_max": round(largest, 2),
                "macs_ratio": round(macs["dense"] / macs["pruned"], 2),
                "rounds": ROUNDS,
            }
        )
    write("pruned_speed", rows)


if __name__ == "__main__":
    main()
