"""The MNIST family: four files in the idx format, as they are or compressed with gzip.

Format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit integer, then the values (Y. LeCun, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from qprune.data.base import Parts, Source, hold_out_val, make_split
from qprune.data.files import default_root, fetch, hash_files, not_found
from qprune.errors import UserError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file (.gz or plain), with that number of dimensions.

    Raises UserError where the file is cut short, too long, or no such idx file.
    """
    remedy = "It is damaged or only half downloaded: remove it and fetch it again."
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data: {path} can't be read ({error}). {remedy}") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"data: {path} is no idx file of {dimensions} dimensions of bytes. {remedy}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != expected:
        raise UserError(
            f"data: {path} announces {'x'.join(map(str, shape))} = {expected} values and holds "
            f"{len(content) - start}. {remedy}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_pair(folder: dict[str, Path], part: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 1, h, w] and labels [n] of "train" or "t10k"."""
    images = read_idx(folder[f"{part}-images-idx3-ubyte"], 3)
    file = folder[f"{part}-labels-idx1-ubyte"]
    labels = read_idx(file, 1)
    if len(images) != len(labels):
        raise UserError(f"data: {file} holds {len(labels)} labels for {len(images)} images.")
    if len(labels) == 0 or labels.max() >= num_classes:
        raise UserError(f"data: {file} must hold labels from 0 to {num_classes - 1}; it is damaged.")
    return images[:, None], labels.astype(np.int64)


def idx_source(
    name: str,
    class_name: str,
    class_names: tuple[str, ...],
    augment: tuple[str, ...],
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
        """The four files by name, from the first place that has any of them; None where no place has."""
        for place in places(options):
            files = {file: path for file in FILES for path in (place / f"{file}.gz", place / file) if path.is_file()}
            if len(files) == len(FILES):
                return files
            if files and not options["download"]:
                missing = next(file for file in FILES if file not in files)
                raise not_found(name, f"the set in {place} is incomplete, {missing}[.gz]", [place], extra)
        return None

    def check(options: dict) -> None:
        if find(options) is None and not options["download"]:
            raise not_found(name, f"{FILES[0]}[.gz]", places(options), extra)

    def locate(options: dict) -> dict[str, Path]:
        """As `find`, after a download where one is wanted and needed."""
        check(options)
        files = find(options)
        if files is None:
            from torchvision import datasets

            root = places(options)[0]
            fetch(name, root, lambda: getattr(datasets, class_name)(str(root), download=True))
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

    return Source({"root": None, "download": False}, augment, load, fingerprint, check)
