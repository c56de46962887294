"""Stages on this machine: worker processes that compute one stage after another.

They are forked from a process that has imported what they need and done nothing else, so that another one costs a few
hundredths of a second and shares its memory. They are given the environment as it is now; that process keeps its own. It is
reached by a socket in the folder for temporary files; where that folder's path is too long for one, each worker is a new
process and imports for itself.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path

from qprune.executors.base import ENDS, Event, Executor
from qprune.executors.worker import work
from qprune.stages import Stage
from qprune.storage.durable import writing

STOP_SECONDS = 4  # for workers to end before they are killed
LONGEST_TEMPORARY = 70  # bytes; with multiprocessing's names behind it, less than the 107 that a socket's path may have
LOG_BYTES = 2000  # of what a failed stage had printed


class LocalExecutor(Executor):
    """Worker processes, each with its own threads; `threads` x `workers` should not exceed the cores.

    On CUDA, worker i uses device i modulo their number, and an equal share of that device's memory.
    """

    def __init__(self, workers: int, threads: int, store_folder: Path):
        self.workers, self.threads, self.store_folder = workers, threads, Path(store_folder)
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}

    def __enter__(self) -> "LocalExecutor":
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[variable] = str(self.threads)  # read by libraries as the workers load them
        resource_tracker.ensure_running()  # NOTE starting it unblocks SIGINT, so it comes before the workers' block
        for number in range(self.workers):
            self._idle.append(_Worker(self, number))
        return self

    def __exit__(self, error_type, *_) -> None:
        workers = [*self._idle, *self._busy.values()]
        for worker in workers:
            worker.connection.close()  # an idle worker ends by itself
            if error_type is not None:
                worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.process.join(max(deadline - time.monotonic(), 0))
        for worker in workers:
            worker.end()
        self._idle, self._busy = [], {}

    @property
    def processes(self) -> list[BaseProcess]:
        """The worker processes."""
        return [worker.process for worker in (*self._idle, *self._busy.values())]

    def free(self) -> int:
        return len(self._idle)

    def start(self, stage: Stage) -> None:
        worker = self._idle.pop()
        try:
            worker.give(stage)
        except OSError:  # it was killed while it had nothing to do
            worker = self._replace(worker)
            worker.give(stage)
        self._busy[worker.connection] = worker

    def events(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        for connection in wait(list(self._busy), timeout):
            assert isinstance(connection, Connection)
            worker = self._busy[connection]
            try:
                event = connection.recv()
            except (EOFError, OSError):
                event = worker.death()
                del self._busy[connection]
                self._idle.append(self._replace(worker))
            else:
                if event.kind in ENDS:
                    del self._busy[connection]
                    self._idle.append(worker)
                if event.kind == "failed":
                    event = worker.with_log(event)
            events.append(event)
        return events

    def _replace(self, worker: "_Worker") -> "_Worker":
        worker.end()
        return _Worker(self, worker.number)


@contextmanager
def _held_back(*signals: int) -> Iterator[None]:
    """Signals that come meanwhile, to whichever thread, are handled at the end."""
    if threading.current_thread() is not threading.main_thread():  # which alone handles signals
        yield
        return
    came: list[int] = []
    handlers = {each: signal.signal(each, lambda sent, _: came.append(sent)) for each in signals}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for sent in came:  # whatever failed: a signal to the whole group ends what is waited for, too
            signal.raise_signal(sent)


def _context():
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TEMPORARY:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    formats = (name for name in sys.modules if name.startswith("qprune.precision."))  # that the driver has used
    context.set_forkserver_preload(["qprune.executors.preload", *formats])
    return context


@contextmanager
def _safe_path() -> Iterator[None]:
    """Python that is started meanwhile imports nothing from the working directory: a file of the user's may be called as a
    module is. (Workers look there afterwards, as the driver does.)"""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


class _Worker:
    """A worker process and this side of the pipe to it. What it prints goes to a file that has no name."""

    def __init__(self, executor: LocalExecutor, number: int):
        self.number, self.stage, self.log_start = number, "", 0
        with writing(Path(tempfile.gettempdir())):
            handle, log_path = tempfile.mkstemp(prefix="qprune-log-")
            get_temp_dir()  # in which the socket will be
        self.log = os.fdopen(handle, "rb")
        context = _context()
        self.connection, theirs = context.Pipe()
        place = (str(executor.store_folder), executor.threads, number, executor.workers, log_path)
        arguments = (theirs, dict(os.environ), *place)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        with _held_back(signal.SIGINT, signal.SIGTERM):  # a worker that is half started ends with a traceback
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the worker inherits this
            try:
                with _safe_path():
                    self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()

    def give(self, stage: Stage) -> None:
        self.stage, self.log_start = stage.id, os.fstat(self.log.fileno()).st_size
        self.connection.send(stage)

    def with_log(self, event: Event) -> Event:
        size = os.fstat(self.log.fileno()).st_size
        start = max(self.log_start, size - LOG_BYTES)
        log = os.pread(self.log.fileno(), size - start, start).decode(errors="replace").strip()
        return Event(event.kind, event.stage, reason=event.reason, log=event.log or log, lasting=event.lasting)

    def death(self) -> Event:
        self.process.join(STOP_SECONDS)  # its end of the pipe is closed, so it is ending
        code = self.process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = " (the system kills processes when memory runs out: try fewer --workers)" if code == -9 else ""
        return self.with_log(Event("died", self.stage, reason=f"the worker process died: {how}{hint}"))

    def end(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.log.close()
