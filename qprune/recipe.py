"""How updates are made, in numbers alone: what a stage is named by, without the torch that qprune.training makes them with."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from qprune.registry.identity import added_later, aside

WINDOWED_FROM_BYTES = 4 * 2**30  # of training images, from which on a full shuffle would read all over a disk
CHANNELS_LAST_FROM = 1.0  # values that a minibatch's convolutions make, over their weights
TEMPERATURE, TEACHER_SHARE = 4.0, 0.9  # of distillation, as in Tian et al. (ICLR 2020)


@dataclass(frozen=True)
class Recipe:
    """How updates are made. optimizer: "sgd" (with momentum) or "adamw"; augment: as in qprune.data; shuffle: of each epoch,
    "full" or "windowed" (qprune.training.windowed_order), which reads a file larger than memory in runs.

    math: of the forward and backward passes. "fp32"; "tf32": on a GPU, products of 10-bit mantissas with FP32 sums;
    "bf16": torch.autocast, weights and optimizer stay FP32. channels_last: the memory format of images and kernels.
    """

    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    augment: tuple[str, ...] = aside(())  # the data set's
    math: str = added_later("fp32")
    channels_last: bool = added_later(False)
    shuffle: str = added_later("full")

    @property
    def in_fp32(self) -> "Recipe":
        """The same in FP32, for what rounds by itself."""
        return replace(self, math="fp32")


def seed_of(*parts) -> int:
    """A 63-bit seed from any names and numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def shuffle_of(split_bytes: int) -> str:
    """How epochs of training images of so many bytes are shuffled, whatever memory a machine has."""
    return "windowed" if split_bytes >= WINDOWED_FROM_BYTES else "full"


def takes_channels_last(values_per_weight: float, batch_size: int) -> bool:
    """Whether updates are made in channels_last, whatever machine makes them: where maps outweigh weights, it is faster.

    values_per_weight: of one image, as qprune.cost.Cost has it. Measured in results/benchmarks/memory_format.csv.
    """
    return values_per_weight * batch_size >= CHANNELS_LAST_FROM


def updates_per_epoch(images: int, batch_size: int) -> int:
    """Whole minibatches in the training split; at least one."""
    return max(images // batch_size, 1)


@dataclass(frozen=True)
class Rate:
    """How a learning rate goes over a stage's updates: up in a line over `warmup` of them, then at the stage's rate for
    `hold`, then down to 0 at their end: "cosine" (half a cosine), "linear", or "none" (it stays)."""

    decay: str = "cosine"
    warmup: int = 0
    hold: int = 0

    def over(self, lr: float, updates: int) -> Callable[[int], float]:
        """Update -> its learning rate, lr at the highest."""
        start = self.warmup + self.hold
        length = max(updates - start, 1)

        def rate(update: int) -> float:
            if update < self.warmup:
                return lr * (update + 1) / (self.warmup + 1)
            if update < start or self.decay == "none":
                return lr
            past = update - start
            if self.decay == "linear":
                return lr * (1 - past / length)
            return lr * 0.5 * (1 + math.cos(math.pi * past / length))  # NOTE rounded as finished stages were

        return rate


COSINE = Rate()


def cosine(lr: float, updates: int) -> Callable[[int], float]:
    """Half a cosine from lr down to 0 over so many updates."""
    return COSINE.over(lr, updates)


def constant(lr: float) -> Callable[[int], float]:
    """The same rate at every update."""
    return lambda update: lr
