"""Decoded pictures in files that all processes of a machine map: each is decoded once, and its memory shared.

<cache>/decoded/<key>/ holds train.npy, val.npy, test.npy and maybe stored.npy, the training pictures larger, of which
augmentation takes crops (uint8 [n, 3, side, side]), and seal.json: what they are of, their
checksums, size and time. It appears whole or not at all; what a killed process has decoded stays under another name, and the
next one goes on from there. A file whose size or time is no longer that of the seal is read and held against its checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from qprune.data.base import Listing, Parts, Statistics, channel_statistics, make_split
from qprune.data.pictures import BadPicture, blame_pictures, decode_pictures, notes_on
from qprune.data.places import OPTION, cache_folder
from qprune.data.preprocessing import Preprocessing
from qprune.data.remembered import remembering
from qprune.storage.durable import StorageError, sync_folder, write_synced, write_whole, writing
from qprune.storage.seal import Damaged, read_sealed_json, sealed_json

VERSION = 1  # of what read_picture.py makes of a file, and of the layout
LEAST_BYTES = 64 * 2**20  # of decoded pictures that are kept in files; fewer are decoded by each process
CHUNK_BYTES = 16 * 2**20  # after so many, what is decoded survives
CHANNELS = 3
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python's mmap doesn't name
DRAFT = ".part"


@dataclass(frozen=True)
class Part:
    """Files that become one array, as `how` says."""

    files: list[Path]
    how: Preprocessing

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.files), CHANNELS, self.how.height, self.how.width

    @property
    def bytes(self) -> int:
        return math.prod(self.shape)


def decode_listing(listing: Listing, how: Preprocessing, content: str, store_size: int | None = None) -> Parts:
    """A data set's pictures, decoded: in memory, or mapped from the cache where they are large. content: of the files;
    store_size: of the training pictures that crops are taken of, if there are any.

    Raises BadPicture naming the files that can't be decoded, StorageError where the cache can't be written.
    """
    files = [file for files, _ in listing.parts.values() for file in files]
    with remembering(len(files)):
        notes = (*listing.notes, *notes_on(files))
    parts = {name: Part(files, how) for name, (files, _) in listing.parts.items()}
    if store_size is not None:
        larger = replace(how, height=store_size, width=store_size, resize_to=store_size)
        parts["stored"] = Part(listing.parts["train"][0], larger)
    try:
        images, statistics, folder = _arrays(parts, content, listing.root)
    except BadPicture:
        blame_pictures(files, how)
        raise
    labels = {name: labels for name, (_, labels) in listing.parts.items()}
    train = make_split(images["train"], labels["train"], images.get("stored"))
    val, test = (make_split(images[name], labels[name]) for name in ("val", "test"))
    return Parts(train, val, test, listing.class_names, notes, statistics, folder)


def _arrays(
    parts: dict[str, Part], content: str, root: Path
) -> tuple[dict[str, np.ndarray], Statistics | None, Path | None]:
    """The images, their training statistics where they are known, and the folder of the files that they are mapped from."""
    if sum(part.bytes for part in parts.values()) < LEAST_BYTES:
        return {name: decode_pictures(part.files, part.how) for name, part in parts.items()}, None, None
    folder, seal = _opened_or_made(parts, content, root)
    images = {name: _mapped(folder / f"{name}.npy", part.shape) for name, part in parts.items()}
    return images, (tuple(seal["mean"]), tuple(seal["std"])), folder


def key_of(parts: dict[str, Part], content: str) -> str:
    """What decoded pictures are called: by their files' content, how they are decoded and by which Pillow."""
    from PIL import __version__ as pillow

    made = {name: [len(part.files), part.how.to_json()] for name, part in parts.items()}
    return hashlib.sha256(json.dumps([VERSION, pillow, content, made], sort_keys=True).encode()).hexdigest()[:16]


# Making --------------------------------------------------------------------------------------------------------------


def _opened_or_made(parts: dict[str, Part], content: str, root: Path) -> tuple[Path, dict]:
    """The folder and its seal. root: of the files, for those who list what is kept."""
    folder = cache_folder() / "decoded" / key_of(parts, content)
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
            seal = _make(folder, parts, root)
    return folder, seal


def _make(folder: Path, parts: dict[str, Part], root: Path) -> dict:
    draft = _draft_of(folder)
    with writing(draft, OPTION):
        draft.mkdir(exist_ok=True)
    begun = sum(file.stat().st_size for file in draft.glob("*.npy"))
    needed, free = sum(part.bytes for part in parts.values()) - begun, shutil.disk_usage(draft).free
    if needed > free:
        raise StorageError(
            f"{folder.parent}: the decoded pictures take {needed / 1e6:,.1f} MB more, and {free / 1e6:,.1f} MB are free; "
            f"free some space there or name another folder with {OPTION}"
        )
    sums = {}
    with _bar(sum(len(part.files) for part in parts.values())) as advance:
        for name, part in parts.items():
            sums[name] = _decode_part(draft / f"{name}.npy", part, advance)
    mean, std = channel_statistics(make_split(_mapped(draft / "train.npy", parts["train"].shape), np.empty(0)).images)
    seal = {
        "pictures_in": str(root), "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "preprocessing": parts["train"].how.to_json(), "mean": mean, "std": std,
        "parts": {name: {"shape": part.shape, **sums[name]} for name, part in parts.items()},
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


def _decode_part(path: Path, part: Part, advance: Callable[[int], None]) -> dict:
    """Write one array, from where another process stopped; its checksums, of each chunk and in order."""
    count, one = len(part.files), part.bytes // len(part.files)
    of_a_chunk = max(1, CHUNK_BYTES // one)
    with writing(path, OPTION), open(path, "ab+") as file, open(path.with_suffix(".sums"), "ab+") as journal:
        sums = _kept(file, journal, part.shape, of_a_chunk)
        advance(min(len(sums) * of_a_chunk, count))
        for start in range(len(sums) * of_a_chunk, count, of_a_chunk):
            chosen = part.files[start : start + of_a_chunk]
            chunk = decode_pictures(chosen, part.how).tobytes()
            file.write(chunk)
            _sync(file)
            sums.append(hashlib.sha256(chunk).hexdigest())
            journal.write(f"{sums[-1]}\n".encode())
            _sync(journal)
            advance(len(chosen))
    return {"chunk_images": of_a_chunk, "sha256": sums}


def _kept(file: BinaryIO, journal: BinaryIO, shape: tuple[int, ...], of_a_chunk: int) -> list[str]:
    """The checksums of the chunks that are in a file as they were written; what comes after them is cut off."""
    header, one = _header(shape), math.prod(shape[1:])
    journal.seek(0)
    lines = journal.read().decode(errors="replace").splitlines(keepends=True)
    file.seek(0)
    begun = file.read(len(header)) == header
    sums = []
    for number, line in enumerate(lines if begun else ()):
        count = min(of_a_chunk, shape[0] - number * of_a_chunk)
        chunk = file.read(max(count, 0) * one)
        if count <= 0 or hashlib.sha256(chunk).hexdigest() + "\n" != line:
            break
        sums.append(line.strip())
    file.truncate(len(header) + min(len(sums) * of_a_chunk, shape[0]) * one if begun else 0)
    journal.truncate(len(sums) * 65)  # a checksum and the line's end
    if not begun:
        file.write(header)
    return sums


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
    return header.getvalue()


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


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A file's array, its pages shared with all who map it; what a process writes stays its own.

    NOTE numpy's mode "c" asks the system to reserve memory for the whole file, which it refuses beyond what it has.
    """
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(mapped, np.uint8, offset=len(_header(shape))).reshape(shape)


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
    try:
        return all(_is_part_whole(folder / f"{name}.npy", part) for name, part in seal["parts"].items())
    except OSError:
        return False


def _is_part_whole(path: Path, part: dict) -> bool:
    header, one = _header(part["shape"]), math.prod(part["shape"][1:])
    with open(path, "rb") as file:
        if file.read(len(header)) != header:
            return False
        chunks = (hashlib.sha256(file.read(part["chunk_images"] * one)).hexdigest() for _ in part["sha256"])
        return all(chunk == written for chunk, written in zip(chunks, part["sha256"], strict=True)) and not file.read(1)


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
