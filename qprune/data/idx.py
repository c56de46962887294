"""The MNIST family: four files in the idx format, as they are or compressed with gzip.

Format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit integer, then the values (Y. LeCun, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from qprune.data.base import Parts, Source, hold_out_val, make_split
from qprune.data.files import fetch, fetch_file, hash_files, not_found
from qprune.data.places import default_root
from qprune.registry.errors import UserError

MAX_VALUES = 2**31 - 2  # of one file; MNIST's have 47 million
SURPLUS = 2**20  # read beyond that, to say how long a file is that is too long
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file (.gz or plain), with that number of dimensions.

    Little more is read than the file announces, so a few bytes of gzip can't fill the memory.
    Raises UserError where the file is cut short, too long, or no such idx file.
    """
    remedy = "It is damaged or only half downloaded: remove it and fetch it again."
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise UserError(f"data: {path} is no idx file of {dimensions} dimensions of bytes. {remedy}")
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            expected = math.prod(shape)
            values = file.read(min(expected, MAX_VALUES) + SURPLUS)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data: {path} can't be read ({error}). {remedy}") from error
    if len(values) != expected:
        held = f"{len(values)}{' or more' if len(values) == min(expected, MAX_VALUES) + SURPLUS else ''}"
        raise UserError(
            f"data: {path} announces {'x'.join(map(str, shape))} = {expected} values and holds {held}. {remedy}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _pick(place: Path, file: str, only_whole: bool) -> Path | None:
    """A file in a folder, plain or .gz, one that is whole before one that isn't; None where there is none."""
    paths = [path for path in (place / file, place / f"{file}.gz") if path.is_file()]
    whole = [path for path in paths if _is_whole(path)]
    return next(iter(whole or ([] if only_whole else paths)), None)


def _is_whole(path: Path) -> bool:
    """Whether an idx file is as long as it announces; of a .gz, what its last four bytes say of its length.

    Quick: the values aren't read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(16)
            dimensions = header[3] if len(header) > 3 else 0
            shape = np.frombuffer(header[4 : 4 + 4 * dimensions], ">u4")
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little") if path.suffix == ".gz" else path.stat().st_size
    except (OSError, EOFError, ValueError, zlib.error):
        return False
    return len(shape) == dimensions > 0 and length == 4 + 4 * dimensions + math.prod(map(int, shape))


def _read_pair(folder: dict[str, Path], part: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 1, h, w] and labels [n] of "train" or "t10k"."""
    images = read_idx(folder[f"{part}-images-idx3-ubyte"], 3)
    file = folder[f"{part}-labels-idx1-ubyte"]
    labels = read_idx(file, 1)
    if len(images) != len(labels):
        raise UserError(f"data: {file} holds {len(labels)} labels for {len(images)} images.")
    if images.shape[1] != images.shape[2]:
        raise UserError(
            f"data: the images next to {file} are {images.shape[1]}x{images.shape[2]}; they must be square."
        )
    if len(labels) == 0 or labels.max() >= num_classes:
        raise UserError(f"data: {file} must hold labels from 0 to {num_classes - 1}; it is damaged.")
    return images[:, None], labels.astype(np.int64)


def idx_source(
    name: str,
    class_name: str,
    class_names: tuple[str, ...],
    system_folder: Path | None = None,
) -> Source:
    """The source of a data set in idx files. class_name: torchvision's, which downloads.

    system_folder: where a system package puts the files, looked in after the cache.
    """
    extra = f" Debian's package dataset-fashion-mnist puts them in {system_folder}." if system_folder else ""

    def places(options: dict) -> list[Path]:
        base = Path(options["root"]) if options["root"] else default_root(name)
        found = [base, base / class_name / "raw"]
        return found if options["root"] or system_folder is None else [*found, system_folder]

    def find(options: dict) -> dict[str, Path] | None:
        """The four files by name, from the first place that has any of them; None where no place has.

        With download: true, a file that is only half there is one that has to be fetched.
        """
        for place in places(options):
            files = {file: path for file in FILES if (path := _pick(place, file, only_whole=options["download"]))}
            if len(files) == len(FILES):
                return files
            if files and not options["download"]:
                missing = next(file for file in FILES if file not in files)
                raise not_found(name, f"the set in {place} is incomplete, {missing}[.gz]", [place], extra)
        return None

    def check(options: dict) -> None:
        if find(options) is None and not options["download"]:
            raise not_found(name, f"{FILES[0]}[.gz]", places(options), extra)

    def download(folder: Path) -> None:
        from torchvision import datasets

        dataset = getattr(datasets, class_name)
        for file, md5 in dataset.resources:
            fetch_file(folder / file, [f"{mirror}{file}" for mirror in dataset.mirrors], md5)

    def locate(options: dict) -> dict[str, Path]:
        """As `find`, after a download where one is wanted and needed."""
        check(options)
        files = find(options)
        if files is None:
            fetch(name, places(options)[0], lambda: download(places(options)[0] / class_name / "raw"))
            files = find(options)
        if files is None:
            raise not_found(name, f"after the download, {FILES[0]}[.gz]", places(options), extra)
        return files

    def load(options: dict) -> Parts:
        files = locate(options)
        train, val = hold_out_val(*_read_pair(files, "train", len(class_names)))
        test = make_split(*_read_pair(files, "t10k", len(class_names)))
        return Parts(train, val, test, class_names)

    def fingerprint(options: dict) -> str:
        return hash_files(sorted(locate(options).items()))

    return Source(load, fingerprint, check)
