"""Stages that are stopped in the middle, for tests of how they go on."""

import torch

from qprune.storage.store import Store

CPU = torch.device("cpu")
LONG = (  # several epochs of 8 updates in every part of every stage
    "seeds=0", "model={name: resnet20, width: 0.25}", "train.updates=20", "prune.channels_per_step=2",
    "finetune={updates: 18}", "quantize.updates=20", "prune.until=0.75", "prune.ratios=[0,0.5]",
)  # fmt: skip


class Killed(BaseException):
    """As sudden as kill -9: nothing catches it."""


def copy_of(store: Store, names, folder) -> Store:
    copy = Store(folder)
    for name in names:
        copy.write(name, store.meta(name), store.tensors(name) if store.has_tensors(name) else None)
    return copy


def killed_at(update: int):
    made = 0

    def tick(updates: int) -> None:
        nonlocal made
        made += updates
        if made >= update:
            raise Killed

    return tick
