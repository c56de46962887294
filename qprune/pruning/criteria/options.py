"""What is registered of a criterion, and the options of criteria. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qprune.registry import Entry
from qprune.registry.options import Option, as_float, is_number, is_whole, one_of


@dataclass(frozen=True, kw_only=True)
class CriterionEntry(Entry):
    """A criterion: the class at `place`, made with its options (COMMON's come on top).

    several_minibatches: whether it needs two of them or more since the last removal
    quantized: whether it works on a network with quantisers
    """

    several_minibatches: bool = False
    quantized: bool = True


def is_weight(value: Any) -> bool:
    """Whether it may be the factor of a term."""
    return is_number(value) and 0 <= value <= 1e9


LAMBDA = {
    "lambda": Option(1.0, lambda value: value == "cv" or is_weight(value), 'a number from 0 to 1e9, or "cv"', as_float)
}
CURVATURE = {
    "estimator": one_of("mc", "exact", "hutchinson"),
    "samples": Option(1, lambda value: is_whole(value, 1, 10_000), "a whole number from 1 to 10000"),
}
COMMON = {"flops_lambda": Option(0.0, is_weight, "a number from 0 to 1e9", as_float)}  # Molchanov et al. 2017, Eq. 9


def conflict(options: Mapping[str, Any]) -> str | None:
    """What is wrong with options that are each valid: one that has no effect beside another."""
    if options.get("estimator") == "exact" and options["samples"] != 1:
        return (
            f"samples is {options['samples']}, but estimator exact draws none; leave samples out, "
            "or take estimator mc or hutchinson"
        )
    return None


def as_text(value: Any) -> str:
    """A value for a file's name, one text for one value: letters, digits, '.' and '_'."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() and math.fabs(value) < 1e9 else repr(value)
    return str(value).replace("-", "_").replace("+", "")
