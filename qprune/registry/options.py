"""The options of what is chosen by name: their defaults, and the one checker of all of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qprune.registry.errors import UserError
from qprune.registry.show import nearest, show

ABSENT = object()


@dataclass(frozen=True)
class Option:
    """default: what holds where none is given; is_valid: value -> bool; allowed: what is, in words.

    convert: a valid value -> the one form in which it is kept; raises ValueError, saying why, where there is none
    identity: whether another value means another result (where files lie doesn't)
    before: of an option that came later, the value that the code had before; at it, it is absent from the identity
    """

    default: Any
    is_valid: Callable[[Any], bool] = lambda value: True
    allowed: str = "any value"
    convert: Callable[[Any], Any] = lambda value: value
    identity: bool = True
    before: Any = ABSENT


def identity_of(filled: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """Of options with their values, those that name a result."""
    return {name: value for name, value in filled.items() if options[name].identity and value != options[name].before}


def is_number(value: Any) -> bool:
    """Whether it is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any, low: int, high: float = math.inf) -> bool:
    """Whether it is a whole number from low to high."""
    return is_number(value) and isinstance(value, int) and low <= value <= high


def as_float(value: Any) -> Any:
    """A number as float, 0.0 for -0.0; another value as it is."""
    return float(value) + 0.0 if is_number(value) else value


def switch(default: bool, identity: bool = True) -> Option:
    """true or false."""
    return Option(default, lambda value: isinstance(value, bool), "true or false", identity=identity)


def one_of(*words: str) -> Option:
    """One of these words, the first by default."""
    return Option(words[0], lambda value: value in words, f"one of {', '.join(words)}")


def split_name(kind: str, settings: Mapping[str, Any], example: str) -> tuple[str, dict[str, Any]]:
    """The name and the options in settings {"name": ..., option: value}; UserError where there is no name."""
    name = settings.get("name")
    if not isinstance(name, str):
        raise UserError(f"{kind}: the settings {show(dict(settings))} need a name, as in {{name: {example}}}")
    return name, {key: value for key, value in settings.items() if key != "name"}


def fill(what: str, given: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """All options with their values, defaults where none is given.

    what: begins every message, as "criterion taylor". Raises UserError for an unknown option and a bad value.
    """
    for name, value in given.items():
        if name not in options:
            raise UserError(f"{what}: unknown option {show(name)}{nearest(str(name), list(options))}")
        if not options[name].is_valid(value):
            raise UserError(f"{what}: {name} is {show(value)}; it must be {options[name].allowed}")
    filled = {}
    for name, option in options.items():
        value = given.get(name, option.default)
        try:
            filled[name] = option.convert(value)
        except ValueError as error:
            raise UserError(f"{what}: {name} is {show(value)}, {error}") from error
    return filled
