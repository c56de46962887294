"""The sweep file: YAML -> validated, frozen settings; an error names file, line and column.

Every axis (data, model, seeds, prune.criterion, prune.ratios, order, precisions) takes one value or a list and becomes a
tuple. Settings that follow from others (prune.until, the learning rates after the first) are filled in, so that nothing
downstream needs to know a default. Relative paths in the file are relative to the current directory, as is the
search path of `module:function`.

No torch is imported here, so that a wrong file is refused at once, but where the file names a network of torchvision's
(its list, another with each version, is in its code alone) or the user's own code.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr, TypeAdapter, ValidationError, model_validator

from qprune.registry.errors import UserError
from qprune.registry.show import show
from qprune.registry.user_code import is_user_code
from qprune.settings.methods import METHODS
from qprune.settings.problems import list_problems
from qprune.settings.protocols import PROTOCOLS
from qprune.settings.sections import (
    Budget,
    Equal,
    Finetune,
    Keep,
    Pretrain,
    ProtocolName,
    Prune,
    Quantize,
    Rank,
    Section,
    Shares,
    Strategy,
    Train,
)
from qprune.settings.types import (
    DERIVED,
    Axis,
    BaselineNames,
    ChannelsPerStep,
    Choice,
    DataChoice,
    Derived,
    FolderName,
    ModelChoice,
    OrderName,
    PrecisionName,
    Seed,
    problem,
)
from qprune.settings.yaml_source import override, parse, read_text

TEMPLATE = Path(__file__).with_name("template.yaml")
TEMPLATE_NAME = "my_sweep"  # of the sweep in it


@dataclass(frozen=True)
class Source:
    """Where a configuration came from: for the record, not part of what it is."""

    path: str
    text: str
    overrides: tuple[str, ...]


class SweepConfig(Section):
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
    """Writes the commented sweep file of `qprune init`, named as the file is; refuses to overwrite."""
    name = _name_after(Path(path))
    typed = name if re.fullmatch(r"[A-Za-z_]\w*", name) and yaml.safe_load(name) == name else f'"{name}"'
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace(f"name: {TEMPLATE_NAME}", f"name: {typed}").replace(TEMPLATE_NAME, name)
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path}: exists already; name another file or remove it first") from error
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}") from error


def _name_after(file: Path) -> str:
    """A sweep's name from its file's."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem).lstrip(".")[:100]
    try:
        return TypeAdapter(FolderName).validate_python(name)
    except ValidationError:
        return TEMPLATE_NAME
