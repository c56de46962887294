"""A worker process. It watches its driver from its first moment on."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from pathlib import Path


def work(
    connection: Connection,
    environment: dict[str, str],
    store_folder: str,
    threads: int,
    number: int,
    workers: int,
    log_path: str,
) -> None:
    """A worker's life: receive a stage, compute it, say so; ends when the driver is gone. environment: the driver's."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_end_with_driver, daemon=True).start()
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)
    os.unlink(log_path)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    from qprune.executors.attempt import attempt
    from qprune.storage.store import Store

    _use_thread_lock()
    torch.set_num_threads(threads)
    device = _device(number, workers)
    store = Store(Path(store_folder))
    while True:
        try:
            stage = connection.recv()
            connection.send(attempt(stage, store, device, connection.send))
        except (EOFError, OSError):
            return


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    wait([driver.sentinel])
    os._exit(1)


def _device(number: int, workers: int):
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    devices = torch.cuda.device_count()
    device = torch.device("cuda", number % devices)
    torch.cuda.set_per_process_memory_fraction(1 / -(-workers // devices), device)
    return device


def _use_thread_lock() -> None:
    """Spare tqdm, through which torch.fx runs graphs, a lock between processes, which a stopped worker would leave."""
    try:
        from tqdm import tqdm
    except ImportError:
        return
    tqdm.set_lock(threading.RLock())
