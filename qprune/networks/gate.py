"""A gate: where a feature map can be watched and switched off. qprune.pruning.gates places them."""

from collections.abc import Callable

import torch
from torch import Tensor

from qprune.networks.graph import Leaf
from qprune.networks.operations import register_operation


class Gate(Leaf):
    """Multiplies each channel of a tensor by its mask, and shows the tensor to a watcher.

    index: int64 [c], the map that each channel carries, -1 where none; mask: float [c], 1 or 0; axis: of the tensor, along
    which its channels lie. The watcher sees it as [batch, c, ...].
    With all masks 1 and no watcher it costs nothing.
    """

    index: Tensor
    mask: Tensor

    def __init__(self, index: Tensor, axis: int = 1):
        super().__init__()
        self.axis = axis
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mask", torch.ones(len(index)), persistent=False)
        self.masked = False
        self.watcher: Callable[[Gate, Tensor], None] | None = None

    def set_mask(self, alive: Tensor) -> None:
        """alive: bool [total], over all maps of the network."""
        carried = self.index >= 0
        self.mask.fill_(1)
        self.mask[carried] = alive.to(self.mask.device)[self.index[carried]].to(self.mask.dtype)
        self.masked = bool((self.mask == 0).any())

    def spread(self, values: Tensor, dims: int) -> Tensor:
        """A value for each channel, [c], in the shape that meets a tensor of so many dimensions."""
        sizes = [1] * dims
        sizes[self.axis] = -1
        return values.view(sizes)

    def forward(self, z: Tensor) -> Tensor:  # [batch, ..., c, ...]
        if self.masked:
            z = z * self.spread(self.mask.to(z.dtype), z.dim())
        if self.watcher is not None and self.axis == 1:
            self.watcher(self, z)
        elif self.watcher is not None:  # what it is shown has to be on the way to what reads it, for its gradient
            z = z.movedim(self.axis, 1)
            self.watcher(self, z)
            z = z.movedim(1, self.axis)
        return z


register_operation(Gate, macs=0, exact=True, keeps_width=True, keeps_sign=True, elementwise=True)
