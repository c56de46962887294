"""The CIFAR family: 60,000 colour images, 32x32 (Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009), in the files of the official Python version.

torchvision reads them, after comparing every file with its published MD5 sum: so half a download, or a
pickle from somewhere else, is never opened.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qprune.data.base import Parts, Source, hold_out_val, make_split
from qprune.data.files import fetch, fetch_file, hash_files, not_found, unpack
from qprune.data.places import default_root
from qprune.registry.errors import UserError


def cifar_source(name: str, class_name: str, folder: str, files: tuple[str, ...]) -> Source:
    """The source of CIFAR-10 or CIFAR-100. folder, files: what the official archive unpacks to."""

    def root_of(options: dict) -> Path:
        """The folder that holds `folder`; a root that is itself `folder` is accepted too."""
        root = Path(options["root"]) if options["root"] else default_root(name)
        return root.parent if root.name == folder else root

    def missing(options: dict) -> list[str]:
        return [file for file in files if not (root_of(options) / folder / file).is_file()]

    def check(options: dict) -> None:
        if missing(options) and not options["download"]:
            raise not_found(name, missing(options)[0], [root_of(options) / folder])

    def find_damaged(root: Path) -> Path | None:
        """The first file that is missing or whose MD5 sum is not the published one."""
        from torchvision import datasets
        from torchvision.datasets.utils import check_integrity

        dataset = getattr(datasets, class_name)
        published = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        return next((root / folder / f for f, md5 in published if not check_integrity(root / folder / f, md5)), None)

    def read(options: dict) -> list:
        """[training set, test set] of torchvision's, downloaded first where that is wanted and needed."""
        from torchvision import datasets

        check(options)
        root, dataset = root_of(options), getattr(datasets, class_name)

        def download() -> None:
            if find_damaged(root):  # else another process has just fetched them
                fetch_file(root / dataset.filename, [dataset.url], dataset.tgz_md5)
                unpack(root / dataset.filename, root / folder)

        try:
            damaged = find_damaged(root)
            if damaged and options["download"]:
                fetch(name, root, download)
                damaged = find_damaged(root)
        except OSError as error:
            raise UserError(f"data {name}: a file in {root / folder} can't be read: {error}.") from error
        if damaged:
            raise UserError(
                f"data {name}: {damaged} is damaged or only half downloaded (its MD5 sum is wrong). "
                "Set download: true to fetch it again, or unpack the official archive again."
            )
        return [dataset(str(root), train=train) for train in (True, False)]

    def load(options: dict) -> Parts:
        training, testing = read(options)
        images, test_images = (np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)) for part in (training, testing))
        train, val = hold_out_val(images, np.asarray(training.targets))
        return Parts(train, val, make_split(test_images, testing.targets), tuple(training.classes))

    def fingerprint(options: dict) -> str:
        check(options)
        if missing(options):
            read(options)
        return hash_files((file, root_of(options) / folder / file) for file in files)

    return Source(load, fingerprint, check)
