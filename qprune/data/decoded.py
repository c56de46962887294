"""Decoded pictures in files that all processes of a machine map: each is decoded once, and its memory shared.

<cache>/decoded/<key>/ holds train.npy, val.npy and test.npy (uint8 [n, 3, side, side]) and seal.json: what they are of, their
checksums, size and time. It appears whole or not at all; what a killed process has decoded stays under another name, and the
next one goes on from there. A file whose size or time is no longer that of the seal is read and held against its checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from qprune.data.base import Listing, Parts, Statistics, channel_statistics, make_split
from qprune.data.pictures import decode_pictures, notes_on
from qprune.data.places import cache_folder
from qprune.data.preprocessing import Preprocessing
from qprune.data.remembered import remembering
from qprune.storage.durable import StorageError, sync_folder, write_synced, write_whole, writing
from qprune.storage.seal import Damaged, read_sealed_json, sealed_json

VERSION = 1  # of what read_picture.py makes of a file, and of the layout
LEAST_BYTES = 64 * 2**20  # of decoded pictures that are kept in files; fewer are decoded by each process
CHUNK_BYTES = 16 * 2**20  # after so many, what is decoded survives
CHANNELS = 3
OPTION = "--cache"
DRAFT = ".part"


def decode_listing(listing: Listing, how: Preprocessing, content: str) -> Parts:
    """A data set's pictures, decoded: in memory, or mapped from the cache where they are large. content: of the files.

    Raises UserError naming a file that can't be decoded, StorageError where the cache can't be written.
    """
    files = [file for files, _ in listing.parts.values() for file in files]
    with remembering(len(files)):
        notes = (*listing.notes, *notes_on(files))
    folder: Path | None = None
    statistics: Statistics | None = None
    if decoded_bytes(listing, how) < LEAST_BYTES:
        images = {part: decode_pictures(own, how) for part, (own, _) in listing.parts.items()}
    else:
        folder, seal = _opened_or_made(listing, how, content)
        images = {part: np.load(folder / f"{part}.npy", mmap_mode="c") for part in listing.parts}
        statistics = tuple(seal["mean"]), tuple(seal["std"])
    split = {part: make_split(images[part], labels) for part, (_, labels) in listing.parts.items()}
    return Parts(split["train"], split["val"], split["test"], listing.class_names, notes, statistics, folder)


def decoded_bytes(listing: Listing, how: Preprocessing) -> int:
    return sum(len(files) for files, _ in listing.parts.values()) * _bytes_of_one(how)


def _bytes_of_one(how: Preprocessing) -> int:
    return CHANNELS * how.height * how.width


def key_of(how: Preprocessing, content: str, counts: list[int]) -> str:
    """What decoded pictures are called: by their files' content, how they are decoded and by which Pillow."""
    from PIL import __version__ as pillow

    text = json.dumps([VERSION, pillow, how.to_json(), content, counts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Making --------------------------------------------------------------------------------------------------------------


def _opened_or_made(listing: Listing, how: Preprocessing, content: str) -> tuple[Path, dict]:
    """The folder and its seal."""
    counts = [len(files) for files, _ in listing.parts.values()]
    folder = cache_folder() / "decoded" / key_of(how, content, counts)
    if (seal := _checked_seal(folder)) is not None:
        return folder, seal
    with ExitStack() as stack:
        with writing(folder, OPTION):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(_lock_of(folder)))  # another process may be at it
        seal = _checked_seal(folder)
        if seal is None:
            if folder.exists():
                print(f"note: the decoded pictures in {folder} are damaged; decoded anew", file=sys.stderr)
                _remove(folder)
            seal = _make(folder, listing, how)
    return folder, seal


def _make(folder: Path, listing: Listing, how: Preprocessing) -> dict:
    draft = _draft_of(folder)
    with writing(draft, OPTION):
        draft.mkdir(exist_ok=True)
    started = sum(file.stat().st_size for file in draft.glob("*.npy"))
    needed, free = decoded_bytes(listing, how) - started, shutil.disk_usage(draft).free
    if needed > free:
        raise StorageError(
            f"{folder.parent}: the decoded pictures take {needed / 1e6:,.1f} MB more, and {free / 1e6:,.1f} MB are free; "
            f"free some space there or name another folder with {OPTION}"
        )
    parts = {}
    with _bar(sum(len(files) for files, _ in listing.parts.values())) as advance:
        for part, (files, _) in listing.parts.items():
            parts[part] = _decode_part(draft / f"{part}.npy", files, how, advance)
    mean, std = channel_statistics(make_split(np.load(draft / "train.npy", mmap_mode="c"), np.empty(0)).images)
    seal = {
        "pictures_in": str(listing.root), "images": {part: len(files) for part, (files, _) in listing.parts.items()},
        "preprocessing": how.to_json(), "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "mean": mean, "std": std, "parts": parts,
    }  # fmt: skip
    with writing(folder, OPTION):
        for journal in draft.glob("*.sums"):
            journal.unlink()
        write_synced(draft / "seal.json", sealed_json(_stamped(draft, seal)))
        sync_folder(draft)
        draft.rename(folder)
        sync_folder(folder.parent)
    return seal


def _draft_of(folder: Path) -> Path:
    """Where pictures are decoded to before they are all there."""
    return folder.with_name(f".{folder.name}{DRAFT}")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _remove(folder: Path) -> None:
    with writing(folder, OPTION):
        shutil.rmtree(folder)


def _decode_part(path: Path, files: list[Path], how: Preprocessing, advance) -> dict:
    """Write one split's pictures, from where another process stopped; its checksums, of each chunk and in order."""
    shape, one = (len(files), CHANNELS, how.height, how.width), _bytes_of_one(how)
    of_a_chunk = max(1, CHUNK_BYTES // one)
    with writing(path, OPTION), open(path, "ab+") as file, open(path.with_suffix(".sums"), "ab+") as journal:
        sums = _kept(file, journal, shape, of_a_chunk)
        advance(min(len(sums) * of_a_chunk, len(files)))
        for start in range(len(sums) * of_a_chunk, len(files), of_a_chunk):
            chosen = files[start : start + of_a_chunk]
            chunk = decode_pictures(chosen, how).tobytes()
            file.write(chunk)
            _sync(file)
            sums.append(hashlib.sha256(chunk).hexdigest())
            journal.write(f"{sums[-1]}\n".encode())
            _sync(journal)
            advance(len(chosen))
    return {"chunk_images": of_a_chunk, "sha256": sums}


def _kept(file: BinaryIO, journal: BinaryIO, shape: tuple[int, ...], of_a_chunk: int) -> list[str]:
    """The checksums of the chunks that are in a file as they were written; what comes after them is cut off."""
    journal.seek(0)
    lines = journal.read().decode(errors="replace").splitlines(keepends=True)
    file.seek(0)
    begun = file.read(_header_bytes(shape)) == _header(shape)
    sums = []
    for number, line in enumerate(lines if begun else ()):
        count = min(of_a_chunk, shape[0] - number * of_a_chunk)
        chunk = file.read(max(count, 0) * _bytes(shape))
        if count <= 0 or hashlib.sha256(chunk).hexdigest() + "\n" != line:
            break
        sums.append(line.strip())
    file.truncate(0 if not begun else _header_bytes(shape) + min(len(sums) * of_a_chunk, shape[0]) * _bytes(shape))
    journal.truncate(len(sums) * 65)
    if not begun:
        file.write(_header(shape))
    return sums


def _bytes(shape: tuple[int, ...]) -> int:
    """Of one image."""
    return int(np.prod(shape[1:]))


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _header_bytes(shape: tuple[int, ...]) -> int:
    return len(_header(shape))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _bar(pictures: int):
    """A bar at a terminal; gives what it is to be told of pictures that are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("decoding pictures, once"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=pictures)
        yield lambda count: bar.advance(task, count)


# Opening -------------------------------------------------------------------------------------------------------------


def _stamped(folder: Path, seal: dict) -> dict:
    status = {part: (folder / f"{part}.npy").stat() for part in seal["parts"]}
    return {**seal, "stamps": {part: [one.st_size, one.st_mtime_ns] for part, one in status.items()}}


def _checked_seal(folder: Path) -> dict | None:
    """A folder's seal where its files are those that were written; None where they aren't, or there is none."""
    try:
        seal = read_sealed_json(folder / "seal.json")
        stamped = _stamped(folder, seal)
    except (OSError, Damaged):
        return None
    if stamped == seal:
        return seal
    if not is_whole(folder, seal):
        return None
    write_whole(folder / "seal.json", sealed_json(stamped))  # it was copied, or touched
    return stamped


def is_whole(folder: Path, seal: dict) -> bool:
    """Whether all bytes of a folder's pictures are those that were written."""
    side = seal["preprocessing"]["height"]
    for part, sums in seal["parts"].items():
        shape = seal["images"][part], CHANNELS, side, side
        try:
            with open(folder / f"{part}.npy", "rb") as file:
                if file.read(_header_bytes(shape)) != _header(shape):
                    return False
                for sha256 in sums["sha256"]:
                    if hashlib.sha256(file.read(sums["chunk_images"] * _bytes(shape))).hexdigest() != sha256:
                        return False
                if file.read(1):
                    return False
        except OSError:
            return False
    return True


# What there is -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A folder of decoded pictures. seal: None where it isn't finished, or can't be read."""

    folder: Path
    bytes: int
    seal: dict | None

    @property
    def finished(self) -> bool:
        return not self.folder.name.endswith(DRAFT)


def kept() -> list[Kept]:
    """All decoded pictures of this machine's cache, by name."""
    place = cache_folder() / "decoded"
    found = []
    for folder in sorted(path for path in place.glob("*") if path.is_dir()) if place.is_dir() else ():
        try:
            seal = read_sealed_json(folder / "seal.json")
        except (OSError, Damaged):
            seal = None
        found.append(Kept(folder, sum(file.stat().st_size for file in folder.iterdir()), seal))
    return found


def clear(entry: Kept) -> bool:
    """Delete decoded pictures; False where a process is decoding them. Those that map them keep them while they run."""
    name = entry.folder.name.removeprefix(".").removesuffix(DRAFT)
    lock = _lock_of(entry.folder.with_name(name))
    try:
        with FileLock(lock, timeout=0):
            _remove(entry.folder)
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
