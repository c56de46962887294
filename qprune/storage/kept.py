"""What took a while to find out, kept for the next command: small sealed files in the user's cache.

Each is found by all that it follows from, and by the code that found it: qprune's own source and the versions of what that
runs on. Whatever changes, nothing is found, and it is found out anew.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import qprune
from qprune.registry.identity import digest
from qprune.storage.durable import StorageError, write_whole
from qprune.storage.seal import Damaged, read_sealed_json, sealed_json

PLACE = Path("~/.cache/qprune/known")
PACKAGES = ("torch", "torchvision", "brevitas", "numpy", "pillow", "scikit-learn")
KEPT_DAYS = 90  # after which a file is deleted, and found out anew if it is still asked for


@cache
def source_hash() -> str:
    """SHA-256 of this package's source."""
    source = hashlib.sha256()
    for file in sorted(Path(qprune.__file__).parent.rglob("*.py")):
        source.update(file.read_bytes())
    return source.hexdigest()


@cache
def code() -> dict[str, str | None]:
    """All code that finds something out: this package's and the libraries'."""
    return {"qprune": source_hash(), "python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def kept(what: str, follows_from: Any) -> Any:
    """What was kept, or None. follows_from: all that it depends on beside the code, as plain JSON."""
    named_by = _named_by(what, follows_from)
    try:
        found = read_sealed_json(_file(named_by))
    except (OSError, Damaged, ValueError, RuntimeError):  # a home that isn't there
        return None
    return found["found"] if found["named_by"] == named_by else None


def keep(what: str, follows_from: Any, found: Any) -> None:
    """Keep plain JSON for the next command. A home that can't be written to keeps nothing."""
    named_by = _named_by(what, follows_from)
    with suppress(OSError, RuntimeError, StorageError):
        file = _file(named_by)
        _forget_old(file.parent)
        write_whole(file, sealed_json({"named_by": named_by, "found": found}))


def once(what: str, follows_from: Any, find: Callable[[], Any]) -> Any:
    """What was kept, or else what `find` finds, plain JSON, which is kept."""
    found = kept(what, follows_from)
    if found is None:
        found = find()
        keep(what, follows_from, found)
    return found


def _named_by(what: str, follows_from: Any) -> Any:
    return json.loads(json.dumps([what, follows_from, code()]))  # as it is read again


def _file(named_by: Any) -> Path:
    return PLACE.expanduser() / f"{digest(named_by)}.json"


def _forget_old(folder: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for file in folder.glob("*.json"):
        with suppress(OSError):  # another command deletes it
            if file.stat().st_mtime < oldest:
                file.unlink()
