"""The sweep file: YAML -> validated, frozen settings; an error names file, line and column.

Every axis (data, model, seeds, prune.criterion, prune.ratios, order, precisions) takes one value or a list and becomes a
tuple. Settings that follow from others (prune.until, the learning rates after the first) are filled in, so that nothing
downstream needs to know a default. Relative paths in the file are relative to the current directory, as is the
search path of `module:function`.

No torch is imported here, so that a wrong file is refused at once, but where the file names a network of torchvision's
(its list, another with each version, is in its code alone) or the user's own code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from qprune.registry.errors import UserError
from qprune.registry.show import show
from qprune.registry.user_code import is_user_code
from qprune.settings.methods import METHODS
from qprune.settings.problems import list_problems
from qprune.settings.protocols import PROTOCOLS
from qprune.settings.types import (
    DERIVED,
    Axis,
    BaselineNames,
    Bits,
    ChannelsPerStep,
    Choice,
    Count,
    CountOrZero,
    CriterionChoice,
    DataChoice,
    Derived,
    Flag,
    FolderName,
    LayerRatio,
    LearningRate,
    ModelChoice,
    Momentum,
    Normalization,
    OneOfItsWords,
    OrderName,
    PrecisionName,
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
from qprune.settings.yaml_source import override, parse, read_text

TEMPLATE = Path(__file__).with_name("template.yaml")


_WORDS = OneOfItsWords()
Optimizer = Annotated[Literal["sgd", "adamw"], _WORDS]
Schedule = Annotated[Literal["iterative", "one_shot"], _WORDS]
RatioOf = Annotated[Literal["maps", "macs", "params"], _WORDS]
Method = Annotated[Literal["qat", "ptq"], _WORDS]
Keep = Annotated[Literal["all", "front", "none"], _WORDS]
Strategy = Annotated[Literal["grid", "front"], _WORDS]
ProtocolName = Annotated[Text, BeforeValidator(lambda name: one_of("protocol", list(PROTOCOLS)).func(name))]
Equal = Annotated[Literal["updates", "flops"], _WORDS]
Math = Annotated[Literal["fp32", "tf32", "bf16"], _WORDS]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def _fill(self, **values: Any) -> None:
        """Fills in what follows from other settings; only while validating, so frozen holds for everyone else."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


class _Budget(_Settings):
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


class Shares(_Settings):
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
    channels_last: Flag = False  # memory format of convolutions: another order of the sums, often faster
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


class Pretrain(_Settings):
    """Training on another data set before N: one network, from one seed, for all seeds. Its last layer is left behind."""

    data: DataChoice
    updates: Count
    batch_size: Derived[Count] = DERIVED  # train.batch_size
    lr: Derived[LearningRate] = DERIVED  # train.lr; decays to its end
    seed: Seed = 0


class Prune(_Settings):
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


class Rank(_Settings):
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


@dataclass(frozen=True)
class Source:
    """Where a configuration came from: for the record, not part of what it is."""

    path: str
    text: str
    overrides: tuple[str, ...]


class SweepConfig(_Settings):
    """A whole sweep file. Two of them are equal when their settings are, wherever they came from."""

    name: FolderName
    data: Axis[DataChoice]
    model: Axis[ModelChoice]
    seeds: Axis[Seed] = (0, 1, 2)
    protocol: Derived[ProtocolName] = DERIVED  # restart for what has been trained before, early for what has not
    budget: Budget | None = None  # None: 24 epochs, but where phases have budgets of their own
    pretrain: Pretrain | None = None
    train: Train = Train()
    prune: Prune = Prune()
    finetune: Finetune = Finetune()
    quantize: Quantize = Quantize()
    order: Axis[OrderName] = ("prune_first",)
    baselines: Derived[BaselineNames] = DERIVED  # the protocol's: narrower, or none under classic
    baseline_budget: Axis[Equal] = ("updates",)  # flops: equal training FLOPs, up to 4 times the updates
    precisions: Axis[PrecisionName] = ("fp32", "fp16", "int8", "int4")  # as typed: int4 is w4a4's other name
    keep: Keep = "all"
    strategy: Strategy = "grid"  # front: only the cells that search.py finds worth their updates
    rank: Rank = Rank()

    _source: Source | None = PrivateAttr(None)

    @property
    def source(self) -> Source | None:
        """The file's path and text and the overrides; None where no file was read."""
        return self._source

    @property
    def user_code(self) -> tuple[str, ...]:
        """The names (module:function) of the user's own networks and data sets."""
        before = [self.pretrain.data] if self.pretrain else []
        return tuple(choice.name for choice in (*self.model, *self.data, *before) if is_user_code(choice.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SweepConfig) and config_as_dict(self) == config_as_dict(other)

    def __hash__(self) -> int:
        return hash(json.dumps(config_as_dict(self), sort_keys=True))

    @property
    def _quantizing(self) -> str | None:
        """The first method that prunes under quantisation-aware training, if there is one."""
        return next((name for name in self.order if METHODS.get(name).quantizes_first), None)

    def _check_criteria(self) -> None:
        """Refuses criteria that can't score what the file asks them to."""
        from qprune.precision import PRECISIONS
        from qprune.pruning.criteria import CRITERIA

        quantizing = self._quantizing
        low = any(min(PRECISIONS.get(name).bits) < 32 for name in self.precisions)
        for index, choice in enumerate(self.prune.criterion):
            at = ("prune", "criterion", index)
            entry = CRITERIA.get(choice.name)
            if entry.several_minibatches and self.prune.updates_between == 1:
                raise problem(f"{choice.name} needs 2 minibatches or more; raise prune.updates_between", at)
            if choice.settings.get("lambda") == "cv" and self.prune.of != "maps":
                raise problem(f"lambda: cv chooses at shares of maps; give a number with of: {self.prune.of}", at)
            if choice.settings.get("lambda") == "cv" and self.prune.schedule == "one_shot":
                raise problem("lambda: cv chooses for the iterative schedule; give a number with one_shot", at)
            if not entry.quantized and quantizing and low:
                raise problem(f"{choice.name} has no rule for quantisers; leave order: {quantizing} out", at)

    @model_validator(mode="after")
    def _settle(self):
        from qprune.precision import PRECISIONS

        names: dict[str, str] = {}
        for index, name in enumerate(self.precisions):
            first = names.setdefault(PRECISIONS.get(name).name, name)
            if first != name:
                raise problem(f"{name!r} is the same as {first!r}; keep one of them", ("precisions", index))
        self._settle_protocol()
        self._settle_budgets()
        self._check_criteria()
        mixed = [index for index, name in enumerate(self.precisions) if PRECISIONS.get(name).mixed]
        quantizing = self._quantizing
        if mixed and quantizing:
            text = f"{quantizing} prunes what has its widths already, so a mixed precision would miss its budget"
            raise problem(f"{text}; leave one of the two out", ("precisions", mixed[0]))
        if self.quantize.method == "ptq" and quantizing:
            text = f"{quantizing} prunes under quantisation-aware training, so it can't go with quantize.method: ptq"
            raise problem(text, ("order", self.order.index(quantizing)))
        anew = [index for index, name in enumerate(self.order) if METHODS.get(name).from_scratch]
        if self.train.checkpoint is not None and anew:
            text = "with a checkpoint, the network can't be trained from scratch"
            raise problem(text, ("order", anew[0]))
        if self.train.checkpoint is not None and len(self.model) > 1:
            raise problem(f"one checkpoint can't start {len(self.model)} models", ("train", "checkpoint"))
        if self.pretrain is not None:
            if self.train.checkpoint is not None:
                raise problem("a checkpoint leaves nothing to pretrain; give one of the two", ("pretrain",))
            self._fill_section("pretrain", lr=self.train.lr, batch_size=self.train.batch_size)
        return self

    def _settle_protocol(self) -> None:
        """Fills in the protocol, and the rates and other settings that follow from it."""
        trained = [bool(choice.settings.get("weights")) for choice in self.model]
        before = self.pretrain is not None or self.train.checkpoint is not None
        if self.protocol is None and not before and len(set(trained)) > 1:
            text = "some of these networks start trained and some at random; name one `protocol` for all, or split the file"
            raise problem(text, ("model", trained.index(True)))
        self._fill(protocol="restart" if before or any(trained) else "early")
        protocol = PROTOCOLS[self.protocol]
        self._fill(baselines=protocol.baselines)
        for section in ("prune", "finetune", "quantize"):
            self._fill_section(section, lr=self.train.lr / getattr(protocol, f"{section}_divisor"))
        self._fill_section("prune", normalize=Choice.of({"name": protocol.normalize}))

    def _settle_budgets(self) -> None:
        """One budget for all phases, or one for each; fills in the one or the other."""
        phases = {name: getattr(self, name) for name in ("train", "finetune", "quantize")}
        given = [(name, phase.given) for name, phase in phases.items() if phase.given]
        given += [("prune", "updates_between")] if self.prune.updates_between is not None else []
        if self.budget is not None and given:
            text = f"budget gives all updates of a cell; leave {'.'.join(given[0])} out, or budget"
            raise problem(f"{text} (--set budget=null)", given[0])
        if self.budget is None and not given and not PROTOCOLS[self.protocol].explicit:
            self._fill(budget=Budget())
        if self.budget is not None:
            filled = self.budget.model_copy(update={"shares": self._shares(self.budget)})
            object.__setattr__(self, "budget", filled)
            self._fill_section("prune", channels_per_step=ChannelsPerStep(percent=2.0))
            return
        if self.train.checkpoint is not None and self.train.updates is None:
            text = "checkpoint needs `updates: N`, the updates that this network has had, or a `budget`, which they are no part of"
            raise problem(text, ("train", "checkpoint"))
        self._fill_section("prune", channels_per_step=ChannelsPerStep(percent=1.0), updates_between=5)
        for name, phase in phases.items():
            if phase.given is None:
                self._fill_section(name, epochs=phase.default_epochs)

    def _shares(self, budget: Budget) -> Shares:
        """What each phase has of the budget: those of the file, else the protocol's."""
        from qprune.precision import PRECISIONS

        protocol = PROTOCOLS[self.protocol]
        low = any(min(PRECISIONS.get(name).bits) < 4 for name in self.precisions)
        shares = budget.shares.model_copy()
        dense = 0.0 if self.train.checkpoint is not None else protocol.dense
        shares._fill(dense=dense, prune=protocol.prune, quantize=protocol.quantize_low if low else protocol.quantize)
        return shares

    def _fill_section(self, section: str, **values: Any) -> None:
        """Fills in a section's settings that follow from others, in a copy: its default is every file's."""
        settings = getattr(self, section).model_copy()
        settings._fill(**values)
        object.__setattr__(self, section, settings)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name that is too long
        return False


# Loading ------------------------------------------------------------------------------------------------------------


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> SweepConfig:
    """Reads a sweep file; each override is `dotted.key=YAML value`, put in before validation, later ones last.

    Raises UserError with one line per problem: `file:line:column: key: problem`, or `--set text: key: problem`.
    """
    text = read_text(Path(path))
    tree = parse(text, str(path))
    if tree.value is None:
        raise UserError(f"{path}:1:1: the file is empty; `qprune init` writes a commented sweep file")
    if not isinstance(tree.value, dict):
        keys = ", ".join(SweepConfig.model_fields)
        raise UserError(f"{path}:1:1: {show(tree.value)} is not a mapping of keys ({keys})")
    for setting in overrides:
        tree = override(tree, setting, named=("data", "model"))
    try:
        config = SweepConfig.model_validate(tree.value)
    except ValidationError as error:
        raise UserError(list_problems(error, tree, SweepConfig)) from None
    config._source = Source(str(path), text, tuple(overrides))
    return config


def place_of(config: SweepConfig, *path: str | int) -> str:
    """`file:line:column` of a key such as ("prune", "ratios", 1), or of what it is in, as far as it was typed."""
    if config.source is None:
        return "the settings"
    tree = parse(config.source.text, config.source.path)
    for setting in config.source.overrides:
        tree = override(tree, setting, named=("data", "model"))
    return str(tree.places[tree.known_path(path)])


def config_as_dict(config: SweepConfig) -> dict[str, Any]:
    """All settings as plain JSON values, defaults filled in, axes as lists.

    SweepConfig.model_validate of it gives an equal configuration.
    """
    return config.model_dump(mode="json")


def write_template(path: str | Path) -> None:
    """Writes the commented sweep file of `qprune init`; refuses to overwrite."""
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise UserError(f"{path}: exists already; name another file or remove it first") from error
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}") from error
