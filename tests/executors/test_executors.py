"""What every executor promises: one suite for the command's and for the helper that computes in the test's process."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from tiny_sweep import SMALL, Inline, tiny_config

import qprune
from qprune.cli import Where, _executors
from qprune.executors.base import ENDS, run_stages
from qprune.executors.local import LOG_BYTES
from qprune.stages.work import compute
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

CODE = """
import os, signal
from torch import nn


def fine(num_classes, width=4):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, num_classes)
    )


def raises(num_classes):
    if os.path.exists("computing"):
        print("x" * 3000, flush=True)
        os.system("echo from another program")
        print("from Python")
        raise RuntimeError("no such luck")
    return fine(num_classes)


def dies(num_classes, width=4):
    if os.getpid() != DRIVER:
        os.kill(os.getpid(), signal.SIGKILL)
    return fine(num_classes, width)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working directory, with a user's code in it."""
    folder, before, path = tmp_path_factory.mktemp("executors"), os.getcwd(), list(sys.path)
    (folder / "conforms.py").write_text(f"DRIVER = {os.getpid()}\n{CODE}")
    os.chdir(folder)
    yield folder
    os.chdir(before)
    sys.path[:] = path
    sys.modules.pop("conforms", None)


@pytest.fixture(scope="module", params=["inline", *get_args(Where)])
def executor(request, folder):
    """Of one stage at a time, for all tests; what a failed stage leaves must harm no later one."""
    if request.param == "ray":
        pytest.importorskip("ray")
    store = folder / request.param / "stages"
    make = _executors(1, 1, request.param, None, 0.25) if request.param != "inline" else lambda _, store: Inline(store)
    with make(1, store) as executor:
        executor.kept = Store(store)
        yield executor


def stages_of(folder, *overrides: str) -> dict:
    return make_plan(tiny_config(folder, *SMALL, "precisions=fp32", "prune.channels_per_step=1", *overrides)).stages


def run(stages: dict, executor) -> list:
    events = []
    run_stages(stages, executor, executor.kept, events.append)
    return events


def end_of(stage, executor):
    """The event with which an attempt at a stage ends."""
    executor.start(stage)
    while not (ends := [event for event in executor.events(0.5) if event.kind in ENDS]):
        pass
    return ends[0]


def test_a_chain_is_computed_as_here(executor, folder, tmp_path):
    stages, here = stages_of(folder, "model=conforms:fine"), Store(tmp_path)
    events = run(stages, executor)
    assert sorted(event.stage for event in events if event.kind == "started") == sorted(stages)
    assert sorted(event.stage for event in events if event.kind == "done" and event.made) == sorted(stages)
    for name, stage in stages.items():
        compute(stage, here, torch.device("cpu"))
        if stage.keeps_tensors:
            ours, theirs = executor.kept.tensors(name), here.tensors(name)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert end_of(stage, executor).made is False  # once is enough
    assert executor.free() >= 1


def test_when_the_time_is_over_what_runs_is_finished_and_the_rest_is_left(executor, folder):
    """The time ends as the second stage starts; the same call, later, computes what was left and nothing twice."""
    stages = stages_of(folder, "model={name: conforms:fine, width: 8}")
    events = []

    def in_time() -> bool:
        return sum(event.kind == "started" for event in events) < 2

    left = run_stages(stages, executor, executor.kept, events.append, may_start=in_time)
    done = [event.stage for event in events if event.kind == "done"]
    assert len(done) == 2 and left == len(stages) - 2
    assert {name for name in stages if executor.kept.done(name)} == set(done)
    rest = [event.stage for event in run(stages, executor) if event.kind == "done" and event.made]
    assert sorted([*done, *rest]) == sorted(stages)


def test_a_worker_that_dies_after_the_time_is_not_replaced(executor, folder):
    if isinstance(executor, Inline):
        pytest.skip("there is no worker")
    stages = stages_of(folder, "model={name: conforms:dies, width: 5}", "prune.ratios=0")
    events = []
    left = run_stages(stages, executor, executor.kept, events.append, may_start=lambda: not events)
    assert left == len(stages) and not [event for event in events if event.kind in ("done", "failed")]
    assert not any(executor.kept.failure(name) for name in stages)


def test_a_stage_that_fails_takes_what_needs_it_and_nothing_else(executor, folder, monkeypatch):
    models = "model=[conforms:raises,{name: conforms:fine, width: 5}]"
    stages = stages_of(folder, models, "prune.ratios=0")
    (folder / "computing").touch()
    try:
        events = run(stages, executor)
    finally:
        (folder / "computing").unlink()
    failed = {event.stage: event for event in events if event.kind == "failed"}
    assert {event.stage for event in events if event.kind == "done"} == stages.keys() - failed.keys()
    assert len(failed) == len(stages) / 2
    dense = next(stage for stage in failed if stage.startswith("dense"))
    assert all(event.reason.startswith("RuntimeError: no such luck") for event in failed.values())
    assert executor.kept.failure(dense)["reason"] == failed[dense].reason
    if not isinstance(executor, Inline):  # which prints where the test does
        log = failed[dense].log
        assert len(log) == LOG_BYTES - 1  # without the newline at its end
        assert log.startswith("x") and log.endswith("x\nfrom another program\nfrom Python")
    again = end_of(stages[dense], executor)
    assert again.kind == "failed" and again.reason == failed[dense].reason  # from the note, without another try


def test_a_worker_that_dies_is_replaced_and_its_stage_tried_once_more(executor, folder):
    if isinstance(executor, Inline):
        pytest.skip("there is no worker")
    stages = stages_of(folder, "model=conforms:dies", "prune.ratios=0")
    events = run(stages, executor)
    notes = [event.reason for event in events if event.kind == "note"]
    assert len(notes) == 1 and "died" in notes[0] and notes[0].endswith("trying once more")
    failed = [event for event in events if event.kind == "failed"]
    assert {event.stage for event in failed} == stages.keys()
    assert all("the worker process died" in event.reason and event.reason.endswith("2 times") for event in failed)
    other = next(iter(stages_of(folder, "model={name: conforms:fine, width: 6}").values()))
    assert end_of(other, executor).kind == "done"


def test_a_stage_that_is_computed_elsewhere_is_left_to_that_process(executor, folder):
    stage = next(iter(stages_of(folder, "model={name: conforms:fine, width: 7}").values()))
    with executor.kept.lock(stage.id) as mine:
        assert mine and end_of(stage, executor).kind == "elsewhere"
        assert not executor.kept.done(stage.id)
    event = end_of(stage, executor)
    assert event.kind == "done" and event.made and executor.kept.done(stage.id)


def test_workers_are_forked_with_what_stages_import_as_they_are_computed():
    """Else each worker would import it for itself."""
    imported = set()
    for file in (Path(qprune.__file__).parent / "stages").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qprune."):
                imported.add(node.module)
    code = f"import sys, qprune.executors.preload; print(*sorted({imported!r} - sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(imported) > 20 and run.stdout.split() == []
