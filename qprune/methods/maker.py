"""The stages of one model, data set, criterion and seed, as a sweep's settings make them: what methods are put together of."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypedDict, TypeVar

from qprune.data import check_data
from qprune.methods.facts import blame, facts_of
from qprune.networks import check_model
from qprune.precision import get_precision
from qprune.pruning.criteria import criterion_label
from qprune.pruning.normalizations import as_chosen
from qprune.pruning.path import Walk
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig
from qprune.stages import Cut, NumberFormat, Stage
from qprune.stages.choose_lambda import ChooseLambda
from qprune.stages.dense import Dense
from qprune.stages.evaluate import Evaluate
from qprune.stages.finetune import Finetune
from qprune.stages.fold import FOLDS, Fold
from qprune.stages.prune import Prune
from qprune.stages.quantize import Distillation, Quantize
from qprune.stages.quantize_dense import QuantizeDense
from qprune.stages.work import data_fingerprint_of, file_hash, model_fingerprint_of
from qprune.training import Recipe, updates_per_epoch

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
    them; the last one is its evaluation, and each kind is there at most once. width: times the channels of the sweep's
    model, where that is an axis of the method."""

    precision: str
    ratio: float
    stages: tuple[Stage, ...]
    width: float | None = None


class Maker:
    """Makes stages, and keeps all that it has made in `stages`, each after its inputs."""

    def __init__(
        self, config: SweepConfig, model: Choice, data: Choice, criterion: Choice, seed: int, stages: dict[str, Stage]
    ):
        self.config, self.model, self.data, self.criterion, self.seed = config, model, data, criterion, seed
        self.stages = stages
        self._pruned: dict[tuple[str, float, str | None], tuple[Stage, ...]] = {}
        self._snapshots: dict[tuple[str, Walk, int], Stage] = {}
        prune, train = config.prune, config.train
        self.facts = facts_of(config, model, data)
        self.title = f"{model.name} on {data.name}, seed {seed}"
        self.recipe = Recipe(
            batch_size=train.batch_size,
            momentum=train.momentum or 0.0,
            weight_decay=train.weight_decay,
            optimizer=train.optimizer,
            math=train.math,
            channels_last=train.channels_last,
        )
        self.common: Common = {
            "data": data,
            "data_fingerprint": data_fingerprint_of(data),
            "seed": seed,
            "trust": config.user_code,
        }
        self.cut = Cut(prune.linear, tuple(prune.ignore))
        per_step = prune.channels_per_step.channels(self.facts.maps)
        self.walk = Walk(
            per_step,
            prune.updates_between,
            prune.lr,
            prune.min_channels,
            prune.round_to,
            as_chosen(prune.normalize.settings),
            prune.max_layer_ratio,
        )
        self.schedule = self.walk.schedule(self.facts.maps)
        self.path_updates = self.schedule.updates_to(prune.until)
        self.dense_updates, self.finetune_updates, self.quantize_updates = (
            self._updates(budget) for budget in (train, config.finetune, config.quantize)
        )

    @property
    def total_updates(self) -> int:
        """N + P + F + Q: what every cell's network has had."""
        return self.dense_updates + self.path_updates + self.finetune_updates + self.quantize_updates

    def grid(self) -> Iterator[tuple[str, float]]:
        """Every (precision, ratio) that the sweep asks for."""
        return itertools.product(self.config.precisions, self.config.prune.ratios)

    def add(self, stage: AnyStage) -> AnyStage:
        """The stage, or the one of its name that is there already."""
        known = self.stages.setdefault(stage.id, stage)
        assert isinstance(known, type(stage)) and known.phases == stage.phases, stage.label
        return known

    # Stages

    def dense(self, updates: int | None = None, width: float | None = None) -> Dense:
        """Dense training; updates: another number of them than N; width: times the model's channels."""
        train, title, model = self.config.train, f"train {self.title}", self._of_width(width)
        title = title if width is None else f"{title}, width {width:g}"
        return self._dense(
            model=model,
            data=self.data,
            seed=self.seed,
            recipe=self.recipe,
            budget=self.dense_updates if updates is None else updates,
            lr=train.lr,
            checkpoint=train.checkpoint,
            checkpoint_sha256=file_hash(train.checkpoint) if train.checkpoint else None,
            pretrained=self._pretrained(model),
            label=title if updates is None else f"{title}, one schedule",
        )

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
        if steps := self.schedule.steps_to(ratio):
            walk, earlier = self.walk, [self.schedule.steps_to(each) for each in prune.ratios]
            if prune.schedule == "one_shot":
                walk = replace(self.walk, per_step=round(ratio * self.facts.maps))
                steps, earlier = 1, []
            path = (self._snapshot(walk, steps, earlier, source.id, number_format, where),)
            walked = steps * prune.updates_between
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
                path_updates=self.path_updates,
                path_lr=self.config.prune.lr,
                budget=self.finetune_updates,
                lr=self.config.finetune.lr,
                cut=cut,
                number_format=number_format,
                label=label,
            )
        )

    def quantized(self, source: Stage, dense: Stage, precision: str, ratio: float, width: float | None = None) -> Stage:
        """The source's FP32 network at a precision. dense: the teacher, where the sweep asks for one."""
        return self.add(
            Quantize(
                **self._quantizing(source, dense, precision),
                quantization=self.config.quantize.method,
                label=f"{precision} {self.title}, {_place(ratio, width)}",
            )
        )

    def quantized_dense(self, dense: Stage, precision: str) -> Stage:
        """The dense network at a precision, to be pruned there."""
        label = f"{precision} {self.title}, dense"
        return self.add(QuantizeDense(**self._quantizing(dense, dense, precision), cut=self.cut, label=label))

    def evaluated(self, source: Stage, precision: str, ratio: float, width: float | None = None) -> Stage:
        """The evaluation of a stage's network."""
        label = f"evaluate {precision} {self.title}, {_place(ratio, width)}"
        return self.add(Evaluate(**self.common, source=source.id, label=label))

    # What these are made of

    def _updates(self, budget) -> int:
        if budget.updates is not None:
            return budget.updates
        return budget.epochs * updates_per_epoch(self.facts.images, self.config.train.batch_size)

    def _format(self, precision: str) -> NumberFormat:
        return NumberFormat(get_precision(precision).name, self.config.quantize.first_last_bits)

    def _of_width(self, width: float | None) -> Choice:
        """The model with so many times its channels. Raises UserError where it has no option `width`."""
        if width in (None, 1):
            return self.model
        settings = self.model.settings
        with blame(self.config, "model", self.config.model.index(self.model)):
            check_model(settings)  # so that what is refused below is the width
            own = settings.get("width", 1.0)
            if isinstance(own, bool) or not isinstance(own, (int, float)):
                raise UserError(f"method narrower can't take a share of the width {own!r}; it must be a number")
            narrow = {**settings, "width": own * width}
            try:
                check_model(narrow)
            except UserError as error:
                raise UserError(f"method narrower needs a model with an option `width`: {error}") from error
        return Choice.of(narrow)

    def _dense(self, model: Choice, data: Choice, **settings) -> Dense:
        return self.add(
            Dense(
                data=data,
                data_fingerprint=data_fingerprint_of(data),
                model=model,
                model_fingerprint=model_fingerprint_of(model),
                trust=self.config.user_code,
                **settings,
            )
        )

    def _pretrained(self, model: Choice) -> str | None:
        """The dense stage of the same model on the data set of `pretrain`: what a sweep on that would begin with."""
        before = self.config.pretrain
        if before is None:
            return None
        with blame(self.config, "pretrain", "data"):
            check_data(before.data.settings)
        return self._dense(
            model=model,
            data=before.data,
            seed=before.seed,
            recipe=replace(self.recipe, batch_size=before.batch_size),
            budget=before.updates,
            lr=before.lr,
            label=f"pretrain {model.name} on {before.data.name}",
        ).id

    def _quantizing(self, source: Stage, dense: Stage, precision: str) -> dict:
        distill = self.config.quantize.distill
        return self.common | {
            "recipe": self.recipe,
            "source": source.id,
            "number_format": self._format(precision),
            "budget": self.quantize_updates,
            "lr": self.config.quantize.lr,
            "teacher": dense.id if distill else None,
            "distill": Distillation() if distill else None,
        }

    def _snapshot(
        self,
        walk: Walk,
        steps: int,
        others: Iterable[int],
        source: str,
        number_format: NumberFormat | None,
        where: str,
    ) -> Stage:
        """A snapshot of one path, and the earlier ones that it goes on from. others: steps of the path's other snapshots."""
        key = (source, walk, steps)
        if key in self._snapshots:
            return self._snapshots[key]
        start = max((step for step in others if 0 < step < steps), default=0)
        before = self._snapshot(walk, start, others, source, number_format, where).id if start else source
        share = walk.schedule(self.facts.maps).removed_after(steps) / self.facts.maps
        self._snapshots[key] = self.add(
            Prune(
                **self.common,
                recipe=self.recipe,
                source=source,
                criterion=self.criterion,
                walk=walk,
                end=self.path_updates,
                cut=self.cut,
                number_format=number_format,
                chosen_lambda=self._lambda() if self.criterion.settings.get("lambda") == "cv" else None,
                before=before,
                start=start,
                step=steps,
                label=f"prune {where}, {criterion_label(self.criterion.settings)} to {share:.2f}",
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
                    pretrained=dense.pretrained,
                    cut=self.cut,
                    criterion=self.criterion,
                    walk=self.walk,
                    ratios=ratios,
                    walked=self.schedule.updates_to(ratios[-1]),
                    finetune_budget=self.finetune_updates,
                    finetune_lr=self.config.finetune.lr,
                    label=f"fold {fold} of {self.title}, for lambda",
                )
            ).id
            for fold in range(FOLDS)
        )
        label = f"choose lambda for {self.title}"
        return self.add(ChooseLambda(folds=folds, label=label, trust=self.config.user_code)).id


def _place(ratio: float, width: float | None) -> str:
    return f"ratio {ratio_text(ratio)}" if width is None else f"width {width:g}"


def ratio_text(ratio: float) -> str:
    """0.5 -> "0.50"; more digits only where they are needed, and then all, so that no two ratios look the same."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else repr(ratio)
