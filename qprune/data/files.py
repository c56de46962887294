"""Files of data sets: where they lie, what they contain, and how they are fetched.

What is fetched appears whole or not at all: a file is downloaded and an archive unpacked under another name, and
only what has the published MD5 sum is put in place. A lock keeps two processes from fetching into one folder at once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import socket
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from http.client import HTTPException
from pathlib import Path

from qprune.data.remembered import recall
from qprune.registry.errors import UserError

TIMEOUT = 60  # seconds without a byte after which a download is given up


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the names given and the contents of the files. Times and places of the files don't enter."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(os.fsencode(name) + f"\0{hash_content(path)}\n".encode())
    return digest.hexdigest()


def status_of(path: Path) -> os.stat_result:
    """The size and times of a file. Raises UserError where there is none, or no regular one."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"data: {path} is no regular file. Remove it.")  # reading a pipe would never end
    return status


def hash_content(path: Path) -> str:
    """SHA-256 of a file, read once."""
    status = status_of(path)
    return recall(path, status, "sha256", lambda: _hash_content(str(path), status.st_size, status.st_mtime_ns))


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


# Fetching -----------------------------------------------------------------------------------------------------------


def fetch(name: str, root: Path, download: Callable[[], object]) -> None:
    """Runs a download into `root`, one process at a time; whatever goes wrong becomes one UserError."""
    from filelock import FileLock

    before = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none, so a silent server would hold it for ever
            download()
    except _FAILURES as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data {name}: the download into {root} failed: {reason.rstrip('.')}. Nothing half is left there: try again, "
            "or set root: to a folder that holds the files (that can be written to, to download)."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


_FAILURES = (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error)
# URLError is an OSError; a wrong MD5 sum a RuntimeError


def fetch_file(path: Path, urls: Sequence[str], md5: str) -> None:
    """Puts a file in place, from the first of the addresses that gives it whole; one that is there is left alone.

    Raises the last address's error, with the file's name. To be called within `fetch`.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    if check_integrity(path, md5):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    failures = []
    try:
        for url in urls:
            try:
                draft.unlink(missing_ok=True)
                download_url(url, draft.parent, draft.name, md5)
            except _FAILURES as error:
                failures.append(f"{url}: {error}")
            else:
                draft.replace(path)
                return
    finally:
        draft.unlink(missing_ok=True)
    raise RuntimeError(f"{path.name} ({'; '.join(failures)})")


def unpack(archive: Path, folder: Path) -> None:
    """Puts the folder of that name in a .tar.gz in place, over the files of one that is there already.

    To be called within `fetch`, after `fetch_file` has checked the archive.
    """
    draft = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(draft, filter="data")
        if not folder.exists():
            (draft / folder.name).rename(folder)
        else:
            for file in (draft / folder.name).iterdir():
                file.replace(folder / file.name)
    except _FAILURES as error:
        raise RuntimeError(f"{archive.name} can't be unpacked ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
