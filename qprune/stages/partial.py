"""Unfinished work of a stage: saved at the ends of epochs, so that a kill costs an epoch and not the night.

Which images an update sees and all its randomness depend on the seed and the update's number alone (qprune.training),
so the weights, the optimizer's state and the number of the next update are all that has to be kept.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qprune.data import Split
from qprune.recipe import Recipe, updates_per_epoch
from qprune.storage.seal import Damaged
from qprune.storage.store import Store
from qprune.training import make_optimizer, train

CURVE_POINTS = 50  # of a stage's training curve
SAVING_SHARE = 0.02  # of the time at most goes into saving, so not every epoch of a second or less is saved
FIRST_SAVING_SECONDS = 0.05  # what the first saving is expected to take


class Counter:
    """Counts the updates that were really made, and keeps their losses. first: those of its part that earlier stages made."""

    def __init__(
        self, tick: Callable[[int], None], losses: Sequence[tuple[int, float]] = (), updates: int = 0, first: int = 0
    ):
        self.tick, self.updates, self.first = tick, updates, first
        self.losses = [(update, loss) for update, loss in losses]
        if updates:
            tick(updates)

    def __call__(self, update: int, loss: float | None) -> None:
        if loss is not None:
            self.losses.append((self.updates, loss))
        self.updates += 1
        self.tick(1)

    @property
    def reached(self) -> int:
        """The updates of the part that the network has had."""
        return self.first + self.updates

    def curve(self) -> list[tuple[int, float]]:
        """(update of the part, mean training loss) of at most CURVE_POINTS stretches of updates."""
        size = -(-len(self.losses) // CURVE_POINTS) or 1
        parts = [self.losses[start : start + size] for start in range(0, len(self.losses), size)]
        return [(self.first + part[0][0], round(sum(loss for _, loss in part) / len(part), 5)) for part in parts]


class Partial:
    """The unfinished work of one stage, whose training has one or more parts, one after the other.

    saved: (meta, tensors) of what a process that was killed had saved, until it has been gone on from; or None.
    notes: plain JSON that is saved with the work, for what must not be decided twice.
    """

    def __init__(self, store: Store, stage: str, tick: Callable[[int], None], note: Callable[[str], None]):
        self.store, self.stage, self.tick = store, stage, tick
        try:
            self.saved = store.load_partial(stage)
        except Damaged as error:
            note(str(error))
            self.saved = None
        self.notes: dict = dict(self.saved[0].get("notes", {})) if self.saved else {}
        self.earlier = self.saved[0]["seconds"] if self.saved else 0.0
        self.started = time.perf_counter()
        self.last_saved = (self.started, FIRST_SAVING_SECONDS)  # when, and how many seconds it took
        self.counters: dict[str, Counter] = {}

    @property
    def seconds(self) -> float:
        """Spent on the stage so far, by all processes whose work is in it."""
        return self.earlier + time.perf_counter() - self.started

    def counter(self, part: str, first: int = 0) -> Counter:
        """The counter of one part, which goes on from what was saved. first: updates of it that earlier stages made."""
        kept = self.saved[0]["counters"].get(part, {}) if self.saved else {}
        self.counters[part] = Counter(self.tick, **kept, first=first)
        return self.counters[part]

    def train(
        self,
        part: str,
        network: nn.Module,
        split: Split,
        recipe: Recipe,
        updates: range,
        lr: Callable[[int], float],
        seed: int,
        teacher: nn.Module | None = None,
    ) -> Counter:
        """qprune.training.train in place, saved now and then; goes on from where a killed process got to.

        The result is bit for bit that of an undisturbed run on a CPU. Raises Diverged, StorageError.
        """
        counter = self.counter(part, updates.start)
        if self.saved and self.saved[0]["part"] != part:
            return counter  # a later part was reached already; the network is loaded there
        start, optimizer = updates.start, None
        if self.saved:
            meta, tensors = self.saved
            start, self.saved = meta["next"], None
            network.load_state_dict({name: tensor for name, tensor in tensors.items() if "/" not in name})
            optimizer = load_optimizer(network, recipe, lr(updates.start), tensors, "optimizer/")
        per_epoch = updates_per_epoch(len(split.labels), recipe.batch_size)
        while start < updates.stop:
            stop = min(start - start % per_epoch + per_epoch, updates.stop)
            part_of_epoch = range(start, stop)
            optimizer = train(
                network, split, recipe, part_of_epoch, lr, seed, optimizer, on_update=counter, teacher=teacher
            )
            start = stop

            def state(optimizer: torch.optim.Optimizer = optimizer) -> dict[str, Tensor]:
                return {**network.state_dict(), **optimizer_tensors(network, optimizer, "optimizer/")}

            self.save({"part": part, "next": start}, state)
        return counter

    def save(self, meta: dict, state: Callable[[], dict[str, Tensor]]) -> None:
        """Keep this state, unless too little has been done since the last time."""
        now = time.perf_counter()
        when, took = self.last_saved
        if now - when < took / SAVING_SHARE:
            return
        counters = {
            part: {"losses": counter.losses, "updates": counter.updates} for part, counter in self.counters.items()
        }
        kept = {**meta, "seconds": self.seconds, "counters": counters, "notes": self.notes}
        self.store.save_partial(self.stage, kept, state())
        self.last_saved = (time.perf_counter(), time.perf_counter() - now)


def optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimizer's state as prefix + "<parameter>/<key>" -> tensor."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{prefix}{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    network: nn.Module, recipe: Recipe, lr: float, tensors: dict[str, Tensor], prefix: str
) -> torch.optim.Optimizer:
    """An optimizer that goes on from the state that optimizer_tensors gave."""
    optimizer = make_optimizer(network, recipe, lr)
    for name, parameter in network.named_parameters():
        start = f"{prefix}{name}/"
        state = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        if state:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }  # NOTE AdamW counts its steps on the CPU
    return optimizer
