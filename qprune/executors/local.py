"""Stages on this machine: worker processes that import once and compute one stage after another."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

TICK_SECONDS = 0.3  # between two messages of a worker about its updates


@dataclass(frozen=True)
class Event:
    """What a worker tells. kind: "started", "updates" (count of new ones), "done" or "failed" (reason)."""

    kind: str
    stage: str
    count: int = 0
    reason: str = ""


class LocalExecutor:
    """Worker processes, each with its own threads; `threads` x `workers` should not exceed the cores."""

    def __init__(self, workers: int, threads: int, store_folder: Path):
        self.workers, self.threads, self.store_folder = workers, threads, Path(store_folder)
        self._processes: list[tuple[multiprocessing.Process, Connection]] = []

    def __enter__(self) -> "LocalExecutor":
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[variable] = str(self.threads)  # read by libraries as the workers load them
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # NOTE starting it unblocks SIGINT, so it comes before the block
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the workers inherit this
        try:
            for _ in range(self.workers):
                ours, theirs = context.Pipe()
                arguments = (theirs, str(self.store_folder), self.threads)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._processes.append((process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return self

    def __exit__(self, error_type, *_) -> None:
        for process, connection in self._processes:
            connection.close()  # an idle worker ends by itself
            if error_type is not None:
                process.terminate()
        for process, _ in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def run(self, stages: dict, on_event: Callable[[Event], None]) -> None:
        """Compute the stages, each after its inputs (those not among the stages are done already).

        A failed stage fails all that need it; the others go on. Longest remaining chains first.
        """
        rank = _ranks(stages)
        waiting = {name: {source for source in stage.inputs if source in stages} for name, stage in stages.items()}
        idle = dict((connection, process) for process, connection in self._processes)
        busy: dict[Connection, str] = {}
        processes = dict(idle)
        while waiting or busy:
            ready = sorted((name for name, inputs in waiting.items() if not inputs), key=rank.__getitem__, reverse=True)
            for name, connection in zip(ready, list(idle), strict=False):
                idle.pop(connection)
                busy[connection] = name
                del waiting[name]
                connection.send(stages[name])
                on_event(Event("started", name))
            for connection in wait(list(busy)):
                try:
                    event = connection.recv()
                except (EOFError, ConnectionResetError):
                    process = processes[connection]
                    process.join(5)  # its end of the pipe is closed, so it is ending
                    reason = f"the worker process died (exit code {process.exitcode})"
                    event = Event("failed", busy[connection], reason=reason)
                if event.kind == "updates":
                    on_event(event)
                    continue
                name = busy.pop(connection)
                if processes[connection].is_alive():
                    idle[connection] = processes[connection]
                on_event(event)
                if event.kind == "done":
                    for inputs in waiting.values():
                        inputs.discard(name)
                else:
                    for lost in _dependants(waiting, name):
                        del waiting[lost]
                        on_event(Event("failed", lost, reason=event.reason))
            if waiting and not busy and not idle:
                for name in list(waiting):
                    del waiting[name]
                    on_event(Event("failed", name, reason="all worker processes have died"))


def _ranks(stages: dict) -> dict[str, float]:
    """Updates from a stage to the end of the longest chain that needs it; evaluations come first of all."""
    ranks: dict[str, float] = {}
    for name, stage in reversed(stages.items()):  # each stage stands after its inputs
        ranks[name] = ranks.get(name, 0) + stage.updates
        for source in stage.inputs:
            ranks[source] = max(ranks.get(source, 0), ranks[name])
    return {name: float("inf") if stages[name].kind == "evaluate" else ranks[name] for name in stages}


def _dependants(waiting: dict[str, set[str]], name: str) -> list[str]:
    found, frontier = [], [name]
    while frontier:
        lost = frontier.pop()
        new = [other for other, inputs in waiting.items() if lost in inputs and other not in found]
        found += new
        frontier += new
    return found


def _work(connection: Connection, store_folder: str, threads: int) -> None:
    """A worker's life: receive a stage, compute it, say so; ends when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    import torch

    from qprune.errors import UserError
    from qprune.stages import compute
    from qprune.store import Store

    _use_thread_lock()
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = Store(Path(store_folder))
    while True:
        try:
            stage = connection.recv()
        except (EOFError, OSError):
            return
        ticker = _Ticker(connection, stage.id)
        try:
            compute(stage, store, device, ticker)
            event = Event("done", stage.id, ticker.pending)
        except UserError as error:
            event = Event("failed", stage.id, reason=str(error))
        except Exception as error:  # a bad stage harms no other
            trace = traceback.format_exc(limit=-6)
            event = Event("failed", stage.id, reason=f"{type(error).__name__}: {str(error).strip()}\n{trace}")
        try:
            connection.send(event)
        except OSError:
            return


def _use_thread_lock() -> None:
    """Spare tqdm, through which torch.fx runs graphs, a lock between processes, which a stopped worker would leave."""
    try:
        from tqdm import tqdm
    except ImportError:
        return
    tqdm.set_lock(threading.RLock())


class _Ticker:
    """Counts updates and tells of them now and then."""

    def __init__(self, connection: Connection, stage: str):
        self.connection, self.stage, self.pending, self.told = connection, stage, 0, time.monotonic()

    def __call__(self, updates: int) -> None:
        self.pending += updates
        if time.monotonic() - self.told > TICK_SECONDS:
            self.connection.send(Event("updates", self.stage, self.pending))
            self.pending, self.told = 0, time.monotonic()
