"""Labels of channels, and which of them are one: union-find, with why some always stay."""

import torch
from torch import Tensor

NOTHING, FIXED = 0, 1  # a padded zero, which goes with any channel beside it; what always stays


class Classes:
    """Disjoint sets of labels, whole numbers from 2 on. A set that is fixed has a reason."""

    def __init__(self):
        self._parents = [NOTHING, FIXED]
        self._why: dict[int, str] = {}  # class -> why it stays

    def new(self, count: int) -> Tensor:
        """So many labels, each a class of its own: int64 [count]."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return torch.arange(first, first + count)

    def of(self, labels: Tensor) -> Tensor:
        """The class of each label: the least label in it; FIXED for what always stays."""
        found, places = labels.unique(return_inverse=True)
        roots = [self._root(label) for label in found.tolist()]
        return torch.tensor([FIXED if root in self._why else root for root in roots])[places]

    def why(self, labels: Tensor) -> str | None:
        """Why the first of these that always stay do; None: all may go."""
        roots = map(self._root, labels.tolist())
        return next((self._why[root] for root in roots if root in self._why), None)

    def unite(self, one: Tensor, other: Tensor, why: str) -> None:
        """Make each label of the one class with the other's at its place; why: the reason where either is FIXED."""
        for pair in set(zip(one.tolist(), other.tolist(), strict=True)):
            low, high = sorted(map(self._root, pair))
            if low in (NOTHING, high):
                continue
            if low == FIXED:
                self._why.setdefault(high, why)
                continue
            self._parents[high] = low
            if high in self._why:
                self._why.setdefault(low, self._why.pop(high))

    def unite_all(self, labels: Tensor, why: str) -> None:
        """Make one class of each row's: [rows, labels]."""
        self.unite(labels[:, :-1].flatten(), labels[:, 1:].flatten(), why)

    def fix(self, labels: Tensor, why: str) -> None:
        """These always stay, and what is one with them."""
        labels = labels.unique()
        self.unite(labels, torch.full_like(labels, FIXED), why)

    def _root(self, label: int) -> int:
        while (parent := self._parents[label]) != label:
            self._parents[label] = label = self._parents[parent]
        return label
