"""The process from which workers are forked: it may die, knows no later environment, and looks for no module where users have files."""

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver

import pytest
from tiny_sweep import SMALL, run_workers, tiny_config

from qprune.executors.base import run_stages
from qprune.executors.local import LocalExecutor, _held_back
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan


def done_by(executor, folder, seed: int) -> bool:
    """Whether all of a small sweep's stages are computed."""
    store, stages = Store(folder), make_plan(tiny_config(folder, *SMALL[1:], f"seeds={seed}", "precisions=fp32")).stages
    run_stages(stages, executor, store, lambda event: None)
    return all(store.done(stage) for stage in stages)


def test_the_process_that_they_are_forked_from_may_die(tmp_path):
    with LocalExecutor(1, 1, tmp_path) as executor:
        assert done_by(executor, tmp_path, 0)
        server = forkserver._forkserver._forkserver_pid
        os.kill(server, signal.SIGKILL)
        assert done_by(executor, tmp_path, 1)
        (worker,) = executor.processes
        os.kill(worker.pid, signal.SIGKILL)
        assert done_by(executor, tmp_path, 2)
        assert forkserver._forkserver._forkserver_pid != server
        (worker,) = executor.processes
    assert not worker.is_alive()


def test_a_signal_is_not_lost_with_what_it_broke():
    """One to the whole group kills the process that a worker is to be forked from, so that its start fails, too."""
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), _held_back(signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
            raise EOFError
    finally:
        signal.signal(signal.SIGTERM, handler)


CODE = """
import os
from torch import nn


def build(num_classes):
    assert os.environ["SET_LATER"] == "yes" and "PYTHONSAFEPATH" not in os.environ
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, num_classes))
"""


def test_they_have_the_environment_of_now(tmp_path, monkeypatch):
    forkserver.ensure_running()  # before
    (tmp_path / "later_environment.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SET_LATER", "yes")
    config = tiny_config(tmp_path, *SMALL, "precisions=fp32", "model=later_environment:build")
    code, text = run_workers(config, tmp_path / "results", workers=1)
    assert code == 0, text


@pytest.mark.slow
def test_files_of_the_user_are_no_modules_of_python(tmp_path):
    """`qprune` is run where files are called as modules are that it needs."""
    for name in ("statistics", "torch", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    script = tmp_path / "bin" / "qprune"
    script.parent.mkdir()
    script.write_text("from qprune.__main__ import main\nif __name__ == '__main__':\n    main()\n")
    tiny_config(tmp_path)
    ran = subprocess.run(
        [sys.executable, str(script), "sweep", "tiny.yaml", *(f"--set={one}" for one in (*SMALL, "precisions=fp32"))],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0 and "the wrong one" not in ran.stderr, ran.stderr
