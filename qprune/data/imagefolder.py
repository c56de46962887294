"""imagefolder: the user's own pictures, one folder per class.

Two layouts, told apart by the names of the folders in root (layout.py):

    root/train/<class>/*.jpg, root/test/<class>/*.jpg, and root/val/<class>/*.jpg
        Or Training, Testing, valid, validation, dev, seg_train ..., in any case. Without val, a fixed stratified 10% of
        train are held out.
    root/<class>/*.jpg
        A fixed stratified 70% train, 10% val, 20% test.

Pictures are decoded as pictures.py says. Files below a class folder are found at any depth; hidden ones and those
without a picture's suffix are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qprune.data.base import Listing, stratified_split
from qprune.data.files import hash_files
from qprune.data.layout import SPLITS, SplitFolders, check_no_splits, find_splits, names_of, split_of
from qprune.data.pictures import SUFFIXES, identity
from qprune.data.remembered import remembering
from qprune.registry import nearest
from qprune.registry.errors import UserError
from qprune.registry.show import printable

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


@dataclass
class _Listing:
    """Files and labels of the class folders in one folder, and what lies there unread: suffix -> files, and pictures that
    are in no class folder."""

    files: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    no_pictures: Counter[str] = field(default_factory=Counter)
    classless: int = 0


def _is_picture(file: str) -> bool:
    return file.lower().endswith(SUFFIXES)


def _list_classes(folder: Path, class_names: tuple[str, ...], may_lack: bool) -> _Listing:
    """What a folder of class folders holds, which must all be among `class_names`.

    may_lack: whether a class folder may be empty
    """
    found = _Listing(classless=sum(_is_picture(file) for file in _visible(next(_walk(folder))[1])))
    for class_folder in _folders(folder):
        if class_folder.name not in class_names:
            hint = nearest(class_folder.name, list(class_names))
            raise UserError(f"data imagefolder: {class_folder} is no class of the training pictures{hint}")
        check_no_splits(class_folder, _folders(class_folder))
        pictures = []
        for where, files in _walk(class_folder):
            pictures += [f"{where}/{file}" for file in _visible(files) if _is_picture(file)]
            found.no_pictures.update(Path(file).suffix.lower() for file in _visible(files) if not _is_picture(file))
        if not pictures and not may_lack:
            raise UserError(
                f"data imagefolder: the class folder {class_folder} holds no picture ({', '.join(SUFFIXES)})."
            )
        found.files += map(Path, sorted(pictures, key=_parts))
        found.labels += [class_names.index(class_folder.name)] * len(pictures)
    if not found.files:
        raise UserError(f"data imagefolder: {folder} holds no class folders{' with pictures' if may_lack else ''}.")
    return found


def _parts(name: str) -> list[str]:
    """By which paths are ordered: folder by folder."""
    return name.split("/")


def _visible(files: list[str]) -> list[str]:
    return [file for file in files if not file.startswith(".")]


@dataclass(frozen=True)
class _Pictures(Listing):
    """named: each file's name in the fingerprint, which is the same whatever the folders of the splits are called."""

    named: list[tuple[str, Path]] = field(default_factory=list)


def list_pictures(root: Path) -> _Pictures:
    """What root holds, split as the module's docstring says; nothing is decoded."""
    splits = find_splits(root, _folders(root))
    folders = {split: _inner(folder, split) for split, folder in splits.folders.items()} if splits else {"": root}
    class_names = tuple(folder.name for folder in _folders(folders["train" if splits else ""]))
    lists = {split: _list_classes(folder, class_names, split in ("val", "test")) for split, folder in folders.items()}
    parts = {split: (found.files, np.array(found.labels, dtype=np.int64)) for split, found in lists.items()}
    if not splits:
        parts = dict(zip(("test", "val", "train"), _divide(*parts[""], (0.2, 0.1)), strict=True))
    elif "val" not in parts:
        parts["val"], parts["train"] = _divide(*parts["train"], (0.1,))
    if len(class_names) < 2:
        raise UserError(f"data imagefolder: {root} holds {len(class_names)} class folder; at least 2 are needed.")
    for name, (files, _) in parts.items():
        if not files:
            raise UserError(f"data imagefolder: {root} holds too few pictures: none is left for {name}.")
    named = [
        (f"{split}/{os.fspath(file)[len(os.fspath(folder)) + 1 :]}".removeprefix("/"), file)
        for split, folder in folders.items()
        for file in lists[split].files
    ]
    notes = (_origin(root, folders), *_unread(splits, list(lists.values())))
    return _Pictures(root, parts, tuple(map(printable, class_names)), notes, named)


def _inner(folder: Path, split: str) -> Path:
    """The folder that holds a split's classes: an archive often has a train/ in its train/."""
    inner = _folders(folder)
    while len(inner) == 1 and (split_of(inner[0].name) or ("",))[0] == split:
        folder = inner[0]
        inner = _folders(folder)
    return folder


def _origin(root: Path, folders: dict[str, Path]) -> str:
    if "" in folders:
        return f"the folders in {root} are classes: train has 70% of each, val 10%, test 20%, always the same ones"
    names = {split: f"{printable(folder.relative_to(root).as_posix())}/" for split, folder in folders.items()}
    names.setdefault("val", f"10% of {names['train']}, always the same ones")
    return ", ".join(f"{split} is {names[split]}" for split in SPLITS)


def _unread(splits: SplitFolders | None, lists: list[_Listing]) -> list[str]:
    """What lies in the folders and is no part of the data, in words."""
    suffixes = sum((found.no_pictures for found in lists), Counter())
    classless = sum(found.classless for found in lists)
    said = []
    if splits and splits.others:
        said.append(f"not read: {names_of(splits.others)} beside the splits")
    if classless:
        said.append(f"not read: {_count(classless, 'picture')} in no class folder")
    if suffixes:
        kinds = ", ".join(
            f"{count:,} {printable(suffix) or 'without a suffix'}" for suffix, count in suffixes.most_common(5)
        )
        said.append(f"not read: {_count(suffixes.total(), 'file')} without a picture's suffix ({kinds})")
    return said


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _divide(files: list[Path], labels: np.ndarray, shares: tuple[float, ...]) -> list[tuple[list[Path], np.ndarray]]:
    return [([files[i] for i in part], labels[part]) for part in stratified_split(labels, shares)]


def listing(options: dict) -> _Pictures:
    return list_pictures(_root(options))


def fingerprint(options: dict) -> str:
    named = sorted(listing(options).named, key=lambda pair: _parts(pair[0]))
    with remembering(len(named)):
        return hash_files((identity(name, file), file) for name, file in named)


def check(options: dict) -> None:
    listing(options)
