"""`qprune data`: what a sweep's data sets hold, how pictures become images, and the list of their files."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from qprune.data import Dataset, Split, list_files, preprocessing_of
from qprune.data.base import names_of_classes
from qprune.registry.errors import UserError
from qprune.registry.show import printable
from qprune.settings.config import SweepConfig
from qprune.storage.durable import write_whole
from qprune.sweep.data_lines import data_lines, data_sets, splits_of

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's mode of a PNG
LISTED = "files.csv"  # the list in the folder that --write fills


@dataclass(frozen=True)
class Row:
    """A line of the list: one image. file: relative to the folder that its data set's files are in."""

    data: str
    split: str
    class_name: str
    label: int
    file: str


def show_data(config: SweepConfig, csv_file: Path | None, folder: Path | None, console: Console) -> None:
    """Print a sweep's splits, its preprocessing, and where files are; write their list, and with `folder` images as PNG.

    csv_file: of the list, default `folder`/files.csv. Data sets of picture files aren't written: they are there already.
    """
    rows: list[Row] = []
    lines = list(data_lines(config, every_class=True))
    sets = list(data_sets(config))
    several = len(sets) > 1
    for choice, name, data in sets:
        how = preprocessing_of(choice.settings, data)
        lines.append(f"{name}: {how.words()}")
        listing = list_files(choice.settings)
        if listing is not None:
            root = listing.root
            files = {
                split: [file.relative_to(root).as_posix() for file in own] for split, (own, _) in listing.parts.items()
            }
            lines.append(f"{name}: picture files are in {printable(str(root))}")
        elif folder is not None:
            root = folder
            files = write_images(data, name, folder / name if several else folder, folder)
            lines.append(f"{name}: images are written as PNG into {printable(str(root))}")
        else:
            lines.append(f"{name}: no picture files; --write DIR writes its images as PNG, and their list")
            continue
        rows += rows_of(data, name, files)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    target = csv_file or (folder / LISTED if folder is not None else None)
    if target is None:
        return
    if not rows:
        raise UserError(f"--csv {target}: none of the data sets is made of picture files; --write DIR writes some")
    write_whole(target, as_csv(rows, several).encode("utf-8", "surrogateescape"))
    console.print(
        f"{len(rows):,} files listed in {printable(str(target))}", highlight=False, markup=False, soft_wrap=True
    )


def rows_of(data: Dataset, name: str, files: dict[str, list[str]]) -> Iterator[Row]:
    """The list of a data set's files, split by split in the order of its images."""
    classes = names_of_classes(data.class_names, data.num_classes)
    for split, images in splits_of(data):
        for label, file in zip(images.labels.tolist(), files[split], strict=True):
            yield Row(name, split, classes[label], label, file)


def as_csv(rows: list[Row], several: bool) -> str:
    """With a column of the data set's name where there are several."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*(["data"] if several else []), "split", "class", "label", "file"])
    for row in rows:
        table.writerow([*([row.data] if several else []), row.split, row.class_name, row.label, row.file])
    return text.getvalue()


def write_images(data: Dataset, name: str, folder: Path, root: Path) -> dict[str, list[str]]:
    """Write the images as PNG of 8 bits, folder/<split>/<class>/NNNNN.png; split -> their places, relative to root.

    Raises UserError where they are neither grey nor of three channels, or a file can't be written.
    """
    channels = data.train.images.shape[1]
    if channels not in MODES:
        raise UserError(f"data {name}: images of {channels} channels can't be written as PNG; 1 and 3 can")
    classes = folders_of(names_of_classes(data.class_names, data.num_classes))
    return {split: _write_split(images, classes, folder / split, root) for split, images in splits_of(data)}


def _write_split(split: Split, classes: list[str], folder: Path, root: Path) -> list[str]:
    files = []
    for number, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
        file = folder / classes[label] / f"{number:05d}.png"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _picture(image).save(file)
        except OSError as error:
            raise UserError(f"--write {root}: {file} can't be written: {error.strerror or error}") from error
        files.append(file.relative_to(root).as_posix())
    return files


def _picture(image: np.ndarray):
    """uint8 [c, h, w] as Pillow's."""
    from PIL import Image

    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def folders_of(classes: list[str]) -> list[str]:
    """A folder's name for each class, different where the classes are: "T-shirt/top" -> "T-shirt_top"."""
    plain = [re.sub(r"[^\w.+ -]|^\.", "_", name)[:60].strip() or "_" for name in classes]
    folded = [name.casefold() for name in plain]
    return [
        name if folded.count(folded[label]) == 1 else f"{label}_{name}" for label, name in enumerate(plain)
    ]  # also where a file system takes a and A for the same
