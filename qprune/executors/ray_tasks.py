"""Stages as tasks of a Ray cluster, whose nodes see the same folders."""

import os
import platform
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from qprune.executors.base import ENDS, Event, Executor
from qprune.executors.local import LOG_BYTES
from qprune.registry.errors import UserError
from qprune.registry.packages import require
from qprune.stages import Stage
from qprune.storage.store import Store

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ANSWER_SECONDS = 4  # for an address to take a connection
CONNECT_SECONDS = 30  # for a cluster to take a driver
OBJECT_STORE_BYTES = 100 * 2**20  # of a cluster started here: stages go through the folder, not through Ray
LOOK_SECONDS = 1  # between two looks at the cluster's nodes
SEEN_SECONDS = 75  # for a file to be seen by another node: network file systems remember for up to 60 what is missing
SHARE = "every node must see this folder under this path, for instance by NFS"


class RayExecutor(Executor):
    """Each stage is a task that asks for `threads` CPUs, and for `gpu_share` of a GPU once the cluster has had one.

    A task is a generator: its events come to the driver one by one, the last of them the stage's end. Ray itself
    tries nothing again. All nodes must see the results folder and the working directory under the same paths.
    address: "host:port" or "auto" of a cluster of which this machine is a node; None: a cluster on this machine,
    which ends with the executor.
    """

    def __init__(self, threads: int, store_folder: Path, address: str | None = None, gpu_share: float | None = None):
        self.threads, self.address, self.gpu_share = threads, address, 0.25 if gpu_share is None else gpu_share
        self.store = Store(Path(store_folder).resolve())
        self._token: Path | None = None
        self._running: dict = {}  # the task's generator of events -> stage id
        self._uses_gpus, self._capacity, self._looked, self._told_waiting = False, 0, 0.0, False

    def __enter__(self) -> "RayExecutor":
        require("ray", extra="ray")
        import ray

        if ray.is_initialized():
            raise UserError("Ray is in use in this process already; call ray.shutdown() first")
        try:
            _connect(self.address)
            self._make_task()
            self._look()
            self._check_threads()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        import ray

        for task in self._running:
            ray.cancel(task, force=True)
        self._running = {}
        ray.shutdown()
        if self._token:
            self._token.unlink(missing_ok=True)

    def _make_task(self) -> None:
        import ray

        self.store.folder.mkdir(parents=True, exist_ok=True)
        self._token = self.store.folder / f".cluster-{uuid4().hex}"
        self._token.touch()
        self._place = _Place(self.store.folder, self._token.name, Path.cwd(), tuple(sys.path), self.threads)
        environment = {variable: str(self.threads) for variable in THREAD_VARIABLES}
        # NOTE where a task has a share of a GPU, Ray gives it a new process, so that its memory there is free again
        self._task = ray.remote(
            max_retries=0, num_returns="streaming", num_cpus=self.threads, runtime_env={"env_vars": environment}
        )(_compute)

    def free(self) -> int:
        """How many more stages the nodes have room for; at least 1 in all, which waits where there is no node now."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        return max(max(self._capacity, 1) - len(self._running), 0)

    def _look(self) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._uses_gpus = self._uses_gpus or any(node.get("GPU", 0) for node in nodes)  # never back to CPUs
        self._capacity = sum(room(node, self.threads, self.gpu_share if self._uses_gpus else 0) for node in nodes)
        self._looked = time.monotonic()

    def _check_threads(self) -> None:
        import ray

        cpus = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if 0 < cpus < self.threads:
            raise UserError(
                f"--threads {self.threads}: the largest node of the Ray cluster has {cpus:g} CPUs; ask for fewer"
            )

    def start(self, stage: Stage) -> None:
        share = self.gpu_share if self._uses_gpus else 0
        self._running[self._task.options(num_gpus=share).remote(stage, self._place, share)] = stage.id

    def events(self, timeout: float) -> list[Event]:
        import ray

        if not self._running:
            time.sleep(timeout)
            return []
        tasks = list(self._running)
        ray.wait(tasks, timeout=timeout)  # until one has an event
        ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        events = [self._next(task) for task in ready]
        for task, event in zip(ready, events, strict=True):
            if event.kind in ENDS:
                del self._running[task]
        return events + self._waiting()

    def _next(self, task) -> Event:
        import ray

        stage = self._running[task]
        try:
            event = ray.get(next(task))
        except ray.exceptions.RayError as error:
            return ended_by(error, stage)
        if event.kind == "done" and not seen(self.store, [stage]):
            reason = f"{self.store.folder / stage} was written by another node and isn't seen here; {SHARE}"
            return Event("stopped", stage, reason=reason)
        return event

    def _waiting(self) -> list[Event]:
        """Says so, once each time, when a stage waits for a node."""
        if self._capacity or not self._running:
            self._told_waiting = False
            return []
        if self._told_waiting:
            return []
        self._told_waiting = True
        needs = f"{self.threads} CPU" + (f" and {self.gpu_share:g} GPU" if self._uses_gpus else "")
        stage = next(iter(self._running.values()))
        return [Event("note", stage, reason=f"no node of the Ray cluster has {needs}; waiting for one")]


def room(node: dict[str, float], cpus: int, gpus: float) -> int:
    """How many tasks that ask for so much find room on a node. node: Ray's resources, name -> amount.

    A task's share of a GPU is always of one GPU.
    """
    by_cpus = int(node.get("CPU", 0) // cpus)
    return min(by_cpus, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9)) if gpus else by_cpus


def ended_by(error: Exception, stage: str) -> Event:
    """How a stage ended whose task Ray ended with an error. Which ones there are: ray.exceptions."""
    from ray import exceptions

    if isinstance(error, exceptions.WorkerCrashedError):
        return Event("died", stage, reason="the worker process died")
    if isinstance(error, exceptions.OutOfMemoryError):
        hint = "Ray ended the worker process as its node ran out of memory (more --threads leave room for fewer stages)"
        return Event("died", stage, reason=hint)
    lost = (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError)
    if isinstance(error, lost):
        return Event("lost", stage, reason="the node was lost")
    # the stage itself has not failed, so the next run may try it again
    cause = getattr(error, "cause", None) or error
    return Event("failed", stage, reason=f"{type(cause).__name__}: {str(cause).strip()}", lasting=False)


def seen(store: Store, stages: list[str] | tuple[str, ...], seconds: float = SEEN_SECONDS) -> bool:
    """Whether these finished stages are seen from here; waits for it."""
    deadline = time.monotonic() + seconds
    while not all(store.done(stage) for stage in stages):
        if time.monotonic() > deadline:
            return False
        if store.folder.is_dir():
            os.listdir(store.folder)  # NOTE makes a network file system look again at what it remembers as missing
        time.sleep(0.1)
    return True


def _connect(address: str | None) -> None:
    """Start Ray's local cluster, or join the one at the address. Raises UserError where none answers."""
    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a sweep tells nobody of itself
            cpus = len(os.sched_getaffinity(0))
            ray.init("local", num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            _check_address(address)
            ray.init(address, **quiet)
    except (RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = "Ray can't be started here" if address is None else f"--address {address}: no cluster to work with"
        raise UserError(f"{where}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray.init puts its own in place


def _check_address(address: str) -> None:
    """Raises UserError where no cluster takes a driver within CONNECT_SECONDS: ray.init would try for minutes."""
    remedy = "start Ray here with: ray start --address=HOST:6379, then give --address auto"
    if address.startswith("ray://"):
        raise UserError(f"--address {address}: a sweep runs on a node of the cluster, not through Ray Client; {remedy}")
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--address {address}: nothing answers there ({error}); {remedy}") from error
    code = "import ray, sys; ray.init(sys.argv[1], include_dashboard=False, log_to_driver=False)"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=CONNECT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"--address {address}: no Ray cluster takes a driver there within {CONNECT_SECONDS} s; {remedy}"
        ) from None
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
        raise UserError(f"--address {address}: no cluster to work with: {reason}; {remedy}")


# In the task --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a task works, on whatever node. token: a file that the driver has put into the store's folder."""

    store_folder: Path
    token: str
    directory: Path
    path: tuple[str, ...]
    threads: int


def _compute(stage: Stage, place: _Place, gpu_share: float) -> Iterator[Event]:
    """The task: the stage's events as they come, the last of them its end."""
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool, _printed() as printed:
        ending = pool.submit(_attempt, stage, place, gpu_share, events.put)
        ending.add_done_callback(lambda _: events.put(None))
        while (event := events.get()) is not None:
            yield event
        end = ending.result()
        yield replace(end, log=end.log or printed()) if end.kind == "failed" else end


def _attempt(stage: Stage, place: _Place, gpu_share: float, tell) -> Event:
    store = Store(place.store_folder)
    node = platform.node()
    if not (store.folder / place.token).exists():
        return Event("stopped", stage.id, reason=f"{store.folder} isn't the same on the node {node}; {SHARE}")
    if not place.directory.is_dir():
        return Event("stopped", stage.id, reason=f"the node {node} has no {place.directory}; {SHARE}")
    if not seen(store, stage.inputs):
        missing = ", ".join(name for name in stage.inputs if not store.done(name))
        return Event("stopped", stage.id, reason=f"{store.folder} has no {missing} on the node {node}; {SHARE}")
    os.chdir(place.directory)  # relative paths in a sweep file, and user code, are found from there
    sys.path += [folder for folder in place.path if folder not in sys.path]
    import torch

    from qprune.executors.attempt import attempt

    torch.set_num_threads(place.threads)  # of this thread, which is why it is not done by the caller
    device = torch.device("cuda", 0) if gpu_share else torch.device("cpu")  # Ray shows a task only its own GPU
    if gpu_share:
        torch.cuda.set_per_process_memory_fraction(gpu_share, device)
    return attempt(stage, store, device, tell)


@contextmanager
def _printed() -> Iterator:
    """Takes what this process prints, in whatever language; gives a function that returns the end of it."""
    with tempfile.TemporaryFile() as file:

        def tail() -> str:
            sys.stdout.flush()
            sys.stderr.flush()
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), LOG_BYTES, max(size - LOG_BYTES, 0)).decode(errors="replace").strip()

        sys.stdout.flush()
        sys.stderr.flush()
        kept = {target: os.dup(target) for target in (1, 2)}
        try:
            for target in kept:
                os.dup2(file.fileno(), target)
            yield tail
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, original in kept.items():
                os.dup2(original, target)
                os.close(original)
