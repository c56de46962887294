"""Data sets: settings in, three splits of uint8 images out, in memory or mapped from files.

    data = load_data({"name": "digits"})
    images = augment(data.train.images[:64].float() / 255, data.augment, generator)

A new data set is one file with `load` (of picture files: `listing`), `fingerprint` and `check` (see base.Source) and one
line below. Options of
all: `augment` (a name or a list of none, flip, crop, shift) and `subset` (the first n images of a fixed stratified
shuffle of train).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qprune.data import official, user
from qprune.data.augmentation import augment, takes_crops
from qprune.data.base import Dataset, Listing, Split, channel_statistics, first_of_train
from qprune.data.decoded import decode_listing
from qprune.data.options import COMMON, DECODED, FILES, ROOT, DataEntry
from qprune.data.preprocessing import Kind, Preprocessing, fitted
from qprune.registry import Registry
from qprune.registry.errors import UserError
from qprune.registry.options import Option, fill, identity_of, split_name
from qprune.registry.user_code import check_options, is_user_code, load_function, source_hash

__all__ = [
    "DATA_SETS",
    "Dataset",
    "Split",
    "augment",
    "check_data",
    "data_fingerprint",
    "list_files",
    "load_data",
    "preprocessing_of",
    "shown_name",
]


def _pictures(name: str, files: Mapping[str, Option], **attributes: Any) -> DataEntry:
    """A data set of picture files."""
    options = {**files, **DECODED}
    place = f"qprune.data.{name}"
    return DataEntry(name, place, options=options, augment=("flip", "crop"), pictures=True, **attributes)


DATA_SETS = Registry(
    "data set",
    DataEntry("digits", "qprune.data.digits"),
    DataEntry("mnist", "qprune.data.mnist:SOURCE", options=FILES, augment=("shift2",)),
    DataEntry("fashion_mnist", "qprune.data.fashion_mnist:SOURCE", options=FILES, augment=("flip", "crop2")),
    DataEntry("cifar10", "qprune.data.cifar10:SOURCE", options=FILES, augment=("flip", "crop4")),
    DataEntry("cifar100", "qprune.data.cifar100:SOURCE", options=FILES, augment=("flip", "crop4")),
    _pictures("flowers102", FILES),
    _pictures("tiny_imagenet", ROOT),
    _pictures("imagefolder", ROOT, named_by_root=True),
)
_USERS = 1  # version of what is made of a user's function


def load_data(settings: Mapping[str, Any]) -> Dataset:
    """The data set of settings {"name": ..., option: ...}; the last few are kept in memory.

    Raises UserError for an unknown name or option and for missing or damaged files.
    """
    resolved = _resolve(settings)
    return _load(json.dumps(resolved, sort_keys=True), _content(resolved))


def shown_name(settings: Mapping[str, Any]) -> str:
    """What people call the data set: its name; of a folder of images, the folder's."""
    name, root = settings["name"], settings.get("root")
    if not isinstance(root, str) or name not in DATA_SETS or not DATA_SETS.get(name).named_by_root:
        return name
    return Path(root).name or name


def check_data(settings: Mapping[str, Any]) -> None:
    """UserError where the name, an option or the files are bad. Loads nothing, and imports torch for nothing but
    a user's own module that does."""
    resolved = _resolve(settings)
    if resolved["name"] in DATA_SETS:
        DATA_SETS.load(resolved["name"]).check(resolved["options"])


def data_fingerprint(settings: Mapping[str, Any]) -> str:
    """A hash that changes when the data would: of the files' content (of a user's function: its source), the
    options with their defaults, and the version of this code. Where the files lie doesn't enter."""
    resolved = _resolve(settings)
    name, options = resolved["name"], resolved["options"]
    version = _USERS
    if name in DATA_SETS:
        entry = DATA_SETS.get(name)
        version, options = entry.version, identity_of(options, entry.options)
    text = json.dumps([version, {**resolved, "options": options}, _content(resolved)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(resolved: Mapping[str, Any]) -> str:
    """A hash of the files' content; of a user's function, of its source."""
    name = resolved["name"]
    if name in DATA_SETS:
        return DATA_SETS.load(name).fingerprint(resolved["options"])
    return source_hash("data", name)


def list_files(settings: Mapping[str, Any]) -> Listing | None:
    """The picture files behind each image, split by split in the order of its images; None where it isn't made of any."""
    resolved = _resolve(settings)
    if not _has_pictures(resolved["name"]):
        return None
    return _listing(resolved)


def _listing(resolved: Mapping[str, Any]) -> Listing:
    listing, subset = DATA_SETS.load(resolved["name"]).listing(resolved["options"]), resolved["subset"]
    return listing.first(subset) if subset else listing


def preprocessing_of(settings: Mapping[str, Any], data: Dataset) -> Preprocessing:
    """How the images of loaded data came to be what they are."""
    resolved = _resolve(settings)
    if _has_pictures(resolved["name"]):
        options = resolved["options"]
        return Preprocessing.of_pictures(options["image_size"], options["preprocess"])
    kind: Kind = "arrays" if resolved["name"] in DATA_SETS else "function"
    return Preprocessing(kind, *data.train.images.shape[1:])


def _has_pictures(name: str) -> bool:
    return name in DATA_SETS and DATA_SETS.get(name).pictures


def _resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "options", "augment", "subset"} with every default filled in and everything checked."""
    name, given = split_name("data", settings, "digits")
    if name not in DATA_SETS and is_user_code(name):
        common = {key: given.pop(key) for key in COMMON if key in given}
        check_options("data", name, load_function("data", name), given, {})
        try:
            json.dumps(given)
        except TypeError as error:
            raise UserError(f"data {name!r}: an option is no plain value of YAML ({error}).") from error
        return {"name": name, "options": given, **fill(f"data {name!r}", common, COMMON)}
    entry = DATA_SETS.get(name)
    if entry.pictures and "image_size" not in given and official.is_named(given.get("preprocess")):
        given = {**given, "image_size": _official_size(name, given["preprocess"])}
    options = fill(f"data {name}", given, {**entry.options, **COMMON})
    if entry.pictures:
        options["preprocess"] = fitted(f"data {name}", options["preprocess"], options["image_size"])
    common = {key: options.pop(key) for key in COMMON}
    if common["augment"] is None:
        common["augment"] = entry.augment
    if entry.pictures and (stored := options["store_size"]) is not None:
        if stored <= options["image_size"]:
            raise UserError(
                f"data {name}: store_size is {stored}; it must be more than image_size {options['image_size']}"
            )
        if not takes_crops(common["augment"]):
            raise UserError(
                f"data {name}: store_size is for crops: give augment: [resized_crop, flip], or leave it out"
            )
    return {"name": name, "options": options, **common}


def _official_size(name: str, preprocess: str) -> int:
    try:
        return official.image_size(preprocess)
    except ValueError as error:
        raise UserError(f"data {name}: preprocess is {preprocess!r}, {error}") from None


@functools.lru_cache(maxsize=4)
def _load(canonical: str, content: str) -> Dataset:
    """The data of resolved settings; a hash of the content is there so that changed files are read again."""
    resolved = json.loads(canonical)
    name, options, subset, kinds = (resolved[key] for key in ("name", "options", "subset", "augment"))
    given = options.get("preprocess", {}) if name in DATA_SETS else {}
    if _has_pictures(name):
        how = Preprocessing.of_pictures(options["image_size"], given)
        parts = decode_listing(_listing(resolved), how, content, options["store_size"])
    else:
        made = DATA_SETS.load(name).load(options) if name in DATA_SETS else user.call(name, options)
        made = replace(made, train=first_of_train(made.train, subset)) if subset else made
        if isinstance(made, Dataset):  # the user's function has made it all
            return made if kinds is None else replace(made, augment=tuple(kinds))
        parts = made
    own = (
        (given["mean"], given["std"]) if "mean" in given else parts.statistics or channel_statistics(parts.train.images)
    )
    mean, std = map(tuple, own)
    names = parts.class_names
    kinds = tuple(kinds or ())
    return Dataset(
        name, parts.train, parts.val, parts.test, len(names), mean, std, kinds, names, parts.notes, parts.cached
    )
