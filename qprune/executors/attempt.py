"""One attempt at a stage, in whatever process it is made."""

import time
import traceback
from collections.abc import Callable

import torch

from qprune.executors.base import Event
from qprune.registry.errors import UserError
from qprune.stages import Stage
from qprune.stages.work import Changed, compute
from qprune.storage.durable import StorageError
from qprune.storage.seal import Damaged
from qprune.storage.store import Store

TICK_SECONDS = 0.3  # between two messages about a stage's updates


def attempt(stage: Stage, store: Store, device: torch.device, tell: Callable[[Event], None]) -> Event:
    """Compute a stage, unless that has been done or another process does it; returns how it ended.

    tell: takes the events before the last.
    """
    pending, told = 0, time.monotonic()

    def tick(updates: int) -> None:
        nonlocal pending, told
        pending += updates
        if time.monotonic() - told > TICK_SECONDS:
            tell(Event("updates", stage.id, pending))
            pending, told = 0, time.monotonic()

    def note(text: str) -> None:
        tell(Event("note", stage.id, reason=text))

    try:
        with store.lock(stage.id) as mine:
            if not mine:
                return Event("elsewhere", stage.id)
            if stage.is_there(store):
                return Event("done", stage.id, made=False)
            if failure := store.failure(stage.id):
                return Event("failed", stage.id, reason=failure["reason"], log=failure["log"])
            compute(stage, store, device, tick, note)
    except StorageError as error:
        return Event("stopped", stage.id, reason=str(error))
    except (Changed, Damaged) as error:  # the next run mends it, or plans it anew
        return Event("failed", stage.id, reason=str(error), lasting=False)
    except UserError as error:
        return Event("failed", stage.id, reason=_printable(str(error)))
    except Exception as error:  # a bad stage harms no other
        trace = traceback.format_exc(limit=-6)
        return Event("failed", stage.id, reason=_printable(f"{type(error).__name__}: {str(error).strip()}\n{trace}"))
    return Event("done", stage.id, pending)


def _printable(text: str) -> str:
    """The text without what can't be written in UTF-8, such as the bytes of an odd file name."""
    return text.encode(errors="backslashreplace").decode()
