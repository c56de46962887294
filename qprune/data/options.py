"""The settings of a data set: filled with their defaults, and checked. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qprune.data.augmentation import parse_kind
from qprune.errors import UserError
from qprune.registry import nearest

COMMON = ("augment", "subset")


def check_name(settings: Mapping[str, Any]) -> str:
    """The name in the settings; UserError where there is none."""
    name = settings.get("name")
    if not isinstance(name, str):
        raise UserError(f"data: the settings {dict(settings)!r} need a name, as in {{name: digits}}.")
    return name


def fill_options(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's own options, checked, defaults where none is given; a root becomes an absolute path."""
    given = {key: value for key, value in settings.items() if key not in ("name", *COMMON)}
    for option in given:
        if option not in defaults:
            valid = [*defaults, *COMMON]
            raise UserError(f"data {name}: unknown option {option!r}{nearest(option, valid)}")
    options = {**defaults, **given}
    return {option: _CHECKS[option](f"data {name}", option, value) for option, value in options.items()}


def fill_augment(name: str, settings: Mapping[str, Any], default: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The kinds of augmentation, without "none"; one name or a list of them is accepted."""
    given = settings.get("augment")
    if given is None:
        return default
    kinds = (given,) if isinstance(given, str) else given
    if not isinstance(kinds, (list, tuple)):
        raise UserError(f"data {name}: augment is {given!r}; it takes a name or a list, as in [flip, crop].")
    try:
        return tuple(kind for kind in kinds if parse_kind(kind)[0] != "none")
    except UserError as error:
        raise UserError(f"data {name}: {error}") from None


def fill_subset(name: str, settings: Mapping[str, Any]) -> int | None:
    """The number of training images to use, None for all."""
    subset = settings.get("subset")
    return None if subset is None else _positive(f"data {name}", "subset", subset)


def _positive(place: str, option: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{place}: {option} is {value!r}; it must be a whole number of at least 1.")
    return value


def _switch(place: str, option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{place}: {option} is {value!r}; it must be true or false.")
    return value


def _path(place: str, option: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise UserError(f"{place}: {option} is {value!r}; it must be the path of a folder.")
    return str(Path(value).expanduser().resolve())


_CHECKS = {"root": _path, "download": _switch, "image_size": _positive}
