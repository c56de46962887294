"""Shared by all tests: one thread of torch, a browser, the tiny sweep run once; the order of files."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["QPRUNE_CACHE"] = tempfile.mkdtemp(prefix="qprune-tests-cache-")  # not the user's
atexit.register(shutil.rmtree, os.environ["QPRUNE_CACHE"], ignore_errors=True)
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 -- else tests beside a cluster starve its workers

import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402

torch.set_num_threads(1)


def pytest_xdist_auto_num_workers():
    """One more than cores: some tests wait for a cluster or for a process to end."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that none is left for the end, when the other processes have nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path_factory, monkeypatch):
    """Each test finds out for itself what a command keeps for the next one; the user's cache is left alone."""
    from qprune.storage import kept

    monkeypatch.setattr(kept, "PLACE", tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium; its attribute `downloads` is the folder of what it saves."""
    from browser import chromium

    folder = tmp_path_factory.mktemp("chromium")
    with chromium(folder) as driver:
        driver.downloads = folder / "downloads"
        yield driver


def built_once(tmp_path_factory, name: str, build: Callable[[Path], None]) -> Path:
    """A folder that one process of the run fills, and all its processes read."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, built = base / name, base / f"{name}.built"
    with FileLock(base / f"{name}.lock"):
        if not built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            built.touch()
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which the tiny sweep has been run to its end, by two workers. Tests that change it take a copy."""
    from tiny_sweep import run_workers, tiny_config

    def build(folder: Path) -> None:
        code, text = run_workers(tiny_config(folder), folder / "results", workers=2)
        assert code == 0, text

    return built_once(tmp_path_factory, "finished", build)


@pytest.fixture
def resumable(finished, tmp_path):
    """A copy of the finished sweep's folder, to go on with."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"
