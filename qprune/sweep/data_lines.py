"""What a sweep's data sets hold, in words: images of each class in each split, and how the files were read."""

from collections.abc import Iterator

from qprune.data import Dataset, Split, load_data, shown_name
from qprune.data.base import names_of_classes
from qprune.registry.choice import Choice
from qprune.settings.config import SweepConfig
from qprune.sweep.plan import short_names

MOST_LISTED = 20  # classes that are counted one by one


def data_lines(config: SweepConfig, every_class: bool = False) -> Iterator[str]:
    """One line for each split of each data set, with its images per class (beyond MOST_LISTED the fewest and the most,
    unless `every_class`), then what is to be known of the files, and which classes a split lacks."""
    for _, name, data in data_sets(config):
        for part, split in splits_of(data):
            yield f"{name} {part}: {len(split):,} images, {_per_class(split, data, every_class)}"
        yield from (f"{name}: {note}" for note in data.notes)
        if data.cached:
            size = sum(split.images.numel() for _, split in splits_of(data))
            yield f"{name}: decoded pictures of {size / 1e6:,.0f} MB are kept in {data.cached} (qprune cache)"
    yield from lacking_lines(config)


def lacking_lines(config: SweepConfig) -> Iterator[str]:
    """One line for each split that has no image of some class."""
    for _, name, data in data_sets(config):
        for part, split in splits_of(data):
            lacking = [class_name for class_name, count in _counts(split, data) if not count]
            if lacking:
                more = f" and {len(lacking) - 10:,} more" if len(lacking) > 10 else ""
                yield f"note: {part} of {name} has no image of {', '.join(lacking[:10])}{more}"


def data_sets(config: SweepConfig) -> Iterator[tuple[Choice, str, Dataset]]:
    """(choice, short name, data set) of a sweep, and of its pretraining."""
    names = short_names(config)
    before: tuple[Choice, ...] = (config.pretrain.data,) if config.pretrain else ()
    for choice in dict.fromkeys((*config.data, *before)):
        yield choice, names.get(choice, shown_name(choice.settings)), load_data(choice.settings)


def splits_of(data: Dataset) -> tuple[tuple[str, Split], ...]:
    return ("train", data.train), ("val", data.val), ("test", data.test)


def _counts(split: Split, data: Dataset) -> list[tuple[str, int]]:
    """(class, images) of each."""
    counts = split.labels.bincount(minlength=data.num_classes).tolist()
    return list(zip(names_of_classes(data.class_names, data.num_classes), counts, strict=True))


def _per_class(split: Split, data: Dataset, every_class: bool) -> str:
    counts = [count for _, count in _counts(split, data)]
    if min(counts) == max(counts):
        return f"{counts[0]:,} of each of {len(counts)} classes"
    if len(counts) <= MOST_LISTED or every_class:
        return ", ".join(f"{name} {count:,}" for name, count in _counts(split, data))
    return f"{min(counts):,} to {max(counts):,} of each of {len(counts)} classes"
