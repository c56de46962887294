"""Shared by all tests: one thread, small images."""

import os
import shutil

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which the tiny sweep has been run to its end, by two workers. Tests that change it take a copy."""
    from tiny_sweep import run_workers, tiny_config

    folder = tmp_path_factory.mktemp("finished")
    code, text = run_workers(tiny_config(folder), folder / "results", workers=2)
    assert code == 0, text
    return folder


@pytest.fixture
def resumable(finished, tmp_path):
    """A copy of the finished sweep's folder, to go on with."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"
