"""How the maps of different layers compete for what is removed next. One class in competition.py each, and one line here.

Chosen by a word, or by {name: ..., option: value}. Nothing here imports torch before one is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qprune.pruning.criteria.options import as_text
from qprune.registry import Entry, Registry
from qprune.registry.choice import Choice
from qprune.registry.options import Option, as_float, fill, is_number, split_name

if TYPE_CHECKING:
    from qprune.pruning.competition import Competition

__all__ = ["NORMALIZATIONS", "as_chosen", "check_normalization", "get_normalization", "normalization_label"]

_HERE = "qprune.pruning.competition"
_POWER = Option(0.5, lambda value: is_number(value) and 0 < value <= 10, "a number above 0, at most 10", as_float)
NORMALIZATIONS = Registry(
    "normalization",
    Entry("l2", f"{_HERE}:L2"),
    Entry("none", f"{_HERE}:Competition"),
    Entry("flops", f"{_HERE}:Flops", options={"power": _POWER}),
    Entry("layer", f"{_HERE}:LayerShare"),
)


def check_normalization(settings: str | Mapping[str, Any]) -> None:
    """Checks a word or {"name": ..., option: value}. Raises UserError naming the nearest valid name or option."""
    _filled(settings)


def as_chosen(settings: str | Mapping[str, Any]) -> str | Choice:
    """The one form of all settings that mean the same: the word, with those options alone that aren't at their defaults.

    It is what a path is named by, so a default here stays what it is. Raises UserError as check_normalization does.
    """
    name, options = _filled(settings)
    known = NORMALIZATIONS.get(name).options
    changed = {key: value for key, value in options.items() if value != known[key].default}
    return Choice.of({"name": name, **changed}) if changed else name


def normalization_label(settings: str | Mapping[str, Any]) -> str:
    """A short name for tables, as criteria have them: "flops", "flops.power_0.25"."""
    chosen = as_chosen(settings)
    if isinstance(chosen, str):
        return chosen
    return ".".join([chosen.name, *(f"{k}_{as_text(v)}" for k, v in chosen.settings.items() if k != "name")])


def get_normalization(settings: str | Mapping[str, Any]) -> Competition:
    """The object that ranks. Raises UserError as check_normalization does."""
    name, options = _filled(settings)
    return NORMALIZATIONS.load(name)(**options)


def _filled(settings: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, given = split_name(
        "normalization", {"name": settings} if isinstance(settings, str) else settings, "flops, power: 0.5"
    )
    return name, fill(f"normalization {name}", given, NORMALIZATIONS.get(name).options)
