"""`module:function`: the user's own data set.

The function is called with the options of the settings (all but name, augment and subset) and returns either

- a `qprune.data.Dataset`, or
- a dict {"train": (images, labels), "test": (images, labels), "val": (images, labels)}, or the tuple
  (train, val, test) of such pairs. images: uint8 [n, c, h, w], or [n, h, w] for grey, square; labels: integers [n]
  from 0 on; NumPy arrays or tensors. Without "val" (or with None in its place), a fixed stratified 10% of train
  are held out. The dict may also have "class_names".

What it returns must depend on its options and its source only: the fingerprint is made of these. Where it
reads files that change, give it an option (a version, a date) and raise that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qprune.data.base import Dataset, Parts, Split, hold_out_val, make_split
from qprune.registry.errors import UserError
from qprune.registry.user_code import check_options, load_function

MAX_CLASSES = 100_000


def call(name: str, options: Mapping[str, Any]) -> Dataset | Parts:
    """What the user's function returns, brought into form; UserError naming the function and what it returned."""
    function = load_function("data", name)
    returned = function(**check_options("data", name, function, options, {}))
    if isinstance(returned, Dataset):
        parts = [_convert(name, part, getattr(returned, part)) for part in ("train", "val", "test")]
        if (count := _check_together(name, *parts)) > returned.num_classes:
            raise _wrong(name, f"labels up to {count - 1} for num_classes {returned.num_classes}")
        return replace(returned, train=parts[0], val=parts[1], test=parts[2])
    if isinstance(returned, Mapping) and "train" in returned and "test" in returned:
        given = dict(returned)
    elif isinstance(returned, tuple) and len(returned) == 3:
        given = dict(zip(("train", "val", "test"), returned, strict=True))
    else:
        keys = f" with the keys {list(returned)}" if isinstance(returned, Mapping) else ""
        raise _wrong(
            name, f"a {type(returned).__name__}{keys}, not a Dataset, a dict of train and test, or a tuple of three"
        )
    train, test = _convert(name, "train", given["train"]), _convert(name, "test", given["test"])
    if given.get("val") is None:
        train, val = hold_out_val(train.images.numpy(), train.labels.numpy())
    else:
        val = _convert(name, "val", given["val"])
    count = _check_together(name, train, val, test)
    class_names = tuple(map(str, given.get("class_names", range(count))))
    if len(class_names) < count:
        raise _wrong(name, f"{len(class_names)} class_names for labels up to {count - 1}")
    return Parts(train, val, test, class_names)


def _wrong(name: str, what: str) -> UserError:
    module, function = name.split(":")
    return UserError(f"data {name!r}: the function {function} of {module} returned {what}.")


def _convert(name: str, part: str, given: object) -> Split:
    """One split as uint8 [n, c, h, w] and int64 [n], else UserError."""
    if isinstance(given, Split):
        given = (given.images, given.labels)
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise _wrong(name, f"a {type(given).__name__} as {part}, not a pair (images, labels)")
    images, labels = (np.asarray(values) for values in given)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise _wrong(name, f"{part} images of {images.dtype} {list(images.shape)}, not uint8 [n, c, h, w] or [n, h, w]")
    if images.shape[-1] != images.shape[-2]:
        raise _wrong(name, f"{part} images of {list(images.shape)}; they must be square")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images) or len(labels) == 0:
        raise _wrong(
            name, f"{part} labels of {labels.dtype} {list(labels.shape)} for {len(images)} images, not integers [n]"
        )
    if labels.min() < 0:
        raise _wrong(name, f"{part} labels from {labels.min()} on, not from 0")
    if labels.max() >= MAX_CLASSES:
        raise _wrong(name, f"{part} labels up to {labels.max()}; there can be {MAX_CLASSES:,} classes, from 0 on")
    return make_split(images if images.ndim == 4 else images[:, None], labels)


def _check_together(name: str, train: Split, *others: Split) -> int:
    """The number of classes; UserError where the shapes of the splits' images differ."""
    for other in others:
        if other.images.shape[1:] != train.images.shape[1:]:
            raise _wrong(name, f"images of {list(train.images.shape[1:])} and {list(other.images.shape[1:])} together")
    return 1 + max(int(split.labels.max()) for split in (train, *others))
