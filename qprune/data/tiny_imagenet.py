"""tiny_imagenet: 100,000 photographs of 200 of ImageNet's classes, 64 pixels (Stanford's CS231n course).

Splits: a fixed, stratified 10% of train/ are the validation images; the course's own val/, whose labels are public,
is the test split. Files as the course's archive has them: <root>/{train/<class>/images/, val/val_annotations.txt,
val/images/}; <root> may also be the folder above, with tiny-imagenet-200/ in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qprune.data.base import Listing, held_out
from qprune.data.files import hash_files
from qprune.data.pictures import identity
from qprune.data.places import default_root
from qprune.data.remembered import remembering
from qprune.registry.errors import UserError

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
ANNOTATIONS = "val_annotations.txt"


def _root(options: dict) -> Path:
    root = Path(options["root"]) if options["root"] else default_root("tiny_imagenet")
    root = root / FOLDER if (root / FOLDER).is_dir() else root
    for needed in ("train", f"val/{ANNOTATIONS}"):
        if not (root / needed).exists():
            raise UserError(
                f"data tiny_imagenet: {needed} not found. Looked in: {root}. "
                f"Unpack {URL} and set root: to its folder {FOLDER}."
            )
    return root


def _list(root: Path) -> tuple[tuple[str, ...], list[list[Path]], list[tuple[Path, str]]]:
    """Class names, the training files of each class, and (file, class name) of val/."""
    names = tuple(sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir()))
    train = [sorted((root / "train" / name / "images").glob("*.JPEG")) for name in names]
    for name, files in zip(names, train, strict=True):
        if not files:
            raise UserError(
                f"data tiny_imagenet: {root / 'train' / name / 'images'} holds no *.JPEG; unpack {URL} again."
            )
    val = []
    for number, line in enumerate((root / "val" / ANNOTATIONS).read_text(errors="replace").splitlines(), 1):
        file, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in names:
            raise UserError(
                f"data tiny_imagenet: {root / 'val' / ANNOTATIONS}:{number}: {label!r} is no folder of train/."
            )
        val.append((root / "val" / "images" / file, label))
    if not val:
        raise UserError(f"data tiny_imagenet: {root / 'val' / ANNOTATIONS} is empty; unpack {URL} again.")
    return names, train, val


def listing(options: dict) -> Listing:
    root = _root(options)
    names, classes, annotated = _list(root)
    files = [file for own in classes for file in own]
    labels = np.concatenate([np.full(len(own), label, np.int64) for label, own in enumerate(classes)])
    place = {name: label for label, name in enumerate(names)}
    train, val = (([files[i] for i in part], labels[part]) for part in held_out(labels))
    test = [file for file, _ in annotated], np.array([place[name] for _, name in annotated])
    return Listing(root, {"train": train, "val": val, "test": test}, names)


def fingerprint(options: dict) -> str:
    root = _root(options)
    _, train, val = _list(root)
    pictures = [*(file for own in train for file in own), *(file for file, _ in val)]
    with remembering(len(pictures)):
        named = [(identity(file.relative_to(root).as_posix(), file), file) for file in pictures]
        return hash_files([(f"val/{ANNOTATIONS}", root / "val" / ANNOTATIONS), *named])


def check(options: dict) -> None:
    _root(options)
