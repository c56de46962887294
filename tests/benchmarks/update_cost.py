"""A Taylor-scored update, and an update at each precision, against a plain FP32 update: ratios of interleaved rounds.

python tests/benchmarks/update_cost.py
"""

import torch
from bench import interleaved, ratio, write

from qprune.data import load_data
from qprune.precision import get_precision
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.recipe import Recipe, constant
from qprune.registry.choice import Choice
from qprune.stages.work import dense_spec
from qprune.training import train

ROUNDS = 15
PRECISIONS = ("fp32", "fp16", "int8", "w8a8", "int4", "w2a2")


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for model, data_name, batch_size, updates in (
        ("vgg_tiny", "digits", 64, 20),
        ("vgg_small", "fashion_mnist", 128, 2),
    ):
        data = load_data({"name": data_name})
        recipe = Recipe(batch_size=batch_size, augment=data.augment)
        spec = dense_spec(Choice.of({"name": model}), data)
        torch.manual_seed(0)
        network = spec.build()
        train(network, data.train, recipe, range(10), constant(0.01), 0)

        def timed(network, scorer=None, data=data, recipe=recipe, updates=updates):
            optimizer = train(network, data.train, recipe, range(1), constant(0.001), 0, scorer=scorer)
            return lambda: train(network, data.train, recipe, range(updates), constant(0.001), 0, optimizer, scorer)

        gated = GatedNetwork(network, spec.image_shape)
        scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion("taylor"))
        actions = {"plain": timed(network), "taylor-scored": timed(gated.network, scorer)}
        calibration = data.train.images[:256].float() / 255
        for name in PRECISIONS:
            actions[name] = timed(get_precision(name).prepare(network, calibration))
        seconds = interleaved(actions, ROUNDS)
        for name in actions:
            median, least, largest = ratio(seconds, name, "plain")
            rows.append(
                {
                    "model": model,
                    "data": data_name,
                    "batch_size": batch_size,
                    "update": name,
                    "ms": round(1000 * min(seconds[name]) / updates, 2),
                    "ratio_median": round(median, 3),
                    "ratio_min": round(least, 3),
                    "ratio_max": round(largest, 3),
                    "rounds": ROUNDS,
                }
            )
    write("update_cost", rows)


if __name__ == "__main__":
    main()
