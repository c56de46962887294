"""Latency of vgg_small (28x28), dense and with 75% of its maps removed at random, in each precision, against dense FP32.

python tests/benchmarks/latency.py

As `qprune bench` measures it; the weights are untrained, which changes no time.
"""

import torch
from bench import write

from qprune.data import Split
from qprune.deploy.cells import DeployedCell
from qprune.deploy.latency import measure
from qprune.networks import build_model
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import select
from qprune.stages.saved import NetworkSpec

MODEL, CHANNELS, SIZE, CLASSES = {"name": "vgg_small"}, 1, 28, 10
PRECISIONS = ("fp32", "fp16", "int8", "w8a8", "w4a4")
RATIOS = (0, 0.75)
ROUNDS = 15


def main() -> None:
    torch.manual_seed(0)
    network = with_normalize(build_model(MODEL, CHANNELS, CLASSES, SIZE), (0.5,), (0.25,))
    images = torch.randint(0, 256, (64, CHANNELS, SIZE, SIZE), dtype=torch.uint8)
    test = Split(images, torch.zeros(64, dtype=torch.long))
    cells = []
    for ratio in RATIOS:
        gated = GatedNetwork(network, (CHANNELS, SIZE, SIZE))
        if ratio:
            scores = torch.rand(gated.groups.total, generator=torch.Generator().manual_seed(0))
            gated.mask(select(scores, gated.alive, gated.groups, int(ratio * gated.groups.total)))
        smaller = gated.shrink()
        for name in PRECISIONS:
            precision = get_precision(name)
            trained = precision.prepare(smaller, images[:32].float() / 255)
            spec = NetworkSpec(MODEL, CHANNELS, SIZE, CLASSES, (0.5,), (0.25,), precision=name)
            record = {"model": MODEL["name"], "data": f"{SIZE}x{SIZE}"}
            label, finished = f"vgg_small-{name}-r{ratio:.2f}", precision.finish(trained).eval()
            cells.append(DeployedCell(label, record, spec, trained.state_dict(), finished, test, ()))
    rows = measure(cells, (1, 32), 1, ROUNDS, ("torch", "onnxruntime"))
    for row in rows:
        del row["machine"]  # bench.write adds it
    write("latency", [{key: _short(value) for key, value in row.items()} for row in rows])


def _short(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
