"""Files that appear whole or not at all, and one clear error where a folder can't be written."""

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qprune.registry.errors import UserError

_FREE, _OTHER = "free some space there", "name another folder with {option}"
REMEDIES = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EROFS: f"make it writable or {_OTHER}",
    errno.EACCES: f"make it writable or {_OTHER}",
    errno.EPERM: f"make it writable or {_OTHER}",
    errno.ENOTDIR: _OTHER,
    errno.EEXIST: _OTHER,
}


class StorageError(UserError):
    """The results can't be written: no space, no permission, the disk is gone. Nothing can go on then."""


@contextmanager
def writing(path: Path, option: str = "--out") -> Iterator[None]:
    """Turns the system's errors into a StorageError that names the path and the remedy. option: that which names the folder."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "see to the disk").format(option=option)
        raise StorageError(
            f"{path} can't be written: {error.strerror}; {remedy}. "
            "What is finished is kept: the same command goes on from there"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file all at once, so that it is either the old one or the new one whenever the machine stops.

    Raises StorageError.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = draft_of(path)
        try:
            write_synced(draft, content)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def draft_of(path: Path) -> Path:
    """Where this process writes a file before it takes its place: beside it, with the machine's and its own name."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file, and return when it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the folder's list of names is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_drafts(folder: Path) -> None:
    """Delete what killed processes of this machine have left of write_whole's drafts in a folder."""
    for draft in folder.glob(f".*.{platform.node()}.*"):
        pid = draft.name.rpartition(".")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            remove(draft)


def remove(path: Path) -> None:
    """Delete a file, if it is there. Raises StorageError."""
    with writing(path):
        path.unlink(missing_ok=True)


def set_aside(path: Path, folder: Path) -> Path:
    """Move a file or folder into another folder, under its name and a number; returns its new place.

    Nothing is moved where it is gone: another process has moved it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while (place := folder / f"{path.name}.{number}").exists():
            number += 1
        with suppress(FileNotFoundError):
            path.rename(place)
    return place
