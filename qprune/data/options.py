"""What is registered of a data set, and the options of data sets. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qprune.data.augmentation import KINDS, is_kind
from qprune.data.preprocessing import MAX_SIDE
from qprune.data.preprocessing import OPTION as PREPROCESS
from qprune.registry import Entry
from qprune.registry.options import Option, is_whole, switch

MAX_PATH = 3000  # bytes; with a file's name behind it, less than the 4,096 of Linux


@dataclass(frozen=True, kw_only=True)
class DataEntry(Entry):
    """A data set: the Source at `place`, asked with its options (COMMON's come on top).

    augment: the default augmentation
    named_by_root: whether the folder `root` says which data these are
    pictures: whether it decodes picture files, which its module's `listing(options)` lists
    """

    augment: tuple[str, ...] = ()
    named_by_root: bool = False
    pictures: bool = False


def _absolute(value: str | Path | None) -> str | None:
    """The absolute path of a folder, whether it exists or not; ValueError where it can't be one."""
    if value is None:
        return None
    try:
        path = Path(value).expanduser().resolve()
        if len(os.fsencode(path)) > MAX_PATH:
            raise OSError("too long")
        path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, links in a circle, a name that is too long
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"which can't be the path of a folder: {reason}") from error
    return str(path)


def _is_path(value: Any) -> bool:
    return value is None or isinstance(value, (str, Path)) and bool(str(value))


def _as_kinds(value: Any) -> tuple[str, ...] | None:
    """The kinds of augmentation without "none", from one name or a list of them; None for the data set's own."""
    return None if value is None else tuple(kind for kind in _listed(value) if kind != "none")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _are_kinds(value: Any) -> bool:
    return value is None or isinstance(value, (str, list, tuple)) and all(map(is_kind, _listed(value)))


ROOT = {"root": Option(None, _is_path, "the path of a folder", _absolute, identity=False)}
FILES = {**ROOT, "download": switch(False, identity=False)}
DECODED = {  # of those that decode picture files
    "image_size": Option(64, lambda value: is_whole(value, 1, MAX_SIDE), f"a whole number from 1 to {MAX_SIDE}"),
    "preprocess": PREPROCESS,
    "store_size": Option(
        None,
        lambda value: value is None or is_whole(value, 1, 2 * MAX_SIDE),
        f"a whole number of at most {2 * MAX_SIDE}, or null",
        before=None,
    ),
}
COMMON = {  # of every data set
    "augment": Option(None, _are_kinds, f"{KINDS}, or a list of them", _as_kinds),
    "subset": Option(None, lambda value: value is None or is_whole(value, 1), "a whole number of at least 1, or null"),
}
