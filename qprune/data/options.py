"""The settings of a data set: filled with their defaults, and checked. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qprune.data.augmentation import parse_kind
from qprune.registry import nearest
from qprune.registry.errors import UserError

MAX_SIDE = 1024  # pixels; all images are held in memory
MAX_PATH = 3000  # bytes; with a file's name behind it, less than the 4,096 of Linux
COMMON = ("augment", "subset")


def quoted(value: Any) -> str:
    """A value for a message: its repr, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
            raise UserError(f"data {name}: unknown option {quoted(option)}{nearest(option, valid)}")
    options = {**defaults, **given}
    return {option: _CHECKS[option](f"data {name}", option, value) for option, value in options.items()}


def fill_augment(name: str, settings: Mapping[str, Any], default: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The kinds of augmentation, without "none"; one name or a list of them is accepted."""
    given = settings.get("augment")
    if given is None:
        return default
    kinds = (given,) if isinstance(given, str) else given
    if not isinstance(kinds, (list, tuple)):
        raise UserError(f"data {name}: augment is {quoted(given)}; it takes a name or a list, as in [flip, crop].")
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
        raise UserError(f"{place}: {option} is {quoted(value)}; it must be a whole number of at least 1.")
    return value


def _side(place: str, option: str, value: Any) -> int:
    if _positive(place, option, value) > MAX_SIDE:
        raise UserError(
            f"{place}: {option} is {quoted(value)}; it must be a whole number of pixels, at most {MAX_SIDE}."
        )
    return value


def _switch(place: str, option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{place}: {option} is {quoted(value)}; it must be true or false.")
    return value


def _path(place: str, option: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise UserError(f"{place}: {option} is {quoted(value)}; it must be the path of a folder.")
    try:
        path = Path(value).expanduser().resolve()
        if len(os.fsencode(path)) > MAX_PATH:
            raise OSError("too long")
        path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, links in a circle, a name that is too long
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"{place}: {option} is {quoted(str(value))}, which can't be the path of a folder: {reason}."
        ) from error
    return str(path)


_CHECKS = {"root": _path, "download": _switch, "image_size": _side}
