"""The kinds of value that a sweep file may hold, each with its check and the words for what is allowed."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from qprune.registry import nearest
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.show import show
from qprune.settings.methods import METHODS
from qprune.settings.yaml_source import KeyPath


def problem(text: str, at: KeyPath = ()) -> PydanticCustomError:
    """An error for pydantic to collect; at leads from the value under validation to the key that is wrong."""
    return PydanticCustomError("qprune", "{text}", {"text": text, "at": at})


def _rule(types: tuple[type, ...], is_valid, allowed: str) -> BeforeValidator:
    """Accepts a value of these types (true and false are no numbers) for which is_valid holds."""

    def check(value: Any) -> Any:
        is_type = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if not is_type or not is_valid(value):
            quotes = "; put it in quotes" if str in types and isinstance(value, (bool, int, float)) else ""
            raise problem(f"{show(value)} is not {allowed}{quotes}")
        return value

    return BeforeValidator(check)


def _whole(low: int, high: int = 10**9) -> BeforeValidator:
    return _rule((int,), lambda number: low <= number <= high, f"a whole number from {low} to {high}")


def one_of(kind: str, names: list[str]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in names:
            raise problem(f"unknown {kind} {show(value)}{nearest(str(value), names)}")
        return value

    return BeforeValidator(check)


class OneOfItsWords:
    """Of a Literal: refuses other words in the words of a sweep file's problems."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return one_of("value", list(get_args(source))).__get_pydantic_core_schema__(source, handler)


def as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def distinct(values: tuple) -> tuple:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            raise problem(f"{_show_item(value)} is given twice; keep one of them", at=(index,))
        seen.add(value)
    return values


def _not_empty(values: tuple) -> tuple:
    if not values:
        raise problem("the list is empty; give at least one value")
    return values


def _show_item(value: Any) -> str:
    return show(value.settings if isinstance(value, Choice) else value)


Item = TypeVar("Item")
Axis = Annotated[
    tuple[Item, ...], BeforeValidator(as_tuple), AfterValidator(_not_empty), AfterValidator(distinct)
]  # one value or a list of different ones
Derived = Annotated[
    Item, WrapValidator(lambda value, check: None if value is None else check(value))
]  # may be left out or null, and is filled in from other settings before anyone sees it
DERIVED: Any = None  # the default of such a setting

Count = Annotated[int, _whole(1)]
CountOrZero = Annotated[int, _whole(0)]
Seed = Annotated[int, _whole(0, 2**32 - 1)]  # what NumPy's generators take
Bits = Annotated[int, _whole(2, 8)]
Flag = Annotated[bool, _rule((bool,), lambda value: True, "true or false")]
FlagOrAuto = Annotated[
    bool | Literal["auto"], _rule((bool, str), lambda value: value in (True, False, "auto"), "true, false or auto")
]
Text = Annotated[str, _rule((str,), bool, "a name")]
LearningRate = Annotated[float, _rule((int, float), lambda rate: 0 < rate < math.inf, "a number above 0")]
WeightDecay = Annotated[float, _rule((int, float), lambda decay: 0 <= decay < math.inf, "a number of at least 0")]
Momentum = Annotated[float, _rule((int, float), lambda momentum: 0 <= momentum < 1, "a number from 0 to below 1")]
Ratio = Annotated[
    float,
    _rule((int, float), lambda ratio: 0 <= ratio < 1, "a share from 0 to below 1 (0.5 removes half of the maps)"),
    AfterValidator(lambda ratio: ratio + 0.0),  # -0.0 -> 0.0
]
LayerRatio = Annotated[
    float,
    _rule((int, float), lambda ratio: 0 < ratio < 1, "a share above 0 and below 1 (0.9: a layer keeps a tenth)"),
]
RESERVED_NAMES = ("stages",)  # what a results folder holds beside the sweeps


def _check_reserved(name: str) -> str:
    if name.casefold() in RESERVED_NAMES:
        raise problem(f"{show(name)} is the folder of the stages that all sweeps share; name the sweep otherwise")
    return name


FolderName = Annotated[
    str,
    _rule(
        (str,),
        lambda name: re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name),
        "a name for a folder: letters, digits, '.', '_' and '-', at most 100, not '.' first",
    ),
    AfterValidator(_check_reserved),
]


def _choice(kind: str) -> PlainValidator:
    def check(value: Any) -> Choice:
        settings = {"name": value} if isinstance(value, str) else value.settings if isinstance(value, Choice) else value
        if not isinstance(settings, dict):
            raise problem(f"{show(value)} is not the name of a {kind}, nor {{name: ..., option: value}}")
        if not isinstance(settings.get("name"), str) or not settings["name"]:
            raise problem(f"{show(value)} has no name; write {{name: ..., option: value}}")
        try:
            return Choice.of(settings)
        except (TypeError, ValueError) as error:
            raise problem(f"{show(value)}: options must be text, finite numbers, true, false or lists") from error

    return PlainValidator(check)


@dataclass(frozen=True)
class ChannelsPerStep:
    """How many feature maps are removed between two bursts of fine-tuning: a percentage of all, or a count."""

    percent: float | None = None  # of all prunable maps of the dense network, above 0, at most 100
    count: int | None = None  # maps

    def channels(self, total: int) -> float:
        """Maps to remove per step, on average, when the dense network has total prunable maps; at least 1."""
        if self.count is not None:
            return float(self.count)
        assert self.percent is not None
        return max(1.0, self.percent / 100 * total)

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{self.percent!r}%".replace(".0%", "%")


def _channels_per_step(value: Any) -> ChannelsPerStep:
    if isinstance(value, ChannelsPerStep):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9:
        return ChannelsPerStep(count=value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?\s*%", value):
        percent = float(value.rstrip("% \t"))
        if 0 < percent <= 100:
            return ChannelsPerStep(percent=percent)
    raise problem(f"{show(value)} is not a percentage of all maps (1%) nor a whole number of maps of at least 1")


def _refer(check) -> AfterValidator:
    """Asks a registry, and makes its UserError one of the file's problems.

    Registries are imported when they are asked; none of them imports torch to answer, but for torchvision:<name>.
    """

    def run(value: Any) -> Any:
        try:
            check(value)
        except UserError as error:
            raise problem(str(error)) from error
        return value

    return AfterValidator(run)


def _check_data(choice: Choice) -> None:
    from qprune.data import check_data

    check_data(choice.settings)


def _check_model(choice: Choice) -> None:
    from qprune.networks import check_model

    check_model(choice.settings)


def _check_precision(name: str) -> None:
    from qprune.precision import PRECISIONS

    PRECISIONS.get(name)


def _check_normalization(choice: Choice) -> None:
    from qprune.pruning.normalizations import check_normalization

    check_normalization(choice.settings)


def _check_criterion(choice: Choice) -> None:
    from qprune.pruning.criteria import check_criterion

    check_criterion(choice.settings)


_settings_json = PlainSerializer(lambda choice: choice.settings)
DataChoice = Annotated[Choice, _choice("data set"), _refer(_check_data), _settings_json]
ModelChoice = Annotated[Choice, _choice("network"), _refer(_check_model), _settings_json]
Step = Annotated[
    ChannelsPerStep,
    PlainValidator(_channels_per_step),
    PlainSerializer(lambda step: step.count if step.count is not None else str(step)),
]
CriterionChoice = Annotated[Choice, _choice("criterion"), _refer(_check_criterion), _settings_json]
Normalization = Annotated[
    Choice,
    _choice("normalization"),
    _refer(_check_normalization),
    PlainSerializer(lambda choice: choice.name if len(choice.settings) == 1 else choice.settings),
]
PrecisionName = Annotated[Text, _refer(_check_precision)]


def _check_order(name: str) -> None:
    if METHODS.get(name).baseline:
        raise UserError(f"{name} is a baseline; name it under `baselines`")


def _check_baseline(name: str) -> None:
    if name not in METHODS or not METHODS.get(name).baseline:
        names = [entry for entry in METHODS.names() if METHODS.get(entry).baseline]
        raise UserError(f"unknown baseline {show(name)}{nearest(name, names)}")


OrderName = Annotated[Text, _refer(_check_order)]
BaselineNames = Annotated[
    tuple[Annotated[Text, _refer(_check_baseline)], ...], BeforeValidator(as_tuple), AfterValidator(distinct)
]
