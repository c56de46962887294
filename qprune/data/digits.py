"""digits: scikit-learn's 1,797 handwritten digits, grey, 8x8 (the test part of UCI's "Optical Recognition of
Handwritten Digits", Alpaydin & Kaynak 1998). Ships with scikit-learn, so nothing is downloaded.

Grey values 0..16 are scaled to 0..255. Split once and for all, stratified: 60% train, 15% val, 25% test.
"""

import functools
import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from qprune.data.base import Parts, make_split, stratified_split
from qprune.registry.errors import UserError


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [1797, 1, 8, 8], and labels, int64 [1797].

    NOTE The table is read as load_digits() reads it, for importing sklearn.datasets takes seconds in every
    worker process; a scikit-learn that keeps it elsewhere is asked itself.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data digits: scikit-learn, which holds the images, isn't installed: pip install scikit-learn.")
    table = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        with gzip.open(table, "rt") as file:
            values = np.loadtxt(file, delimiter=",")
        pixels, labels = values[:, :-1], values[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return images, labels.astype(np.int64)


def load(options: dict) -> Parts:
    images, labels = _read()
    test, val, train = (make_split(images[part], labels[part]) for part in stratified_split(labels, (0.25, 0.15)))
    return Parts(train, val, test, tuple(str(digit) for digit in range(10)))


def fingerprint(options: dict) -> str:
    images, labels = _read()
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def check(options: dict) -> None:
    _read()
