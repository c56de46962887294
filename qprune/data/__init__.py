"""Data sets: settings in, three splits of uint8 images in memory out.

    data = load_data({"name": "digits"})
    images = augment(data.train.images[:64].float() / 255, data.augment, generator)

A new data set is one file with a SOURCE and one line below. Options of all: `augment` (a name or a list of
none, flip, crop, shift) and `subset` (the first n images of a fixed stratified shuffle of train).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qprune.data import user
from qprune.data.augmentation import augment
from qprune.data.base import SOURCES, Dataset, Split, channel_statistics, first_of_train
from qprune.data.options import COMMON, check_name, fill_augment, fill_options, fill_subset
from qprune.registry import Entry
from qprune.registry.errors import UserError
from qprune.registry.user_code import check_options, is_user_code, load_function, source_hash

__all__ = ["Dataset", "Split", "augment", "check_data", "data_fingerprint", "data_names", "load_data"]

SOURCES.add(Entry("digits", "qprune.data.digits:SOURCE"))
SOURCES.add(Entry("mnist", "qprune.data.mnist:SOURCE"))
SOURCES.add(Entry("fashion_mnist", "qprune.data.fashion_mnist:SOURCE"))
SOURCES.add(Entry("cifar10", "qprune.data.cifar10:SOURCE"))
SOURCES.add(Entry("cifar100", "qprune.data.cifar100:SOURCE"))
SOURCES.add(Entry("flowers102", "qprune.data.flowers102:SOURCE"))
SOURCES.add(Entry("tiny_imagenet", "qprune.data.tiny_imagenet:SOURCE"))
SOURCES.add(Entry("imagefolder", "qprune.data.imagefolder:SOURCE"))

_VERSION = 1  # raised when the same files and options would give other tensors
_PLACES = ("root", "download")  # where the files lie doesn't change what is in them


def data_names() -> list[str]:
    """The registered data sets. A name module:function, the user's own, isn't among them."""
    return SOURCES.names()


def load_data(settings: Mapping[str, Any]) -> Dataset:
    """The data set of settings {"name": ..., option: ...}; the last few are kept in memory.

    Raises UserError for an unknown name or option and for missing or damaged files.
    """
    return _load(json.dumps(_resolve(settings), sort_keys=True), data_fingerprint(settings))


def check_data(settings: Mapping[str, Any]) -> None:
    """UserError where the name, an option or the files are bad. Loads nothing, and imports torch for nothing but
    a user's own module that does."""
    resolved = _resolve(settings)
    if resolved["name"] in SOURCES.names():
        SOURCES.load(resolved["name"]).check(resolved["options"])


def data_fingerprint(settings: Mapping[str, Any]) -> str:
    """A hash that changes when the data would: of the files' content (of a user's function: its source), the
    options with their defaults, and the version of this code. Where the files lie doesn't enter."""
    resolved = _resolve(settings)
    name, options = resolved["name"], resolved["options"]
    content = SOURCES.load(name).fingerprint(options) if name in SOURCES.names() else source_hash("data", name)
    kept = {
        **resolved,
        "options": {key: value for key, value in options.items() if key not in _PLACES or name not in SOURCES.names()},
    }
    text = json.dumps([_VERSION, kept, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "options", "augment", "subset"} with every default filled in and everything checked."""
    name = check_name(settings)
    if is_user_code(name) and name not in SOURCES.names():
        options = {key: value for key, value in settings.items() if key not in ("name", *COMMON)}
        check_options("data", name, load_function("data", name), options, {})
        try:
            json.dumps(options)
        except TypeError as error:
            raise UserError(f"data {name!r}: an option is no plain value of YAML ({error}).") from error
        default = None
    else:
        source = SOURCES.load(name)
        options, default = fill_options(name, settings, source.options), source.augment
    kinds = fill_augment(name, settings, default)
    return {"name": name, "options": options, "augment": kinds, "subset": fill_subset(name, settings)}


@functools.lru_cache(maxsize=4)
def _load(canonical: str, fingerprint: str) -> Dataset:
    """The data of resolved settings; the fingerprint is there so that changed files are read again."""
    resolved = json.loads(canonical)
    name, options, subset, kinds = (resolved[key] for key in ("name", "options", "subset", "augment"))
    parts = SOURCES.load(name).load(options) if name in SOURCES.names() else user.call(name, options)
    if isinstance(parts, Dataset):  # the user's function has made it all
        train = first_of_train(parts.train, subset) if subset else parts.train
        return replace(parts, train=train, augment=parts.augment if kinds is None else tuple(kinds))
    train = first_of_train(parts.train, subset) if subset else parts.train
    mean, std = channel_statistics(train.images)
    return Dataset(
        name, train, parts.val, parts.test, len(parts.class_names), mean, std, tuple(kinds or ()), parts.class_names
    )
