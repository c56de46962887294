"""The options of criteria: their defaults, and checks. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qprune.registry import nearest
from qprune.registry.errors import UserError
from qprune.registry.show import show


@dataclass(frozen=True)
class Option:
    """default: what holds where none is given; is_valid: value -> bool; allowed: what is, in words."""

    default: Any
    is_valid: Callable[[Any], bool]
    allowed: str


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def weight(default: float) -> Option:
    """A factor of a term: a number from 0 to a billion."""
    return Option(default, lambda value: _is_number(value) and 0 <= value <= 1e9, "a number from 0 to 1e9")


LAMBDA = Option(
    1.0, lambda value: value == "cv" or (_is_number(value) and 0 <= value <= 1e9), 'a number from 0 to 1e9, or "cv"'
)
ESTIMATORS = ("exact", "mc", "hutchinson")
CURVATURE = {
    "estimator": Option("mc", lambda value: value in ESTIMATORS, f"one of {', '.join(ESTIMATORS)}"),
    "samples": Option(
        1,
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000,
        "a whole number from 1 to 10000",
    ),
}
COMMON = {"flops_lambda": weight(0.0)}  # of every criterion: Molchanov et al. (ICLR 2017), Eq. 9


def fill(name: str, given: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """All options of a criterion, defaults where none is given, whole numbers of a float option as float.

    Raises UserError for an unknown option, a bad value, and one that has no effect beside another.
    """
    for option, value in given.items():
        if option not in options:
            raise UserError(f"criterion {name}: unknown option {show(option)}{nearest(str(option), list(options))}")
        if not options[option].is_valid(value):
            raise UserError(f"criterion {name}: {option} is {show(value)}; it must be {options[option].allowed}")
    filled = {option: given.get(option, spec.default) for option, spec in options.items()}
    if filled.get("estimator") == "exact" and filled["samples"] != 1:
        raise UserError(
            f"criterion {name}: samples is {filled['samples']}, but estimator exact draws none; leave samples out, "
            "or take estimator mc or hutchinson"
        )
    for option, spec in options.items():
        if isinstance(spec.default, float) and _is_number(filled[option]):
            filled[option] = float(filled[option]) + 0.0  # -0.0 -> 0.0
    return filled


def as_text(value: Any) -> str:
    """A value for a file's name, one text for one value: letters, digits, '.' and '_'."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() and math.fabs(value) < 1e9 else repr(value)
    return str(value).replace("-", "_").replace("+", "")
