"""The order in which stages are computed, wherever that happens."""

import heapq
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass

from qprune.stages import Stage
from qprune.storage.durable import StorageError
from qprune.storage.store import Store

POLL_SECONDS = 0.5  # between two looks at stages that another sweep computes
TRIES = 2  # of a stage whose worker dies
NODE_TRIES = 5  # of a stage whose machine is lost


@dataclass(frozen=True)
class Event:
    """What became of a stage.

    kind: "started"; "updates" (count of new ones); "note" (reason: what a person should know); and at the end "done"
    (made: by this attempt), "failed" (reason; lasting: it would fail again), "elsewhere" (another process computes it),
    "died" (its worker did), "lost" (its machine was) or "stopped" (reason: no stage can be written any more).
    log: the end of what the stage had printed.
    """

    kind: str
    stage: str
    count: int = 0
    reason: str = ""
    log: str = ""
    made: bool = True
    lasting: bool = True


ENDS = ("done", "failed", "elsewhere", "died", "lost", "stopped")


class Executor(ABC):
    """Computes stages one by one, several at once; a context manager, at whose end nothing is left running."""

    @abstractmethod
    def free(self) -> int:
        """How many stages can be started now."""

    @abstractmethod
    def start(self, stage: Stage) -> None:
        """Begin to compute a stage whose inputs are done."""

    @abstractmethod
    def events(self, timeout: float) -> list[Event]:
        """What has happened since; waits for so many seconds at most. Each stage ends with one of ENDS."""

    @abstractmethod
    def __enter__(self) -> "Executor": ...

    @abstractmethod
    def __exit__(self, error_type, error, trace) -> None: ...


def run_stages(
    stages: dict[str, Stage],
    executor: Executor,
    store: Store,
    on_event: Callable[[Event], None],
    wanted: Collection[str] = (),
    may_start: Callable[[], bool] = lambda: True,
) -> int:
    """Compute the stages, each after its inputs (those not among the stages are done already). Longest chains first.

    wanted: those whose tensors are wanted for themselves; of others that have been done, and whose users too, by
    another process that kept no tensors, nothing is computed again. may_start: whether more may be started; when it
    says no, those that run are finished, and the rest is left. Returns how many were left.

    A failed stage fails all that need it; the others go on. A stage that another process computes is waited for. One
    whose worker dies is tried once more. Raises StorageError where results can't be written any more.
    """
    ranks, order = _ranks(stages), itertools.count()
    waiting = {name: {source for source in stage.inputs if source in stages} for name, stage in stages.items()}
    users: dict[str, list[str]] = {}
    for name, inputs in waiting.items():
        for source in inputs:
            users.setdefault(source, []).append(name)
    ready: list[tuple[float, int, str]] = []
    running: set[str] = set()
    elsewhere: set[str] = set()
    looked = time.monotonic()
    tries: dict[tuple[str, str], int] = {}

    def make_ready(name: str) -> None:
        heapq.heappush(ready, (-ranks[name], next(order), name))

    def finish(event: Event) -> None:
        on_event(event)
        for user in users.get(event.stage, ()):
            if user in waiting:
                waiting[user].discard(event.stage)
                if not waiting[user]:
                    del waiting[user]
                    make_ready(user)

    def fail(event: Event) -> None:
        if event.lasting:
            store.fail(event.stage, event.reason, event.log)
        on_event(event)
        for lost in dependants(users, event.stage):
            if waiting.pop(lost, None) is not None:
                on_event(Event("failed", lost, reason=event.reason, log=event.log))

    def take_in(event: Event) -> None:
        if event.kind in ENDS:
            running.discard(event.stage)
        if event.kind == "done":
            finish(event)
        elif event.kind == "failed":
            fail(event)
        elif event.kind == "elsewhere":
            elsewhere.add(event.stage)
        elif event.kind == "stopped":
            raise StorageError(event.reason)
        elif event.kind in ("died", "lost"):
            tries[event.kind, event.stage] = made = tries.get((event.kind, event.stage), 0) + 1
            if made < (TRIES if event.kind == "died" else NODE_TRIES):
                on_event(Event("note", event.stage, reason=f"{event.reason}; trying once more"))
                make_ready(event.stage)
            else:
                fail(Event("failed", event.stage, reason=f"{event.reason}, {made} times", log=event.log))
        else:
            on_event(event)

    def is_needed(name: str) -> bool:
        if not store.done(name) or name in wanted or not stages[name].keeps_tensors:
            return True
        return not all(store.done(user) for user in users.get(name, ()))

    for name in [name for name, inputs in waiting.items() if not inputs]:
        del waiting[name]
        make_ready(name)
    while running or (may_start() and (ready or elsewhere)):
        while ready and executor.free() and may_start():
            name = heapq.heappop(ready)[-1]
            if not is_needed(name):
                finish(Event("done", name, made=False))
                continue
            running.add(name)
            executor.start(stages[name])
            on_event(Event("started", name))
        for event in executor.events(POLL_SECONDS):
            take_in(event)
        if elsewhere and time.monotonic() - looked > POLL_SECONDS:
            for name in list(elsewhere):
                with store.lock(name) as free:  # nobody computes it any more: it is done, or its process is dead
                    if free:
                        elsewhere.discard(name)
                        make_ready(name)
            looked = time.monotonic()
    return len(waiting) + len(elsewhere) + sum(is_needed(entry[-1]) for entry in ready)


def _ranks(stages: dict[str, Stage]) -> dict[str, float]:
    """Work from a stage to the end of the longest chain that needs it; evaluations, which end a cell, come first of all."""
    ranks: dict[str, float] = {}
    for name, stage in reversed(stages.items()):  # each stage stands after its inputs
        ranks[name] = ranks.get(name, 0) + stage.work
        for source in stage.inputs:
            ranks[source] = max(ranks.get(source, 0), ranks[name])
    return {name: float("inf") if stage.ends_cell else ranks[name] for name, stage in stages.items()}


def dependants(users: dict[str, list[str]], name: str) -> list[str]:
    """All that needs a stage, directly or not. users: stage -> stages that have it as input."""
    found: dict[str, None] = {}
    frontier = [name]
    while frontier:
        for user in users.get(frontier.pop(), ()):
            if user not in found:
                found[user] = None
                frontier.append(user)
    return list(found)
