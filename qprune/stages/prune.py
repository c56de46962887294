"""The pruning path: maps are scored while the network trains, and removed a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qprune.pruning.criteria import get_criterion
from qprune.pruning.schedule import Walk
from qprune.recipe import seed_of, updates_per_epoch
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.identity import added_later, aside, digest
from qprune.stages.base import Cut, NumberFormat, Phase, Result, TrainingStage, stage_input
from qprune.stages.saved import NetworkSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qprune.pruning.gated import GatedNetwork
    from qprune.pruning.groups import ChannelGroups
    from qprune.pruning.quantized import QuantizedGatedNetwork
    from qprune.pruning.sizes import Sizes
    from qprune.stages.work import Work


@dataclass(frozen=True)
class Goal:
    """Where a snapshot of a path is: after `step` removals, or, with a target, after the first one with which this share of
    the network's MACs or parameters (`of`) is gone; then step is what is planned for."""

    step: int
    of: str = "maps"
    target: float | None = None

    @property
    def place(self) -> float:
        """What snapshots of one kind are ordered by along their path."""
        return self.step if self.target is None else self.target

    def __str__(self) -> str:
        return f"{self.step:05d}" if self.target is None else f"{self.of}{self.target!r}"


@dataclass(frozen=True, kw_only=True)
class Prune(TrainingStage):
    """The walk up to one snapshot of a path, from the furthest earlier snapshot of this path that exists.

    All snapshots of a path have its hash and their goal in their ids: the number of their step, or their target. So a
    snapshot is named by where its path begins (source) and by the path's end (in updates), but neither by the other ratios
    nor by what it goes on from. goal: where it is; before: the snapshot (or the source) that it goes on from as planned,
    which is at the step `start`; number_format: under whose fake quantisation the path is walked, None: FP32;
    chosen_lambda: the stage that has chosen the criterion's lambda.
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
    goal: Goal = aside()

    @cached_property
    def id(self) -> str:
        return f"{self.path}{self.goal}"

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
        updates = (self.goal.step - self.start) * self.walk.updates_between
        return (Phase("prune", updates, precision, scored=True, whole=True),)

    def compute(self, work: Work) -> Result:
        from qprune.pruning.path import walk
        from qprune.pruning.scoring import Scorer
        from qprune.stages.partial import load_optimizer, optimizer_tensors
        from qprune.stages.work import recipe_of

        data, spec = work.data(self), work.spec(self.source)
        sizes = sizes_of(spec, self.cut) if self.goal.target is not None else None
        step, done, tensors = self._furthest(work, sizes)
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

        saved = step
        while not self._reached(step, gated.alive, sizes):
            self._check_end(step, gated, sizes)
            steps = range(step, step + 1)
            optimizer = walk(
                gated, scorer, self.walk, steps, data.train, recipe, seed_of(self.seed, "prune"), optimizer, counter
            )
            step = steps.stop
            if step - saved >= stride and not self._reached(step, gated.alive, sizes):
                work.partial.save({"step": step, "done": done}, state)
                saved = step
        layers = [(layer.name, gated.alive[layer.start : layer.stop]) for layer in gated.groups.layers]
        report = {
            "network": spec.to_json(),
            "achieved_ratio": gated.pruned,
            "maps": gated.groups.total,
            "layers": [{"name": name, "maps": len(alive), "kept": int(alive.sum())} for name, alive in layers],
        }
        if sizes is not None:
            of, target = self.goal.of, self.goal.target
            report |= {"step": step, "of": of, "target": target, "lost": sizes.lost(of, gated.alive)}
        return report, state()

    def _reached(self, step: int, alive: Tensor, sizes: Sizes | None) -> bool:
        """Whether the network at a step of the path is the snapshot."""
        if sizes is None or self.goal.target is None:
            return step >= self.goal.step
        return sizes.lost(self.goal.of, alive) >= self.goal.target - 1e-12

    def _check_end(self, step: int, gated: GatedNetwork | QuantizedGatedNetwork, sizes: Sizes | None) -> None:
        """Raises UserError where the path has ended before its target."""
        of, target = self.goal.of, self.goal.target
        if sizes is not None and step >= self.end // self.walk.updates_between:
            raise UserError(
                f"{target} of the {of} can't be removed: at the end of the pruning path, where {gated.pruned:.3f} of the "
                f"maps are gone, {sizes.lost(of, gated.alive):.3f} of the {of} are; leave this ratio out, or raise "
                "prune.until, which is a share of the maps"
            )

    def _criterion(self, work: Work) -> dict[str, Any]:
        """The criterion's settings, with the lambda that cross-validation has chosen."""
        chosen = self.chosen_lambda
        return self.criterion.settings | ({"lambda": work.store.meta(chosen)["lambda"]} if chosen else {})

    def _furthest(self, work: Work, sizes: Sizes | None) -> tuple[int, int, dict[str, Tensor]]:
        """From where the path goes on: steps taken, updates of earlier stages, and the state. That is the furthest of the
        source, the snapshots that exist, and the unfinished work of a process that was killed."""
        reached = work.partial.saved[0]["step"] if work.partial.saved else 0
        found = []
        for name in work.store.with_tensors(self.path):
            with self._noting(work):
                meta = work.store.meta(name)
                step = meta["step"] if "step" in meta else int(name.removeprefix(self.path))
                if name != self.id and step > reached and self._comes_before(step, meta, sizes):
                    found.append((step, name))
        for step, name in sorted(found, reverse=True):
            with self._noting(work):
                tensors = work.store.tensors(name)
                work.partial.saved = None
                return step, work.store.meta(name)["updates"]["prune"], tensors
        if work.partial.saved:
            meta, tensors = work.partial.saved
            return meta["step"], meta["done"], tensors
        return 0, 0, work.store.tensors(self.source)

    def _comes_before(self, step: int, meta: dict[str, Any], sizes: Sizes | None) -> bool:
        """Whether another snapshot of the path, of which this is the report, isn't past this one."""
        if sizes is None or self.goal.target is None:
            return step <= self.goal.step
        if meta.get("of") == self.goal.of and meta["target"] < self.goal.target:
            return True  # even if it has lost as much: with one step less it hadn't lost its own, which is less
        return sizes.lost(self.goal.of, _first_maps(sizes.groups, meta["layers"])) < self.goal.target - 1e-12

    @contextmanager
    def _noting(self, work: Work) -> Iterator[None]:
        """Passes over a snapshot that is damaged: another sweep's, so no start of this one has looked at it."""
        try:
            yield
        except UserError as error:
            work.note(f"{error}; not gone on from")


def sizes_of(spec: NetworkSpec, cut: Cut) -> Sizes:
    """What an unpruned network has, whichever of its maps are gone."""
    from qprune.pruning.groups import find_groups
    from qprune.pruning.sizes import Sizes

    network = spec.build()
    return Sizes.of(network, find_groups(network, spec.image_shape, cut.linear, cut.ignore), spec.image_shape)


def _first_maps(groups: ChannelGroups, layers: list[dict[str, Any]]) -> Tensor:
    """A mask that leaves each layer as many maps as a snapshot's report says, bool [total]: all that sizes depend on."""
    import torch

    alive = torch.zeros(groups.total, dtype=torch.bool)
    for layer, kept in zip(groups.layers, layers, strict=True):
        alive[layer.start : layer.start + kept["kept"]] = True
    return alive


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
    from qprune.pruning.gated import GatedNetwork
    from qprune.pruning.quantized import QuantizedGatedNetwork

    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("path/")}
    if number_format is None:
        return GatedNetwork(spec.load_fp32(state).to(device), spec.image_shape, cut.linear, cut.ignore)
    gated = QuantizedGatedNetwork(spec.build(), spec.image_shape, number_format.get(), None, cut.linear, cut.ignore)
    gated.network.load_state_dict(state)
    gated.network.to(device)
    return gated
