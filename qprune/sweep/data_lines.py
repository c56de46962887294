"""What a sweep's data sets hold, in words: images of each class in each split, and how the files were read."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from qprune.data import Dataset, Split, load_data, shown_name
from qprune.data.base import names_of_classes
from qprune.methods.facts import is_qprunes_data
from qprune.registry.choice import Choice
from qprune.settings.config import SweepConfig
from qprune.stages.fingerprints import data_fingerprint_of
from qprune.storage.kept import once
from qprune.sweep.plan import short_names

MOST_LISTED = 20  # classes that are counted one by one
KEPT = "data"


@dataclass(frozen=True)
class Held:
    """What a data set holds. counts: split -> images of each class, in the order of `classes`; bytes: of all images; notes,
    cached: as a Dataset's."""

    classes: tuple[str, ...]
    counts: dict[str, list[int]]
    notes: tuple[str, ...]
    bytes: int
    cached: str | None


def data_lines(config: SweepConfig, every_class: bool = False) -> Iterator[str]:
    """One line for each split of each data set, with its images per class (beyond MOST_LISTED the fewest and the most,
    unless `every_class`), then what is to be known of the files, and which classes a split lacks."""
    for choice, name in data_choices(config):
        held = what_is_held(choice)
        for part, counts in held.counts.items():
            yield f"{name} {part}: {sum(counts):,} images, {_per_class(counts, held.classes, every_class)}"
        yield from (f"{name}: {note}" for note in held.notes)
        if held.cached and Path(held.cached).exists():
            yield f"{name}: decoded pictures of {held.bytes / 1e6:,.0f} MB are kept in {held.cached} (qprune cache)"
    yield from lacking_lines(config)


def lacking_lines(config: SweepConfig) -> Iterator[str]:
    """One line for each split that has no image of some class."""
    for choice, name in data_choices(config):
        held = what_is_held(choice)
        for part, counts in held.counts.items():
            lacking = [class_name for class_name, count in zip(held.classes, counts, strict=True) if not count]
            if lacking:
                more = f" and {len(lacking) - 10:,} more" if len(lacking) > 10 else ""
                yield f"note: {part} of {name} has no image of {', '.join(lacking[:10])}{more}"


def data_choices(config: SweepConfig) -> Iterator[tuple[Choice, str]]:
    """(choice, short name) of a sweep's data sets, and of its pretraining's."""
    names = short_names(config)
    before: tuple[Choice, ...] = (config.pretrain.data,) if config.pretrain else ()
    for choice in dict.fromkeys((*config.data, *before)):
        yield choice, names.get(choice, shown_name(choice.settings))


def data_sets(config: SweepConfig) -> Iterator[tuple[Choice, str, Dataset]]:
    """The same, each with its images."""
    for choice, name in data_choices(config):
        yield choice, name, load_data(choice.settings)


def what_is_held(choice: Choice) -> Held:
    """It is kept for the next command, which then needn't read the images."""
    if not is_qprunes_data(choice):  # what the user's own code reads isn't known
        return _count(load_data(choice.settings))
    follows_from = {"data": choice.settings, "data_fingerprint": data_fingerprint_of(choice)}
    values = once(KEPT, follows_from, lambda: asdict(_count(load_data(choice.settings))))
    return Held(**values | {name: tuple(values[name]) for name in ("classes", "notes")})


def _count(data: Dataset) -> Held:
    counts = {part: split.labels.bincount(minlength=data.num_classes).tolist() for part, split in splits_of(data)}
    size = sum(split.images.numel() for _, split in splits_of(data))
    cached = str(data.cached) if data.cached else None
    classes = names_of_classes(data.class_names, data.num_classes)
    return Held(tuple(classes), counts, tuple(data.notes), size, cached)


def splits_of(data: Dataset) -> tuple[tuple[str, Split], ...]:
    return ("train", data.train), ("val", data.val), ("test", data.test)


def _per_class(counts: list[int], classes: tuple[str, ...], every_class: bool) -> str:
    if min(counts) == max(counts):
        return f"{counts[0]:,} of each of {len(counts)} classes"
    if len(counts) <= MOST_LISTED or every_class:
        return ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))
    return f"{min(counts):,} to {max(counts):,} of each of {len(counts)} classes"
