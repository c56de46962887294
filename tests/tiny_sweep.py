"""A sweep that is as small as a sweep can be, with its budgets by hand; and the ways to run it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console

from qprune.config import SweepConfig, load_config
from qprune.errors import UserError
from qprune.executors.local import Event
from qprune.stages import compute
from qprune.store import Store
from qprune.sweep import run_sweep

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
"""
MAPS = 8 + 8 + 16 + 16 + 32 + 32  # of vgg_tiny at width 0.5
N = 40
P = 7 * 2  # half of the 112 maps are gone after 56 / 8 = 7 steps of 2 updates
F = 256 // 32  # one epoch
Q = 6


def write_tiny(folder: Path) -> Path:
    file = Path(folder) / "tiny.yaml"
    file.write_text(TINY)
    return file


def tiny_config(folder: Path, *overrides: str) -> SweepConfig:
    return load_config(write_tiny(folder), overrides)


class Inline:
    """Computes stages in this process: no start of workers. `computed` collects what was computed, in order."""

    computed: list[str] = []

    def __init__(self, workers: int, threads: int, store_folder: Path):
        self.store = Store(store_folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, stages, on_event):
        failed: dict[str, str] = {}
        for name, stage in stages.items():
            on_event(Event("started", name))
            lost = next((failed[source] for source in stage.inputs if source in failed), None)
            try:
                if lost:
                    raise UserError(lost)
                compute(stage, self.store, torch.device("cpu"), lambda updates: None)
            except UserError as error:
                failed[name] = str(error)
                on_event(Event("failed", name, reason=str(error)))
            else:
                self.computed.append(name)
                on_event(Event("done", name))


def run_inline(monkeypatch, config: SweepConfig, out: Path) -> tuple[int, list[str], str]:
    """Exit code, the ids of the stages that were computed, what was printed."""
    monkeypatch.setattr("qprune.sweep.LocalExecutor", Inline)
    monkeypatch.setattr(Inline, "computed", [])
    text = io.StringIO()
    code = run_sweep(config, out, 1, 1, Console(file=text, width=160))
    return code, Inline.computed, text.getvalue()


def run_workers(config: SweepConfig, out: Path, workers: int) -> tuple[int, str]:
    text = io.StringIO()
    code = run_sweep(config, out, workers, 1, Console(file=text, width=160))
    return code, text.getvalue()


def count_kinds(stages: list[str]) -> dict[str, int]:
    kinds = [name.split("-")[0] for name in stages]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


COMMAND = [str(Path(sys.executable).parent / "qprune")]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parent.parent)}


def command(*arguments, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """The real command."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout
    )
