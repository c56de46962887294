"""What was read from files, by path, size and times, as git's index has it: read again only where one of those has changed.

In <cache>/files.sqlite, for data sets of many files. A file that has changed in the last seconds is not remembered: it could
change once more within the same tick of the clock.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from qprune.data.places import OPTION, cache_folder
from qprune.storage.durable import StorageError, remove, writing

MANY = 1000  # files from which on it is worth it
SETTLED_NS = 2 * 10**9
AT_ONCE = 5000  # what is new is written in such lots
_TABLE = """CREATE TABLE IF NOT EXISTS files (
  path BLOB, what TEXT, size INTEGER, modified_ns INTEGER, changed_ns INTEGER, value TEXT, PRIMARY KEY (path, what)
) WITHOUT ROWID"""
_FIND = "SELECT value FROM files WHERE path = ? AND what = ? AND size = ? AND modified_ns = ? AND changed_ns = ?"
_NOTE = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)"

_open: _Remembered | None = None  # inside `remembering`


@contextmanager
def remembering(files: int) -> Iterator[None]:
    """Inside, `recall` looks up and keeps what it is asked for, where there are many files. Raises StorageError."""
    global _open
    if files < MANY or _open is not None:
        yield
        return
    path = cache_folder() / "files.sqlite"
    with writing(path, OPTION):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _open = _Remembered(path)
        with closing(_open):
            yield
    except sqlite3.Error as error:
        raise StorageError(
            f"{path} can't be written: {error}; make it writable, free some space there, or name another folder with {OPTION}"
        ) from error
    finally:
        _open = None


def recall(path: Path, status: os.stat_result, what: str, read: Callable[[], str]) -> str:
    """What `read()` gives of a file that has this status, or gave when it was asked for last."""
    return read() if _open is None else _open.recall(path, status, what, read)


class _Remembered:
    """The table, open."""

    def __init__(self, path: Path):
        try:
            self.table = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # no space, no permission
                raise
            remove(path)  # damaged: nothing is lost but time
            self.table = _connect(path)
        self.new: list[tuple] = []

    def recall(self, path: Path, status: os.stat_result, what: str, read: Callable[[], str]) -> str:
        key = os.fsencode(path), what
        state = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if found := self.table.execute(_FIND, (*key, *state)).fetchone():
            return found[0]
        value = read()
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
            self.new.append((*key, *state, value))
            if len(self.new) >= AT_ONCE:
                self.write()
        return value

    def write(self) -> None:
        with self.table:
            self.table.executemany(_NOTE, self.new)
        self.new = []

    def close(self) -> None:
        self.write()
        self.table.close()


def _connect(path: Path) -> sqlite3.Connection:
    table = sqlite3.connect(path, timeout=60)
    try:
        with table:
            table.execute(_TABLE)
        table.execute(_FIND, (b"", "", 0, 0, 0)).fetchone()
    except sqlite3.Error:
        table.close()
        raise
    return table
