"""The sections of a sweep file: what may stand in each, and what follows from it there alone.

What follows from several sections, such as learning rates from the protocol, SweepConfig fills in (config.py).
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from qprune.settings.protocols import PROTOCOLS
from qprune.settings.types import (
    DERIVED,
    Axis,
    Bits,
    Choice,
    Count,
    CountOrZero,
    CriterionChoice,
    DataChoice,
    Derived,
    Flag,
    FlagOrAuto,
    LayerRatio,
    LearningRate,
    Momentum,
    Normalization,
    OneOfItsWords,
    Ratio,
    Seed,
    Step,
    Text,
    WeightDecay,
    as_tuple,
    distinct,
    one_of,
    problem,
)

_WORDS = OneOfItsWords()
Optimizer = Annotated[Literal["sgd", "adamw"], _WORDS]
Schedule = Annotated[Literal["iterative", "one_shot"], _WORDS]
RatioOf = Annotated[Literal["maps", "macs", "params"], _WORDS]
Method = Annotated[Literal["qat", "ptq"], _WORDS]
Keep = Annotated[Literal["all", "front", "none"], _WORDS]
Strategy = Annotated[Literal["grid", "front"], _WORDS]
ProtocolName = Annotated[Text, BeforeValidator(lambda name: one_of("protocol", list(PROTOCOLS)).func(name))]
Equal = Annotated[Literal["updates", "flops"], _WORDS]
Shuffle = Annotated[Literal["auto", "full", "windowed"], _WORDS]
Math = Annotated[Literal["fp32", "tf32", "bf16"], _WORDS]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def _fill(self, **values: Any) -> None:
        """Fills in what follows from other settings; only while validating, so frozen holds for everyone else."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


class _Budget(Section):
    """How long something trains: epochs or updates, not both."""

    default_epochs: ClassVar[int]

    epochs: CountOrZero | None = None
    updates: CountOrZero | None = None

    @model_validator(mode="after")
    def _settle_budget(self):
        if self.epochs is not None and self.updates is not None:
            both = f"epochs ({self.epochs}) and updates ({self.updates})"
            raise problem(f"{both} are both given; leave one out or set it to null", ("updates",))
        return self

    @property
    def given(self) -> str | None:
        """The key that says how long; None: neither does."""
        return next((key for key in ("epochs", "updates") if getattr(self, key) is not None), None)

    def in_updates(self, per_epoch: int) -> int:
        """The budget in updates, of which an epoch has per_epoch."""
        if self.updates is not None:
            return self.updates
        assert self.epochs is not None
        return self.epochs * per_epoch


class Shares(Section):
    """Parts of the budget; what they leave is fine-tuning's. None: the protocol's."""

    dense: Derived[Ratio] = DERIVED
    prune: Derived[Ratio] = DERIVED
    quantize: Derived[Ratio] = DERIVED

    @model_validator(mode="after")
    def _settle(self):
        if sum(share or 0.0 for share in (self.dense, self.prune, self.quantize)) >= 1:
            raise problem("the shares leave nothing for fine-tuning; together they must be below 1", ("dense",))
        return self


class Budget(_Budget):
    """All updates of a cell, and how they are shared out: N + P + F + Q."""

    default_epochs = 24

    epochs: Count | None = None
    updates: Count | None = None
    shares: Shares = Shares()

    @model_validator(mode="after")
    def _settle(self):
        if self.given is None:
            self._fill(epochs=self.default_epochs)
        return self


class Train(_Budget):
    """N: the dense network. With a checkpoint, updates is what that network has had, and nothing is trained."""

    default_epochs = 15

    epochs: Count | None = None
    updates: Count | None = None
    batch_size: Count = 64
    lr: Derived[LearningRate] = DERIVED  # 0.05 for sgd; adamw must be given one
    momentum: Momentum | None = None  # None: 0.9 for sgd; adamw has none
    weight_decay: WeightDecay = 5e-4
    optimizer: Optimizer = "sgd"
    math: Math = "fp32"  # of all FP32 stages; a stage at a cell's precision trains in FP32, and evaluations are in FP32
    channels_last: FlagOrAuto = "auto"  # memory format; auto: by network and batch, see qprune.recipe
    shuffle: Shuffle = "auto"  # of an epoch: windowed from 4 GiB of training images on, which are read in runs
    checkpoint: Text | None = None
    scratch_baseline: Flag = False  # also: the dense network trained for N + P + F + Q updates under one schedule

    @model_validator(mode="after")
    def _settle(self):
        if self.checkpoint is not None:
            if self.epochs is not None:
                text = "epochs can't go with checkpoint; give `updates: N`, the updates that this network has had"
                raise problem(text, ("epochs",))
            if self.scratch_baseline:
                raise problem("with a checkpoint, the network can't be trained from scratch", ("scratch_baseline",))
            if not _is_file(self.checkpoint):
                raise problem(f"no such file {self.checkpoint!r} (from {Path.cwd()})", ("checkpoint",))
        if self.optimizer == "sgd":
            self._fill(lr=0.05, momentum=0.9)
        elif self.lr is None:
            text = "adamw needs an lr of its own (sgd's default of 0.05 is far too high): give train.lr, such as 0.001"
            raise problem(text, ("optimizer",))
        elif self.momentum is not None:
            raise problem("adamw has no momentum; leave it out", ("momentum",))
        return self


class Pretrain(Section):
    """Training on another data set before N: one network, from one seed, for all seeds. Its last layer is left behind."""

    data: DataChoice
    updates: Count
    batch_size: Derived[Count] = DERIVED  # train.batch_size
    lr: Derived[LearningRate] = DERIVED  # train.lr; decays to its end
    seed: Seed = 0


class Prune(Section):
    """P: the pruning path, from the dense network to the ratio until."""

    criterion: Axis[CriterionChoice] = (Choice("taylor", '{"name": "taylor"}'),)
    ratios: Axis[Ratio] = (0.0, 0.25, 0.5, 0.75, 0.9)  # share of `of` removed
    of: RatioOf = "maps"  # all prunable feature maps, or the network's MACs or parameters
    channels_per_step: Derived[Step] = DERIVED  # 2%; 1% where the phases have budgets of their own
    updates_between: Count | None = None  # 5; what fits the share of P under `budget`
    schedule: Schedule = "iterative"  # one_shot: all maps at once, after updates_between updates
    normalize: Derived[Normalization] = DERIVED  # how layers compete: pruning/normalizations.py; the protocol's
    until: Derived[Ratio] = DERIVED  # share of maps: the largest of ratios; 0.95 where those are of something else
    lr: Derived[LearningRate] = DERIVED  # the protocol's part of train.lr; constant along the path
    linear: Flag = False  # also hidden units of linear layers
    min_channels: Count = 1  # per layer
    max_layer_ratio: LayerRatio | None = None  # share of one layer's maps that may be lost; None: any
    round_to: Count = 1  # a layer's maps are kept to multiples of this
    ignore: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), AfterValidator(distinct)] = ()  # layer names

    @model_validator(mode="after")
    def _settle(self):
        largest = max(self.ratios)
        self._fill(until=largest if self.of == "maps" or not largest else 0.95)
        if self.of != "maps" and self.schedule == "one_shot":
            text = f"one_shot removes a share of the maps; leave of: {self.of} out, or schedule: one_shot"
            raise problem(text, ("schedule",))
        if self.of != "maps" and largest and not self.until:
            raise problem("a path that ends at 0 removes nothing; raise until or leave it out", ("until",))
        if self.of == "maps" and largest > self.until:
            at = ("ratios", self.ratios.index(largest))
            raise problem(f"{largest} is above prune.until, {self.until}; raise until or leave the ratio out", at)
        return self


class Finetune(_Budget):
    """F: after pruning, in FP32."""

    default_epochs = 4

    lr: Derived[LearningRate] = DERIVED  # the protocol's part of train.lr; decays to 0


class Quantize(_Budget):
    """Q: at the cell's precision."""

    default_epochs = 2

    lr: Derived[LearningRate] = DERIVED  # the protocol's part of train.lr; decays to 0
    distill: Flag = False  # the dense FP32 network of the same seed teaches these updates, in all precisions
    method: Method = "qat"  # ptq: the Q updates are made in FP32, then scales from calibration images
    first_last_bits: Bits | None = 8  # None: as the layers between


class Rank(Section):
    """What qprune rank measures of the dense networks. It trains no cell, and enters none."""

    criteria: Axis[CriterionChoice] | None = None  # None: all that work on the network
    images: Count | None = None  # training images that scores are gathered from; None: all
    oracle_images: Count = 1000  # training images on which each map is switched off
    shares: Axis[Ratio] = (0.1, 0.25, 0.5)  # of all prunable maps, above 0, removed by Taylor and by activation
    finetune_updates: CountOrZero = 100  # after each removal, at finetune.lr

    @model_validator(mode="after")
    def _settle(self):
        if 0 in self.shares:
            raise problem("a share of 0 removes nothing; give shares above 0", ("shares", self.shares.index(0)))
        return self


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name that is too long
        return False
