"""Means over seeds with their intervals, and the interval that comes from the number of test images."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BOOTSTRAP_FROM = 10  # seeds; a percentile bootstrap over 3 covers 74% where it says 95%
RESAMPLES = 2000
NORMAL_QUANTILE = 1.959963984540054  # of 97.5%
STUDENT_QUANTILES = (  # of 97.5%, at 1, 2 ... degrees of freedom: the bits of scipy.special.stdtrit, which takes 0.2 s to import
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934,
    2.5705818356363146, 2.4469118511449786, 2.364624251592784, 2.306004135204166,
)  # fmt: skip
ROUNDING = 1e-12  # differences of accuracies that are closer are equal


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval over n values; low and high are nan below 2 values, all are below 1."""

    mean: float
    low: float
    high: float
    n: int


def interval(values) -> Interval:
    """The mean's 95% interval: Student's t below 10 values, a percentile bootstrap from 10 on (fixed seed).

    nan values are left out, and not counted in n.
    """
    values = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if len(values) < BOOTSTRAP_FROM:
        half = STUDENT_QUANTILES[len(values) - 2] * values.std(ddof=1) / math.sqrt(len(values))
        return Interval(mean, float(mean - half), float(mean + half), len(values))
    draws = values[_drawn(len(values))].mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(mean, float(low), float(high), len(values))


@lru_cache
def _drawn(count: int) -> np.ndarray:
    """Which of so many values each resample has: int64 [RESAMPLES, count]."""
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def paired_p(differences) -> float:
    """Two-sided p-value of Student's t-test that paired differences have mean 0; nan below 2 of them, or where all are equal."""
    from scipy.special import stdtr

    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or np.ptp(values) < ROUNDING:
        return math.nan
    t = values.mean() / (values.std(ddof=1) / math.sqrt(len(values)))
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(p_values) -> list[float]:
    """p-values adjusted by Holm's step-down method (Scandinavian Journal of Statistics, 1979); nan stays, and isn't counted."""
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        adjusted[place] = least
    return adjusted


def recalls(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Of each class with an image: the share of its images that are taken for it. labels, predicted: whole [images]."""
    images = np.bincount(labels)
    right = np.bincount(labels[labels == predicted], minlength=len(images))
    return right[images > 0] / images[images > 0]


def room_of(images: int) -> float:
    """The largest share, at 95%, that none of so many images may leave unseen (Clopper and Pearson)."""
    return 1 - 0.025 ** (1 / images)


def images_for(room: float) -> float:
    """The number of images that leave so much room."""
    return math.log(0.025) / math.log1p(-room)


def sampling_interval(correct: np.ndarray, other: np.ndarray | None = None) -> Interval:
    """The interval that comes from the finite number of test images: of an accuracy, or of a paired difference.

    correct, other: bool [seeds, images] (or [images]) on the same images, in the same order; the difference is
    correct - other. Images would be resampled, not seeds; for the mean of so many, that is the normal interval of the
    per-image means, which is what is computed. Where these are all equal, n images that show no difference don't show that
    there is none: as far as Clopper and Pearson's bound on a share of which 0 of n were seen, some 3.7 / n, to either side.
    """
    values = np.atleast_2d(correct).mean(0) - (0 if other is None else np.atleast_2d(other).mean(0))  # [images]
    spread, images = values.std(ddof=1), len(values)
    half = NORMAL_QUANTILE * spread / math.sqrt(images) if spread != 0 else room_of(images)
    mean = float(values.mean())
    return Interval(mean, float(mean - half), float(mean + half), len(values))
