"""Several `qprune sweep` on one folder share the work, and the answer doesn't depend on who computed what."""

import os
import re
import signal
import subprocess

import pytest
from processes import members, running, wait_until
from same import check_complete, leftovers, same_files, same_rows
from soak import Watch
from tiny_sweep import COMMAND, environment, run_inline, run_workers, tiny_config, write_tiny

from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

LONGER = ("train.updates=400", "precisions=fp32")


@pytest.fixture
def start(tmp_path):
    """Starts the command in tmp_path, in a session of its own; what is left of it at the end is killed."""
    write_tiny(tmp_path)
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [*COMMAND, "sweep", "tiny.yaml", "--workers", "1", *arguments], cwd=tmp_path, env=environment(),
                start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def watch(tmp_path):
    """Sees whether a stage is written twice."""
    watch = Watch(Store(tmp_path / "results/stages"))
    watch.start()
    yield watch
    watch.stop()


def end_of(process: subprocess.Popen) -> tuple[int, int]:
    """(cells done, stages computed) that a sweep prints at its end."""
    text = process.communicate(timeout=400)[0]
    assert process.returncode == 0, text
    assert not re.search("mended:|damaged|Traceback|failed|error:", text), text
    cells, stages = re.search(r"(\d+) of \d+ cells done; (\d+) stages computed", text).groups()
    return int(cells), int(stages)


def test_two_sweeps_started_together_share_the_stages(finished, tmp_path, start, watch):
    both = [start(), start()]
    ends = [end_of(process) for process in both]
    stages = make_plan(tiny_config(tmp_path)).stages
    assert [cells for cells, _ in ends] == [16, 16]
    assert sum(computed for _, computed in ends) == len(stages) == len(watch.finished)
    assert all(computed for _, computed in ends)  # neither did all of it
    check_complete(tmp_path, finished, "tiny")


@pytest.mark.long
def test_two_sweeps_of_different_names_share_the_stages(finished, tmp_path, start):
    """One has a precision more, the other a seed more."""
    first = start("--set", "name=first", "--set", "precisions=[fp32,int4]", "--set", "seeds=[0]")
    second = start("--set", "name=second", "--set", "precisions=[fp32]")
    ends = [end_of(process) for process in (first, second)]
    assert [cells for cells, _ in ends] == [4, 4]
    plans = [
        make_plan(tiny_config(tmp_path, "precisions=[fp32,int4]", "seeds=[0]")),
        make_plan(tiny_config(tmp_path, "precisions=[fp32]")),
    ]
    together = plans[0].stages.keys() | plans[1].stages.keys()
    assert len(together) < len(plans[0].stages) + len(plans[1].stages)
    assert sum(computed for _, computed in ends) == len(together)
    expected = read_cells(finished / "results/tiny").set_index("cell")
    for name in ("first", "second"):
        cells = read_cells(tmp_path / "results" / name).set_index("cell")
        assert len(cells) == 4 and set(cells.status) == {"done"}
        same_rows(cells, expected, "sweep")
    assert leftovers(tmp_path / "results") == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a sweep on its own whose dense stages take a second or more."""
    folder = tmp_path_factory.mktemp("alone")
    code, _, text = run_inline(tiny_config(folder, *LONGER), folder / "results")
    assert code == 0, text
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("whom", [pytest.param("driver", marks=pytest.mark.long), "all"])
def test_a_sweep_takes_over_from_one_that_is_killed(alone, tmp_path, start, watch, whom):
    """Both work, one is killed in the middle of a stage; the other ends with the answer of a sweep on its own."""
    sets = [word for setting in LONGER for word in ("--set", setting)]
    killed, other = start(*sets), start(*sets)
    store = Store(tmp_path / "results/stages")

    busy = {}

    def both_work() -> bool:
        busy.update(dict.fromkeys((killed, other)))
        for pid, stage in running(store).items():
            for process in busy:
                if pid in members(process.pid):
                    busy[process] = stage
        return all(busy.values())

    wait_until(both_work, 200)
    if whom == "all":
        os.killpg(killed.pid, signal.SIGKILL)
    else:
        killed.kill()
    wait_until(lambda: not members(killed.pid), 60)
    assert not store.done(busy[killed])
    cells, computed = end_of(other)
    stages = make_plan(tiny_config(tmp_path, *LONGER)).stages
    assert cells == 4 and store.done(busy[killed]) and len(watch.finished) == len(stages)
    assert len(stages) - 2 <= computed <= len(stages)  # the killed one may have finished a stage or two
    check_complete(tmp_path, alone, "tiny")


def test_the_number_of_workers_changes_nothing(finished, tmp_path):
    """Three, against the two of the finished sweep."""
    code, text = run_workers(tiny_config(tmp_path), tmp_path / "results", 3)
    assert code == 0, text
    left, right = (read_cells(folder / "results/tiny").set_index("cell") for folder in (tmp_path, finished))
    assert list(left.index) == list(right.index) and len(left) == 16
    same_rows(left, right)
    same_files(tmp_path / "results", finished / "results")
