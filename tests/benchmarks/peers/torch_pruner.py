"""Torch-Pruning's pruner, then Brevitas' own layers, chained as their users do.

Torch-Pruning (Fang et al., CVPR 2023): GroupTaylorImportance (|w * dC/dw|) from a few minibatches, global, iterative: score,
remove, fine-tune. Its path starts from the sweep's dense network and has the sweep's removals and updates; what it
scores with are passes beside the updates (`scoring_passes`), for they change no weight. Then F updates in FP32, and Q at
Brevitas' stock formats. So pruner and quantiser both differ from qprune's; in FP32 only the pruner does.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch_pruning as pruning
from torch import fx, nn
from torch.nn import functional as F

from qprune.data import Dataset
from qprune.methods import Made, Maker
from qprune.pruning.shrink import layer_widths
from qprune.recipe import constant, seed_of
from qprune.stages import Phase, Stage
from qprune.stages.base import Result, TrainingStage, stage_input
from qprune.stages.work import Work, recipe_of
from qprune.training import minibatch, train

PRECISIONS = {"fp32": "fp32", "int8": "brevitas_w8a8", "int4": "brevitas_w4a4"}  # the sweep's -> what its users have
RATIOS = (0.0, 0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92)  # shares of maps: about an octave of cost apart
MAX_SCORED = 10  # minibatches before each removal, or as many as qprune scores from, if those are fewer


@dataclass(frozen=True, kw_only=True)
class TorchPrune(TrainingStage):
    """The path from one ratio to the next: removals start + 1 to stop of `removals`, which lead to the share `until`.

    source: the dense network, or the path as far as `start`; maps: of the dense network; between: updates after each.
    """

    kind = "torch_pruning"
    version = 1

    source: str = stage_input()
    start: int
    stop: int
    removals: int
    until: float
    maps: int
    between: int
    lr: float

    @property
    def continues(self) -> str:
        return self.source

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("prune", (self.stop - self.start) * self.between),)

    @property
    def scored(self) -> int:
        """The minibatches scored before each removal."""
        return min(self.between, MAX_SCORED)

    def compute(self, work: Work) -> Result:
        data, (spec, network) = work.data(self), work.load_fp32(self.source)
        pruner = self._pruner(network, data)
        recipe, counter = recipe_of(self, data), work.partial.counter("prune", self.start * self.between)
        for step in range(self.start, self.stop):
            self._gather_gradients(network, data, step)
            pruner.step()
            burst = range(step * self.between, (step + 1) * self.between)
            train(network, data.train, recipe, burst, constant(self.lr), seed_of(self.seed, "prune"), on_update=counter)
        spec = dataclasses.replace(spec, widths=layer_widths(network))
        return {"network": spec.to_json(), "achieved_ratio": 1 - maps_of(network) / self.maps}, network.state_dict()

    def _pruner(self, network: fx.GraphModule, data: Dataset):
        """The same share of all maps goes at each of its steps, those before `start` among them."""
        pruner = pruning.pruner.BasePruner(
            network,
            data.train.images[:1].float() / 255,
            importance=pruning.importance.GroupTaylorImportance(),
            global_pruning=True,
            pruning_ratio=self.until,
            iterative_steps=self.removals,
            ignored_layers=[[module for module in network.modules() if isinstance(module, nn.Linear)][-1]],
            # NOTE its defaults are one dict for all pruners of a process
            in_channel_groups={}, out_channel_groups={}, num_heads={}, channel_groups={},
        )  # fmt: skip
        # NOTE all that it knows of its earlier steps: of how many maps a step takes its share
        pruner.current_step, pruner._scope_initial_channels = self.start, {"DEFAULT_SCOPE": self.maps}
        return pruner

    def _gather_gradients(self, network: fx.GraphModule, data: Dataset, step: int) -> None:
        """Accumulate the gradients that Torch-Pruning scores by, in eval mode."""
        network.eval()
        network.zero_grad()
        for number in range(self.scored):
            images, labels = minibatch(
                data.train, recipe_of(self, data), seed_of(self.seed, "torch_pruning scores", step), number
            )
            F.cross_entropy(network(images), labels).backward()


def maps_of(network: nn.Module) -> int:
    """The output maps of all convolutions."""
    return sum(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))


def torch_pruning(maker: Maker) -> Iterator[Made]:
    """dense -> torch_pruning -> finetune -> quantize -> evaluate, for each ratio and precision."""
    dense = maker.dense()
    for ratio in maker.config.prune.ratios:
        shrunk = pruned(maker, ratio)
        for precision in map(PRECISIONS.__getitem__, maker.config.precisions):
            quantized = maker.quantized(shrunk[-1], precision, ratio)
            yield Made(precision, ratio, (dense, *shrunk, quantized, maker.evaluated(quantized, precision, ratio)))


def pruned(maker: Maker, ratio: float) -> tuple[Stage, ...]:
    """The stages that prune and fine-tune the dense network."""
    prune, spending, source, start = maker.config.prune, maker.spending, maker.dense(), 0
    removals, path = spending.prune // spending.updates_between, ()
    for each in sorted(prune.ratios):
        stop = round(each / prune.until * removals)
        if each > ratio or stop == start:
            continue
        source = maker.add(
            TorchPrune(
                **maker.common, recipe=maker.recipe, source=source.id, start=start, stop=stop, removals=removals,
                until=prune.until, maps=maps_of(maker.facts.spec.build()), between=spending.updates_between, lr=prune.lr,
                label=f"prune {maker.title}, Torch-Pruning to {each:.2f}",
            )
        )  # fmt: skip
        path, start = (source,), stop
    label = f"fine-tune {maker.title}, Torch-Pruning, ratio {ratio:.2f}"
    return (*path, maker.finetuned(source, start * spending.updates_between, label))
