"""What a data set is: three splits of uint8 images, and the rules by which splits are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qprune.registry.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Statistics = tuple[
    tuple[float, ...], tuple[float, ...]
]  # mean and standard deviation of each channel, of images in 0..1
SPLIT_SEED = 20170424  # never the sweep's: the split is part of the data, not of the experiment


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their classes: uint8 [n, c, h, w] and int64 [n]. stored: the same pictures larger, [n, c, H, W], of which
    augmentation takes crops."""

    images: Tensor
    labels: Tensor
    stored: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """Its first images, at most so many."""
        return self.chosen(slice(count))

    def chosen(self, index: slice | np.ndarray | Tensor) -> Split:
        """The images at these places."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Split:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Split:
        return Split(change(self.images), change(self.labels), None if self.stored is None else change(self.stored))


def names_of_classes(names: Sequence[str], count: int) -> list[str]:
    """One for each logit; a class without a name of its own is called by its number."""
    return [*map(str, names[:count]), *map(str, range(len(names), count))]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, in memory or mapped from files. Every choice uses `val`; `test` is only for the reported accuracy.

    mean, std: per channel, of images in 0..1: the training images' own, or those that `preprocess` names. augment: the kinds for `qprune.data.augment`. notes: what a
    person should know of how the files were read.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    cached: Path | None = None


@dataclass(frozen=True)
class Parts:
    """What a source hands over: the three splits, the names of the classes, notes as in Dataset, the statistics of the training
    images, where they are known, and the folder of the files that the images are mapped from."""

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    statistics: Statistics | None = None
    cached: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The picture files of a data set, below `root`. parts: split -> (files, labels [n]), in the order of its images; notes: as
    in Dataset."""

    root: Path
    parts: dict[str, tuple[list[Path], np.ndarray]]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def first(self, count: int) -> Listing:
        """With so many of the training files, those of first_indices."""
        files, labels = self.parts["train"]
        chosen = first_indices(labels, count)
        return replace(self, parts={**self.parts, "train": ([files[i] for i in chosen], labels[chosen])})


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: this, or a module with these three functions; one of picture files has listing(options) ->
    Listing in the place of load.

    load(options) -> Parts. fingerprint(options) -> str, of the content. check(options) raises UserError where
    files are missing; it loads nothing and doesn't import torch.
    """

    load: Callable[[dict], Parts]
    fingerprint: Callable[[dict], str]
    check: Callable[[dict], None]


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A fixed shuffle in which every prefix holds each class in its share, to within one image. int64 [n] -> [n].

    The i-th of a class's m shuffled images stands at the position (i + u) / m of the order, with u drawn per
    class from 0.5..1: so a prefix of less than half never takes the only image of a class.
    """
    random = np.random.RandomState(seed)  # NOTE its stream is frozen by NumPy's policy, default_rng's isn't
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + random.uniform(0.5, 1)) / len(members)
    return np.argsort(position, kind="stable")


def stratified_split(labels: np.ndarray, shares: tuple[float, ...], seed: int = SPLIT_SEED) -> list[np.ndarray]:
    """Disjoint stratified parts with the given shares of all images, then the rest: sorted indices of each part."""
    ends = [round(sum(shares[: i + 1]) * len(labels)) for i in range(len(shares))]
    return [np.sort(part) for part in np.split(stratified_order(labels, seed), ends)]


def make_split(images: np.ndarray, labels: np.ndarray, stored: np.ndarray | None = None) -> Split:
    """A Split from uint8 [n, c, h, w], integers [n], and uint8 [n, c, H, W]."""
    labels = np.require(labels, np.int64, ["C", "W"])
    return Split(_bytes_of(images), _tensor_of(labels), None if stored is None else _bytes_of(stored))


def _bytes_of(images: np.ndarray) -> Tensor:
    return _tensor_of(np.require(images, np.uint8, ["C", "W"]))  # copied only where it is read-only or not contiguous


def _tensor_of(values: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(values)


def held_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices (train, val) of official training data: a fixed, stratified 10% are held out for validation."""
    val, train = stratified_split(labels, (0.1,))
    if len(val) == 0:
        raise UserError(f"data: {len(labels)} training images are too few to hold out 10% of them for validation.")
    return train, val


def hold_out_val(images: np.ndarray, labels: np.ndarray) -> tuple[Split, Split]:
    """(train, val) of official training data, as `held_out` says."""
    train, val = held_out(labels)
    return make_split(images[train], labels[train]), make_split(images[val], labels[val])


def first_indices(labels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of a fixed stratified shuffle: a larger subset holds every smaller one."""
    if count > len(labels):
        raise UserError(f"data: subset {count} is more than the {len(labels)} training images.")
    return stratified_order(labels, SPLIT_SEED)[:count].copy()


def first_of_train(train: Split, count: int) -> Split:
    """The images of first_indices."""
    return train.chosen(first_indices(train.labels.numpy(), count))


CHUNK_VALUES = 2048 * 3 * 64 * 64  # that are summed at once


def channel_statistics(images: Tensor) -> Statistics:
    """Mean and standard deviation of each channel of uint8 images, in units of 0..1. [n, c, h, w] -> c, c.

    A channel that is constant over the whole set has the deviation 1, for it is divided by.
    """
    import torch

    total, squares = torch.zeros(2, images.shape[1], dtype=torch.float64, device=images.device)  # [c] each
    at_once = max(1, min(2048, CHUNK_VALUES // images[0].numel()))
    for chunk in images.split(at_once):
        pixels = chunk.double() / 255
        total = total + pixels.sum((0, 2, 3))
        squares = squares + pixels.square().sum((0, 2, 3))
    count = images.numel() / images.shape[1]
    mean = total / count  # [c]
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-6] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
