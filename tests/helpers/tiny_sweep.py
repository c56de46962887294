"""A sweep that is as small as a sweep can be, with its budgets by hand; and the ways to run it."""

import io
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from forked import run_forked
from rich.console import Console

from qprune.executors.attempt import attempt
from qprune.executors.base import Event, Executor
from qprune.executors.local import LocalExecutor
from qprune.settings.config import SweepConfig, load_config
from qprune.storage.store import Store
from qprune.sweep.run import run_sweep

TINY = """\
name: tiny
data: {name: digits, subset: 256}
model: {name: vgg_tiny, width: 0.5}
seeds: [0, 1]
train: {updates: 40, batch_size: 32, lr: 0.1}
prune: {ratios: [0, 0.5], channels_per_step: 8, updates_between: 2}
finetune: {epochs: 1}
quantize: {updates: 6}
precisions: [fp32, fp16, int8, int4]
protocol: classic
"""
MAPS = 8 + 8 + 16 + 16 + 32 + 32  # of vgg_tiny at width 0.5
N = 40
P = 7 * 2  # half of the 112 maps are gone after 56 / 8 = 7 steps of 2 updates
F = 256 // 32  # one epoch
Q = 6
SMALL = ("seeds=0", "precisions=[fp32,int4]", "train.updates=5", "finetune={updates: 2}", "quantize.updates=2")


def write_tiny(folder: Path) -> Path:
    file = Path(folder) / "tiny.yaml"
    file.write_text(TINY)
    return file


def tiny_config(folder: Path, *overrides: str) -> SweepConfig:
    return load_config(write_tiny(folder), overrides)


class Inline(Executor):
    """Computes stages in this process: no start of workers. `computed` collects what was computed, in order."""

    def __init__(self, store_folder: Path):
        self.store, self.ended, self.computed = Store(store_folder), [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def free(self) -> int:
        return 1 - len(self.ended)

    def start(self, stage) -> None:
        event = attempt(stage, self.store, torch.device("cpu"), lambda event: None)
        if event.kind == "done" and event.made:
            self.computed.append(stage.id)
        self.ended.append(event)

    def events(self, timeout: float) -> list[Event]:
        ended, self.ended = self.ended, []
        return ended


def run_inline(config: SweepConfig, out: Path, report: bool = False, **options) -> tuple[int, list[str], str]:
    """Exit code, the ids of the stages that were computed, what was printed.

    report: whether its page is written, which takes as long as the smallest sweeps.
    """
    text, executors = io.StringIO(), []

    def make_executor(stages: int, store_folder: Path) -> Inline:
        executors.append(Inline(store_folder))
        return executors[-1]

    with nullcontext() if report else mock.patch("qprune.sweep.run.write_report"):
        code = run_sweep(config, out, make_executor, Console(file=text, width=160), **options)
    return code, [stage for executor in executors for stage in executor.computed], text.getvalue()


def run_workers(config: SweepConfig, out: Path, workers: int, **options) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, width=160)
    code = run_sweep(config, out, lambda stages, store: LocalExecutor(workers, 1, store), console, **options)
    return code, text.getvalue()


def count_kinds(stages: list[str]) -> dict[str, int]:
    kinds = [name.split("-")[0] for name in stages]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


COMMAND = [str(Path(sys.executable).parent / "qprune")]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}


def command(*arguments, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """The command, in a process of its own."""
    return run_forked([str(argument) for argument in arguments], cwd, environment(), timeout)
