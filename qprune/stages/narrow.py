"""A narrower network from random weights: what pruning has to be better than."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.recipe import Rate, seed_of
from qprune.registry.choice import Choice
from qprune.registry.identity import aside
from qprune.stages.base import Cut, Phase, Result, TrainingStage, stage_input

if TYPE_CHECKING:
    from torch import Tensor, fx

    from qprune.pruning.gated import GatedNetwork
    from qprune.stages.work import Work


@dataclass(frozen=True)
class Uniform:
    """The same share of maps less in every layer; min_channels, round_to: what a layer keeps."""

    ratio: float
    min_channels: int
    round_to: int


@dataclass(frozen=True, kw_only=True)
class Narrow(TrainingStage):
    """The model with fewer maps in its layers, from random weights, for `budget` updates at lr, which goes as `rate` says.

    uniform: what every layer lacks; or shape: the snapshot of a path whose widths it has.
    """

    kind = "narrow"
    version = 1

    model: Choice = aside()  # the fingerprint names it
    model_fingerprint: str
    budget: int
    lr: float
    rate: Rate
    cut: Cut
    uniform: Uniform | None
    shape: str | None = stage_input()

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("dense", self.budget),)

    def compute(self, work: Work) -> Result:
        import torch

        from qprune.pruning.gated import GatedNetwork
        from qprune.pruning.shrink import layer_widths
        from qprune.stages.work import dense_spec, recipe_of

        data = work.data(self)
        spec = dense_spec(self.model, data)
        torch.manual_seed(seed_of(self.seed, "initial weights"))
        gated = GatedNetwork(spec.build(), spec.image_shape, self.cut.linear, self.cut.ignore)
        gated.mask(self._alive(gated, work))
        network = narrowed(gated).to(work.device)
        updates, rate = range(self.budget), self.rate.over(self.lr, self.budget)
        seed, recipe = seed_of(self.seed, "dense"), recipe_of(self, data)
        work.partial.train("dense", network, data.train, recipe, updates, rate, seed)
        spec = dataclasses.replace(spec, widths=layer_widths(network))
        return {"network": spec.to_json(), "achieved_ratio": gated.pruned}, network.eval().state_dict()

    def _alive(self, gated: GatedNetwork, work: Work) -> Tensor:
        from qprune.pruning.uniform import uniform_alive

        if self.shape is not None:
            return work.store.tensors(self.shape)["path/alive"]
        assert self.uniform is not None
        return uniform_alive(gated.groups, self.uniform.ratio, self.uniform.min_channels, self.uniform.round_to)


def narrowed(gated: GatedNetwork) -> fx.GraphModule:
    """The smaller network of a gated one that has never been trained, its weights as large as its own width asks for.

    A layer's weights were drawn for as many inputs as it had. They are multiplied by sqrt(inputs before / inputs now), so
    that the variance of a sum over them is what it was (He et al., ICCV 2015, Eq. 10). Frozen ones stay as they are.
    """
    import torch
    from torch import nn

    network = gated.shrink()
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.requires_grad:
            wide = gated.network.get_submodule(name)
            assert isinstance(wide, (nn.Conv2d, nn.Linear))
            with torch.no_grad():
                module.weight.mul_((wide.weight[0].numel() / module.weight[0].numel()) ** 0.5)
    return network
