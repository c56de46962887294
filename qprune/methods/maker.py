"""The stages of one model, data set, criterion and seed, as a sweep's settings make them: what methods are put together of."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict, TypeVar

from qprune.data import check_data, shown_name
from qprune.methods.facts import blame, facts_of, gather_facts
from qprune.methods.recipes import recipe_of
from qprune.methods.spending import spend
from qprune.precision import get_precision
from qprune.pruning.criteria import criterion_label
from qprune.pruning.normalizations import as_chosen
from qprune.pruning.schedule import Walk
from qprune.recipe import COSINE, Rate
from qprune.registry.choice import Choice
from qprune.settings.config import SweepConfig
from qprune.settings.protocols import PROTOCOLS
from qprune.stages import Cut, NumberFormat, Stage
from qprune.stages.choose_lambda import ChooseLambda
from qprune.stages.dense import Dense
from qprune.stages.evaluate import Evaluate
from qprune.stages.finetune import Finetune
from qprune.stages.fingerprints import data_fingerprint_of, file_hash, model_fingerprint_of
from qprune.stages.fold import FOLDS, Fold
from qprune.stages.narrow import Narrow, Uniform
from qprune.stages.prune import Goal, Prune
from qprune.stages.quantize import Distillation, Quantize
from qprune.stages.quantize_dense import QuantizeDense

MOST_UPDATES = 4  # times those of a cell, of a baseline of equal training FLOPs
AnyStage = TypeVar("AnyStage", bound=Stage)


class Common(TypedDict):
    """The settings of all stages that read a sweep's data."""

    data: Choice
    data_fingerprint: str
    seed: int
    trust: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """A cell as a method makes it: its place in the grid, and its stages in the order in which its network goes through
    them; the last one is its evaluation, and each kind is there at most once. equal: what it has as much of as the pruned
    cells, "updates" or training "flops"; cap: times their updates, where equal FLOPs would have been more than that."""

    precision: str
    ratio: float
    stages: tuple[Stage, ...]
    equal: str = "updates"
    cap: float | None = None


class Maker:
    """Makes stages, and keeps all that it has made in `stages`, each after its inputs."""

    def __init__(
        self, config: SweepConfig, model: Choice, data: Choice, criterion: Choice, seed: int, stages: dict[str, Stage]
    ):
        self.config, self.model, self.data, self.criterion, self.seed = config, model, data, criterion, seed
        self.stages = stages
        self._pruned: dict[tuple[str, float, str | None], tuple[Stage, ...]] = {}
        self._snapshots: dict[tuple[str, Walk, Goal], Stage] = {}
        prune = config.prune
        self.facts = facts_of(config, model, data)
        self.title = f"{model.name} on {shown_name(data.settings)}, seed {seed}"
        self.recipe = recipe_of(config, data, self.facts)
        self.common: Common = {
            "data": data,
            "data_fingerprint": data_fingerprint_of(data),
            "seed": seed,
            "trust": config.user_code,
        }
        self.cut = Cut(prune.linear, tuple(prune.ignore))
        self.spending = spend(config, self.facts)
        self.protocol = PROTOCOLS[config.protocol]
        self.walk = Walk(
            self.spending.per_step,
            self.spending.updates_between,
            prune.lr,
            prune.min_channels,
            prune.round_to,
            as_chosen(prune.normalize.settings),
            prune.max_layer_ratio,
        )
        self.schedule = self.walk.schedule(self.facts.maps)

    def grid(self) -> Iterator[tuple[str, float]]:
        """Every (precision, ratio) that the sweep asks for."""
        return itertools.product(self.config.precisions, self.config.prune.ratios)

    def add(self, stage: AnyStage) -> AnyStage:
        """The stage, or the one of its name that is there already."""
        known = self.stages.setdefault(stage.id, stage)
        assert isinstance(known, type(stage)) and known.phases == stage.phases, stage.label
        return known

    # Stages

    def dense(self, updates: int | None = None) -> Dense:
        """Dense training: N updates as the protocol has them, or another number under one schedule to its end."""
        train, title = self.config.train, f"train {self.title}"
        return self._dense(
            data=self.data,
            seed=self.seed,
            recipe=self.recipe,
            budget=self.spending.dense if updates is None else updates,
            lr=train.lr,
            rate=self._dense_rate if updates is None else COSINE,
            checkpoint=train.checkpoint,
            checkpoint_sha256=file_hash(train.checkpoint) if train.checkpoint else None,
            pretrained=self._pretrained(),
            label=title if updates is None else f"{title}, one schedule",
        )

    def narrow(self, ratio: float, equal: str = "updates", shape: Stage | None = None) -> tuple[Narrow, float | None]:
        """A narrower network from random weights, for all updates before Q; and the cap, if that made them fewer.

        ratio: share of maps, MACs or parameters that it lacks, the same share of maps in every layer; shape: a snapshot, whose widths it has instead. equal: "updates",
        or "flops" for as much training work as a network needs that is pruned to the narrower one's cost.
        """
        updates, cap = self.spending.total, None
        if equal == "flops":
            wanted = self._updates_of_equal_flops(ratio)
            updates = min(wanted, MOST_UPDATES * updates)
            cap = float(MOST_UPDATES) if updates < wanted else None
        budget, prune = updates - self.spending.quantize, self.config.prune
        lacks = self.facts.narrow_share(prune.of, ratio, prune.min_channels, prune.round_to)
        share = (self.spending.dense + self.spending.prune) / (self.spending.total - self.spending.quantize)
        rate = COSINE
        if not self.protocol.decays:  # as long at the peak as its pruned counterparts, the same part of it
            warmup = round(self.protocol.dense_warmup * self.spending.dense)
            rate = Rate(self.protocol.decay, warmup, max(round(share * budget) - warmup, 0))
        how = f"shape of {shape.label}" if shape else f"narrower, ratio {ratio_text(ratio)}"
        stage = Narrow(
            **self.common,
            model=self.model,
            model_fingerprint=model_fingerprint_of(self.model),
            recipe=self.recipe,
            budget=budget,
            lr=self.config.train.lr,
            rate=rate,
            cut=self.cut,
            uniform=None if shape else Uniform(lacks, prune.min_channels, prune.round_to),
            shape=shape.id if shape else None,
            label=f"train {self.title}, {how}{', equal FLOPs' if equal == 'flops' else ''}",
        )
        return self.add(stage), cap

    def teacher(self) -> Stage:
        """The unpruned FP32 network that teaches, where the sweep asks for one: the one whose rate has decayed."""
        dense = self.dense()
        return dense if self.protocol.decays else self.pruned(dense, 0.0)[-1]

    def pruned(self, source: Stage, ratio: float, precision: str | None = None) -> tuple[Stage, ...]:
        """The stages that prune and fine-tune the network of a stage, in FP32 or under a precision's fake quantisation."""
        key = (source.id, ratio, precision)
        if key not in self._pruned:  # all precisions share what is pruned in FP32
            self._pruned[key] = self._prune(source, ratio, precision)
        return self._pruned[key]

    def _prune(self, source: Stage, ratio: float, precision: str | None) -> tuple[Stage, ...]:
        prune, number_format = self.config.prune, self._format(precision) if precision else None
        where = f"{precision} {self.title}" if precision else self.title
        path: tuple[Stage, ...] = ()
        walked = 0
        if goal := self._goals.get(ratio):
            walk, others = self.walk, list(self._goals.values())
            if prune.schedule == "one_shot":
                walk = replace(self.walk, per_step=round(ratio * self.facts.maps))
                goal, others = Goal(1), []
            path = (self._snapshot(walk, goal, others, source.id, number_format, where),)
            walked = goal.step * self.spending.updates_between
        cut = self.cut if path or number_format else None
        label = f"fine-tune {where}, ratio {ratio_text(ratio)}"
        return (*path, self.finetuned(path[-1] if path else source, walked, label, cut, number_format))

    def finetuned(
        self,
        source: Stage,
        walked: int,
        label: str,
        cut: Cut | None = None,
        number_format: NumberFormat | None = None,
    ) -> Stage:
        """The source's network after the rest of P, of which it has had `walked`, and F."""
        return self.add(
            Finetune(
                **self.common,
                recipe=self.recipe,
                source=source.id,
                walked=walked,
                path_updates=self.spending.prune,
                path_lr=self.config.prune.lr,
                budget=self.spending.finetune,
                lr=self.config.finetune.lr,
                rate=self.finetune_rate(self.spending.finetune),
                cut=cut,
                number_format=number_format,
                label=label,
            )
        )

    def finetune_rate(self, updates: int) -> Rate:
        """The protocol's rate of fine-tuning for so many updates."""
        return Rate(self.protocol.decay, round(self.protocol.finetune_warmup * updates))

    def quantized(self, source: Stage, precision: str, ratio: float, what: str = "") -> Stage:
        """The source's FP32 network at a precision. what: for people, which of the networks of this ratio it is."""
        return self.add(
            Quantize(
                **self._quantizing(source, precision),
                lr=self.config.quantize.lr,
                rate=Rate(self.protocol.decay),
                quantization=self.config.quantize.method,
                label=f"{precision} {self.title}, {what}ratio {ratio_text(ratio)}",
            )
        )

    def quantized_dense(self, dense: Stage, precision: str) -> Stage:
        """The dense network at a precision, to be pruned there: under a protocol of one decay, it stays at the path's rate."""
        config, decays = self.config, self.protocol.decays
        return self.add(
            QuantizeDense(
                **self._quantizing(dense, precision),
                lr=config.quantize.lr if decays else config.prune.lr,
                rate=COSINE if decays else Rate("none"),
                cut=self.cut,
                label=f"{precision} {self.title}, dense",
            )
        )

    def evaluated(self, source: Stage, precision: str, ratio: float, what: str = "") -> Stage:
        """The evaluation of a stage's network. what: as for quantized."""
        label = f"evaluate {precision} {self.title}, {what}ratio {ratio_text(ratio)}"
        return self.add(Evaluate(**self.common, source=source.id, label=label))

    # What these are made of

    @property
    def _dense_rate(self) -> Rate:
        if self.protocol.decays:
            return COSINE
        return Rate("none", round(self.protocol.dense_warmup * self.spending.dense))

    def _updates_of_equal_flops(self, ratio: float) -> int:
        """Updates of the uniformly narrower network with which it has had the FLOPs of one that is pruned to its cost: the
        dense network until the snapshot, and the smaller one from there on."""
        prune, goal = self.config.prune, self._goals.get(ratio)
        walked = goal.step * self.spending.updates_between if goal else 0
        wide, before = self.facts.dense_macs, self.spending.dense + walked
        narrow = self.facts.narrow_macs(prune.of, ratio, prune.min_channels, prune.round_to)
        return round(before * wide / narrow) + self.spending.total - before

    @cached_property
    def _goals(self) -> dict[float, Goal]:
        """Ratio -> its snapshot, for those that prune. Of MACs or parameters, planned for the uniformly narrower network of
        that size; the path finds the step."""
        prune, last, goals = self.config.prune, 0, dict[float, Goal]()
        for ratio in sorted(prune.ratios):
            if prune.of == "maps":
                goal = Goal(self.schedule.steps_to(ratio))
            else:
                kept = (prune.min_channels, prune.round_to, prune.max_layer_ratio)
                share = self.facts.narrow_share(prune.of, ratio, *kept)
                last = max(last, self.schedule.steps_to(min(share, prune.until)))
                goal = Goal(last, prune.of, ratio)
            if ratio and goal.step:
                goals[ratio] = goal
        return goals

    def _format(self, precision: str) -> NumberFormat:
        return NumberFormat(get_precision(precision).name, self.config.quantize.first_last_bits)

    def _dense(self, data: Choice, **settings) -> Dense:
        return self.add(
            Dense(
                data=data,
                data_fingerprint=data_fingerprint_of(data),
                model=self.model,
                model_fingerprint=model_fingerprint_of(self.model),
                trust=self.config.user_code,
                **settings,
            )
        )

    def _pretrained(self) -> str | None:
        """The dense stage of the same model on the data set of `pretrain`: what a sweep on that would begin with."""
        before = self.config.pretrain
        if before is None:
            return None
        with blame(self.config, "pretrain", "data"):
            check_data(before.data.settings)
        facts = gather_facts(self.model, before.data, False, (), prunes=False)
        return self._dense(
            data=before.data,
            seed=before.seed,
            recipe=recipe_of(self.config, before.data, facts, before.batch_size),
            budget=before.updates,
            lr=before.lr,
            label=f"pretrain {self.model.name} on {shown_name(before.data.settings)}",
        ).id

    def _quantizing(self, source: Stage, precision: str) -> dict:
        distill = self.config.quantize.distill
        return self.common | {
            "recipe": self.recipe,
            "source": source.id,
            "number_format": self._format(precision),
            "budget": self.spending.quantize,
            "teacher": self.teacher().id if distill else None,
            "distill": Distillation() if distill else None,
        }

    def _snapshot(
        self,
        walk: Walk,
        goal: Goal,
        others: Iterable[Goal],
        source: str,
        number_format: NumberFormat | None,
        where: str,
    ) -> Stage:
        """A snapshot of one path, and the earlier ones that it goes on from. others: the path's other snapshots."""
        key = (source, walk, goal)
        if key in self._snapshots:
            return self._snapshots[key]
        start = max((each for each in others if each.place < goal.place), key=lambda each: each.place, default=None)
        before = self._snapshot(walk, start, others, source, number_format, where).id if start else source
        share = walk.schedule(self.facts.maps).removed_after(goal.step) / self.facts.maps
        told = f"{share:.2f}" if goal.target is None else f"{ratio_text(goal.target)} of the {goal.of}"
        self._snapshots[key] = self.add(
            Prune(
                **self.common,
                recipe=self.recipe,
                source=source,
                criterion=self.criterion,
                walk=walk,
                end=self.spending.prune,
                cut=self.cut,
                number_format=number_format,
                chosen_lambda=self._lambda() if self.criterion.settings.get("lambda") == "cv" else None,
                before=before,
                start=start.step if start else 0,
                goal=goal,
                label=f"prune {where}, {criterion_label(self.criterion.settings)} to {told}",
            )
        )
        return self._snapshots[key]

    def _lambda(self) -> str:
        """The choice of a criterion's lambda, from its folds; it is named by all the ratios above 0."""
        dense, ratios = self.dense(), tuple(sorted(ratio for ratio in self.config.prune.ratios if ratio))
        folds = tuple(
            self.add(
                Fold(
                    **self.common,
                    recipe=self.recipe,
                    fold=fold,
                    model=dense.model,
                    model_fingerprint=dense.model_fingerprint,
                    budget=dense.budget,
                    lr=dense.lr,
                    rate=dense.rate,
                    pretrained=dense.pretrained,
                    cut=self.cut,
                    criterion=self.criterion,
                    walk=self.walk,
                    ratios=ratios,
                    walked=self.schedule.updates_to(ratios[-1]),
                    finetune_budget=self.spending.finetune,
                    finetune_lr=self.config.finetune.lr,
                    finetune_rate=self.finetune_rate(self.spending.finetune),
                    label=f"fold {fold} of {self.title}, for lambda",
                )
            ).id
            for fold in range(FOLDS)
        )
        label = f"choose lambda for {self.title}"
        return self.add(ChooseLambda(folds=folds, label=label, trust=self.config.user_code)).id


def ratio_text(ratio: float) -> str:
    """0.5 -> "0.50"; more digits only where they are needed, and then all, so that no two ratios look the same."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else repr(ratio)
