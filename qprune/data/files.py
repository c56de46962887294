"""Files of data sets: where they lie, what they contain, and how they are fetched."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from qprune.errors import UserError


def default_root(name: str) -> Path:
    """The folder of a data set's files: $QPRUNE_DATA/<name>, else ~/.cache/qprune/<name>."""
    base = os.environ.get("QPRUNE_DATA")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "qprune").resolve() / name


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the names given and the contents of the files. Times and places of the files don't enter."""
    digest = hashlib.sha256()
    for name, path in files:
        status = _status(path)
        digest.update(f"{name}\0{_hash_content(str(path), status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=100_000)
def _hash_content(path: str, size: int, modified_ns: int) -> str:
    """SHA-256 of one file; size and time are only there so that a changed file is read again."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}.") from error


def not_found(name: str, missing: str, looked_in: Iterable[Path], extra: str = "") -> UserError:
    """The error for files that aren't there: what, where they were looked for, how to get them."""
    places = ", ".join(str(place) for place in looked_in)
    return UserError(
        f"data {name}: {missing} not found. Looked in: {places}. "
        f"Set download: true to fetch the files, or root: to the folder that holds them.{extra}"
    )


def fetch(name: str, root: Path, download: Callable[[], object]) -> None:
    """Runs a download of torchvision's into `root`; whatever goes wrong becomes one UserError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        download()
    except (OSError, RuntimeError, EOFError) as error:  # URLError is an OSError; a wrong checksum a RuntimeError
        reason = " ".join(str(error).split())
        raise UserError(
            f"data {name}: the download into {root} failed: {reason} "
            "Try again (remove what is half there), or set root: to a folder that holds the files."
        ) from error
