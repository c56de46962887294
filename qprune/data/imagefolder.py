"""imagefolder: the user's own pictures, one folder per class.

Two layouts, told apart by whether root holds a folder `train` or `test`:

    root/train/<class>/*.jpg, root/test/<class>/*.jpg, and root/val/<class>/*.jpg
        Without val, a fixed stratified 10% of train are held out.
    root/<class>/*.jpg
        A fixed stratified 70% train, 10% val, 20% test.

Pictures become RGB, their shorter side is resized to `image_size`, the centre is cut out. Files below a class
folder are found at any depth; hidden ones and those without a picture's suffix are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from qprune.data.base import Parts, Split, make_split, stratified_split
from qprune.data.files import hash_files
from qprune.data.pictures import SUFFIXES, decode_pictures
from qprune.registry import nearest
from qprune.registry.errors import UserError

MAX_FOLDERS = 20_000  # below one class folder


def _root(options: dict) -> Path:
    if not options["root"]:
        raise UserError("data imagefolder: root is missing: the folder that holds train/ and test/, or one per class.")
    root = Path(options["root"])
    if not root.is_dir():
        raise UserError(f"data imagefolder: there is no folder {root} (root).")
    return root


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if os.path.isdir(path) and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"data imagefolder: {folder} can't be read: {error.strerror}.") from error


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, its files) of all folders below, through links too, but into none a second time on one way down."""
    ways: dict[str, frozenset[tuple[int, int]]] = {
        str(folder): frozenset()
    }  # folder -> (device, inode) of all folders above it
    for count, (where, folders, files) in enumerate(os.walk(folder, followlinks=True)):
        if count == MAX_FOLDERS:
            raise UserError(f"data imagefolder: {folder} holds more than {MAX_FOLDERS:,} folders; is it the right one?")
        status = os.stat(where)
        above = ways.pop(where) | {(status.st_dev, status.st_ino)}
        for name in list(folders):
            inner = os.path.join(where, name)
            with suppress(OSError):  # one that has just been deleted is no circle, and os.walk passes over it
                status = os.stat(inner)
                if (status.st_dev, status.st_ino) in above:
                    raise UserError(f"data imagefolder: {inner} is a link to a folder that it lies in. Remove it.")
            ways[inner] = above
        yield where, files


def _pictures(folder: Path) -> list[Path]:
    """The picture files below a class folder, sorted; UserError where there is none."""
    found = [
        Path(where) / file
        for where, files in _walk(folder)
        for file in files
        if not file.startswith(".") and file.lower().endswith(SUFFIXES)
    ]
    if not found:
        raise UserError(f"data imagefolder: the class folder {folder} holds no picture ({', '.join(SUFFIXES)}).")
    return sorted(found)


def _list_split(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """Files and labels [n] of a folder of class folders, which must all be among `class_names`."""
    files, labels = [], []
    for class_folder in _folders(folder):
        if class_folder.name not in class_names:
            hint = nearest(class_folder.name, list(class_names))
            raise UserError(f"data imagefolder: {class_folder} is no class of the training pictures{hint}")
        pictures = _pictures(class_folder)
        files += pictures
        labels += [class_names.index(class_folder.name)] * len(pictures)
    if not files:
        raise UserError(f"data imagefolder: {folder} holds no class folders.")
    return files, np.array(labels, dtype=np.int64)


def list_pictures(root: Path) -> tuple[dict[str, tuple[list[Path], np.ndarray]], tuple[str, ...]]:
    """({"train" | "val" | "test": (files, labels)}, class names), split as the module's docstring says."""
    split = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" in split or "test" in split:
        for name in ("train", "test"):
            if name not in split:
                raise UserError(
                    f"data imagefolder: {root} holds {' and '.join(f'{other}/' for other in split)} but no {name}/. "
                    "Needed are train/ and test/ (a missing val/ is drawn from train/), or only class folders."
                )
        class_names = tuple(folder.name for folder in _folders(split["train"]))
        parts = {name: _list_split(folder, class_names) for name, folder in split.items()}
        if "val" not in parts:
            parts["val"], parts["train"] = _divide(*parts["train"], (0.1,))
    else:
        class_names = tuple(folder.name for folder in _folders(root))
        parts = dict(zip(("test", "val", "train"), _divide(*_list_split(root, class_names), (0.2, 0.1)), strict=True))
    if len(class_names) < 2:
        raise UserError(f"data imagefolder: {root} holds {len(class_names)} class folder; at least 2 are needed.")
    for name, (files, _) in parts.items():
        if not files:
            raise UserError(f"data imagefolder: {root} holds too few pictures: none is left for {name}.")
    return parts, class_names


def _divide(files: list[Path], labels: np.ndarray, shares: tuple[float, ...]) -> list[tuple[list[Path], np.ndarray]]:
    return [([files[i] for i in part], labels[part]) for part in stratified_split(labels, shares)]


def load(options: dict) -> Parts:
    parts, class_names = list_pictures(_root(options))
    split: dict[str, Split] = {
        name: make_split(decode_pictures(files, options["image_size"]), labels)
        for name, (files, labels) in parts.items()
    }
    return Parts(split["train"], split["val"], split["test"], class_names)


def fingerprint(options: dict) -> str:
    root = _root(options)
    parts, _ = list_pictures(root)
    files = sorted(file for files, _ in parts.values() for file in files)
    return hash_files((file.relative_to(root).as_posix(), file) for file in files)


def check(options: dict) -> None:
    list_pictures(_root(options))
