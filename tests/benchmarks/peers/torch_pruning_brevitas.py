"""Torch-Pruning's pruner, then Brevitas' own layers, chained as their users do.

Torch-Pruning (Fang et al., CVPR 2023): GroupTaylorImportance (|w * dC/dw|) from a few minibatches, global, iterative: score,
remove, fine-tune. Its path starts from the sweep's dense network and has the sweep's removals and updates; what it
scores with are passes beside the updates (`scoring_passes`), for they change no weight. Then F updates in FP32. Brevitas: its
stock quantisers (per-channel weights, learned activation scales after its calibration_mode), 8 bits at both ends as
in qprune's w*a* formats. So pruner and quantiser both differ from qprune's; in FP32 only the pruner does.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator

import torch
import torch_pruning
from brevitas import nn as qnn
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import Int8WeightPerChannelFloat
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.data import Dataset
from qprune.networks.graph import module_of
from qprune.training import constant, cosine, minibatch, seed_of

from .common import Budget, Clock, Point, at_precision, calibration_images, last_updates, make_updates, point

PRECISIONS = ("fp32", "w8a8", "w4a4")
MAX_SCORED = 10  # minibatches before each removal, or as many as qprune scores from, if those are fewer


def names(budget: Budget, seed: int) -> list[tuple]:
    """The points of one job: (method, precision, ratio, width, seed)."""
    return [("torch_pruning", precision, ratio, None, seed) for ratio in budget.ratios for precision in PRECISIONS]


def points(budget: Budget, seed: int, wanted: Collection[tuple]) -> Iterator[Point]:
    """Walk one pruning path; at each wanted ratio recover, then train at each wanted precision."""
    data, spec = budget.load()
    clock = Clock()
    tensors, dense = budget.stage(seed, "dense")
    network = spec.load_fp32(tensors)
    shape = spec.image_shape
    pruner = make_pruner(network, shape, budget)
    maps = sum(maps_of(network))
    walked = step = passes = 0
    clock.updates = dense
    for ratio in sorted(budget.ratios):
        while step < round(ratio / budget.until * budget.removals):
            passes += gather_gradients(network, data, budget, seed_of(seed, "torch_pruning scores", step))
            pruner.step()
            burst = range(step * budget.between, (step + 1) * budget.between)
            made = make_updates(network, data, budget.recipe, burst, constant(budget.lr_path), seed_of(seed, "prune"))
            walked, step = walked + made, step + 1
            clock.updates += made
        here = [name for name in names(budget, seed) if name[2] == ratio and name in wanted]
        if not here:
            continue
        recovered, made = _recover(network, data, budget, seed, walked)
        clock.updates += made
        for name in here:
            if name[1] == "fp32":
                finished, cost, last = at_precision(recovered, "fp32", data, budget, seed)
            else:
                bits = int(name[1][1])
                finished = brevitas_network(recovered, bits, calibration_images(data, seed))
                last = last_updates(finished, data, budget, seed)
                finished.eval()
                cost = count_cost(finished, shape)
            clock.updates += last
            values = {"precision": name[1], "ratio": ratio, "seed": seed, "updates": dense + walked + made + last}
            gone = 1 - sum(maps_of(recovered)) / maps
            yield point(
                finished, cost, data, clock,
                method="torch_pruning", achieved_ratio=gone, scoring_passes=passes, **values,
            )  # fmt: skip


def make_pruner(network: fx.GraphModule, shape: tuple[int, int, int], budget: Budget):
    """Torch-Pruning's iterative pruner: the same share of all maps goes at each of its steps."""
    return torch_pruning.pruner.BasePruner(
        network,
        torch.rand(1, *shape),
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=budget.until,
        iterative_steps=budget.removals,
        ignored_layers=[last_linear(network)],
        # NOTE its defaults are one dict for all pruners of a process
        in_channel_groups={}, out_channel_groups={}, num_heads={}, channel_groups={},
    )  # fmt: skip


def last_linear(network: fx.GraphModule) -> nn.Linear:
    """The classifier."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def maps_of(network: nn.Module) -> list[int]:
    """The output maps of each convolution."""
    return [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]


def gather_gradients(network: fx.GraphModule, data: Dataset, budget: Budget, seed: int) -> int:
    """Accumulate the gradients that Torch-Pruning scores by, in eval mode; returns the number of minibatches."""
    network.eval()
    network.zero_grad()
    count = min(budget.between, MAX_SCORED)
    for number in range(count):
        images, labels = minibatch(data.train, budget.recipe, seed, number)
        F.cross_entropy(network(images), labels).backward()
    return count


def _recover(
    network: fx.GraphModule, data: Dataset, budget: Budget, seed: int, walked: int
) -> tuple[fx.GraphModule, int]:
    """A copy after the rest of P at its rate, then F decaying; and the updates made."""
    network = copy.deepcopy(network)
    rest, tuning = range(walked, budget.path), range(budget.finetune)
    made = make_updates(network, data, budget.recipe, rest, constant(budget.lr_path), seed_of(seed, "prune"))
    rate = cosine(budget.lr_finetune, budget.finetune)
    made += make_updates(network, data, budget.recipe, tuning, rate, seed_of(seed, "finetune"))
    return network, made


def brevitas_network(network: fx.GraphModule, bits: int, calibration: Tensor) -> nn.Sequential:
    """A chain of layers with weights and activations of `bits` bits (8 at both ends), calibrated, to be trained.

    network: a chain with a ReLU before every convolution but the first, in FP32; calibration: [n, c, h, w] in 0..1.
    """
    chain = [(node.target, copy.deepcopy(module_of(node))) for node in network.graph.nodes if node.op == "call_module"]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    first = True
    for name, module in chain:
        if isinstance(module, nn.Conv2d):
            if first:
                layers["quant_input"] = qnn.QuantIdentity(bit_width=8)
            layers[name] = qnn.QuantConv2d(
                module.in_channels, module.out_channels, module.kernel_size, stride=module.stride, padding=module.padding,
                bias=False, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8 if first else bits,
            )  # fmt: skip
            layers[name].weight.data.copy_(module.weight)
            first = False
        elif isinstance(module, nn.ReLU):
            layers[name] = qnn.QuantReLU(bit_width=bits)
        elif isinstance(module, nn.Linear):
            layers["quant_features"] = qnn.QuantIdentity(bit_width=8)
            layers[name] = qnn.QuantLinear(
                module.in_features, module.out_features, bias=True,
                weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8,
            )  # fmt: skip
            layers[name].load_state_dict({**layers[name].state_dict(), **module.state_dict()})
        else:
            layers[name] = module
    quantized = nn.Sequential(layers).eval()
    with torch.no_grad(), calibration_mode(quantized):
        quantized(calibration)
    return quantized
