"""The pruning path: maps are scored while the network trains, and removed a few at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import Walk, walk
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.identity import added_later, aside, digest
from qprune.stages.base import Cut, NumberFormat, Phase, Result, TrainingStage, stage_input
from qprune.stages.partial import load_optimizer, optimizer_tensors
from qprune.stages.saved import NetworkSpec
from qprune.stages.work import Work, recipe_of
from qprune.training import seed_of, updates_per_epoch


@dataclass(frozen=True, kw_only=True)
class Prune(TrainingStage):
    """The walk up to one snapshot of a path, from the furthest earlier snapshot of this path that exists.

    All snapshots of a path have its hash and the number of their step in their ids. So a snapshot is named by where its
    path begins (source) and by the path's end (in updates), but neither by the other ratios nor by what it goes on from.
    step: removals until this snapshot; before: the snapshot (or the source) that it goes on from as planned, which is at
    the step `start`; number_format: under whose fake quantisation the path is walked, None: FP32; chosen_lambda: the
    stage that has chosen the criterion's lambda.
    """

    kind = "prune"
    version = 2
    networks_kept = 2  # with the optimizer's state

    source: str
    criterion: Choice
    walk: Walk
    end: int
    cut: Cut
    number_format: NumberFormat | None = added_later(None)
    before: str = stage_input(is_aside=True)
    chosen_lambda: str | None = stage_input(default=None)
    start: int = aside()
    step: int = aside()

    @cached_property
    def id(self) -> str:
        return f"{self.path}{self.step:05d}"

    @cached_property
    def path(self) -> str:
        """What the ids of all snapshots of its path begin with."""
        return f"{self.kind}-{digest(self.named_by)}-"

    @property
    def continues(self) -> str:
        return self.before

    @property
    def phases(self) -> tuple[Phase, ...]:
        precision = self.number_format.precision if self.number_format else "fp32"
        return (
            Phase("prune", (self.step - self.start) * self.walk.updates_between, precision, scored=True, whole=True),
        )

    def compute(self, work: Work) -> Result:
        data, spec = work.data(self), work.spec(self.source)
        step, done, tensors = self._furthest(work)
        gated = gated_network(spec, self.cut, self.number_format, tensors, work.device)
        recipe = recipe_of(self, data)
        recipe = recipe.in_fp32 if self.number_format else recipe
        optimizer = None
        if step:
            gated.mask(tensors["path/alive"])
            optimizer = load_optimizer(gated.network, recipe, self.walk.lr, tensors, "path/optimizer/")
        counter = work.partial.counter("prune", done)
        scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(self._criterion(work)))
        per_epoch = updates_per_epoch(len(data.train.labels), recipe.batch_size)
        stride = max(per_epoch // self.walk.updates_between, 1)  # steps of about an epoch

        def state() -> dict[str, Tensor]:
            assert optimizer is not None
            optimized = optimizer_tensors(gated.network, optimizer, "path/optimizer/")
            return {**gated.network.state_dict(), **optimized, "path/alive": gated.alive}

        while step < self.step:
            steps = range(step, min(step + stride, self.step))
            optimizer = walk(
                gated, scorer, self.walk, steps, data.train, recipe, seed_of(self.seed, "prune"), optimizer, counter
            )
            step = steps.stop
            if step < self.step:
                work.partial.save({"step": step, "done": done}, state)
        layers = [(layer.name, gated.alive[layer.start : layer.stop]) for layer in gated.groups.layers]
        report = {
            "network": spec.to_json(),
            "achieved_ratio": gated.pruned,
            "maps": gated.groups.total,
            "layers": [{"name": name, "maps": len(alive), "kept": int(alive.sum())} for name, alive in layers],
        }
        return report, state()

    def _criterion(self, work: Work) -> dict[str, Any]:
        """The criterion's settings, with the lambda that cross-validation has chosen."""
        chosen = self.chosen_lambda
        return self.criterion.settings | ({"lambda": work.store.meta(chosen)["lambda"]} if chosen else {})

    def _furthest(self, work: Work) -> tuple[int, int, dict[str, Tensor]]:
        """From where the path goes on: steps taken, updates of earlier stages, and the state. That is the furthest of the
        source, the snapshots that exist, and the unfinished work of a process that was killed."""
        reached = work.partial.saved[0]["step"] if work.partial.saved else 0
        for step in range(self.step - 1, reached, -1):
            name = f"{self.path}{step:05d}"
            if work.store.has_tensors(name):
                try:
                    found = step, work.store.meta(name)["updates"]["prune"], work.store.tensors(name)
                except UserError as error:  # another ratio's, so no start of this sweep has looked at it
                    work.note(f"{error}; not gone on from")
                    continue
                work.partial.saved = None
                return found
        if work.partial.saved:
            meta, tensors = work.partial.saved
            return meta["step"], meta["done"], tensors
        return 0, 0, work.store.tensors(self.source)


def gated_network(
    spec: NetworkSpec,
    cut: Cut,
    number_format: NumberFormat | None,
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> GatedNetwork | QuantizedGatedNetwork:
    """The gated network in an unpruned stage's tensors or a snapshot's, which also have the path's state under path/.

    In FP32, or under the fake quantisation of a number format.
    """
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("path/")}
    if number_format is None:
        return GatedNetwork(spec.load_fp32(state).to(device), spec.image_shape, cut.linear, cut.ignore)
    gated = QuantizedGatedNetwork(spec.build(), spec.image_shape, number_format.get(), None, cut.linear, cut.ignore)
    gated.network.load_state_dict(state)
    gated.network.to(device)
    return gated
