"""Where the files of data sets lie, and what is made of them is kept."""

from __future__ import annotations

import os
from pathlib import Path

from qprune.registry.errors import UserError

OPTION = "--cache"  # of the commands, which names the cache's folder


def default_root(name: str) -> Path:
    """The folder of a data set's files: $QPRUNE_DATA/<name>, else ~/.cache/qprune/<name>."""
    return _folder_of("QPRUNE_DATA", "~/.cache/qprune") / name


def cache_folder() -> Path:
    """Where what can be made anew is kept for other runs: $QPRUNE_CACHE, else ~/.cache/qprune/cache."""
    return _folder_of("QPRUNE_CACHE", "~/.cache/qprune/cache")


def _folder_of(variable: str, otherwise: str) -> Path:
    try:
        return Path(os.environ.get(variable) or otherwise).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # ~nobody, links in a circle
        raise UserError(f"{variable} is {os.environ.get(variable)!r}, which can't be a folder: {error}.") from error
