"""Does an exported file give what the evaluated network gave? Top-1 agreement and accuracy on a whole split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qprune.data import Split

BATCH = 256
REQUIRED_AGREEMENT = 0.99  # of the test images; below it an export counts as broken
CLOSE = {"float": 1e-3, "half": 0.01, "integer": 0.05}  # of the largest logit, by what a file holds of the weights

Run = Callable[[Tensor], Tensor]  # float images in 0..1, [batch, c, h, w] -> logits [batch, classes]


@dataclass(frozen=True)
class Parity:
    """Shares of the test images: the file's and the evaluated network's accuracy, and where their top-1 is the same.

    largest: of the differences between logits; images: how many were run; no accuracies where there are no labels.
    recorded: on how many of the images the evaluated network answers here as its record says, where it says that.
    """

    accuracy: float | None
    evaluated_accuracy: float | None
    agreement: float
    largest: float
    images: int
    recorded: float | None = None

    @property
    def holds(self) -> bool:
        return self.agreement >= REQUIRED_AGREEMENT and self.is_recorded

    @property
    def is_recorded(self) -> bool:
        """Whether the evaluated network is still what its record says."""
        return self.recorded is None or self.recorded >= REQUIRED_AGREEMENT


@torch.no_grad()
def logits_of(run: Run, split: Split) -> Tensor:
    """Logits of all images of a split, float [n, classes], in batches of BATCH."""
    parts = [split.images[start : start + BATCH] for start in range(0, len(split.labels), BATCH)]
    return torch.cat([run(images.float().div_(255)).float() for images in parts])


def compare(found: Tensor, expected: Tensor, labels: Tensor | None, recorded: Tensor | None = None) -> Parity:
    """found, expected: logits [n, classes] of the file and of the evaluated network; labels: [n], where they are known; recorded:
    [n], the evaluated network's classes as its record has them."""
    ours, theirs = expected.argmax(1), found.argmax(1)
    finite = found.isfinite().all(1)
    return Parity(
        accuracy=None if labels is None else _share((theirs == labels) & finite),
        evaluated_accuracy=None if labels is None else _share(ours == labels),
        agreement=_share((theirs == ours) & finite),
        largest=float((found - expected).abs().max()),
        images=len(expected),
        recorded=None if recorded is None else _share(recorded == ours),
    )


def _share(which: Tensor) -> float:
    """Of bool [n], those that are true."""
    return int(which.sum()) / len(which)
