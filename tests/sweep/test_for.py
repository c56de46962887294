"""sweep --for: no stage is started after so long, those that run are finished, and the same command goes on."""

import pytest
from tiny_sweep import SMALL, Inline, run_inline, tiny_config

from qprune.registry.duration import duration_text, seconds_of
from qprune.registry.errors import UserError
from qprune.storage.results import read_cells
from qprune.sweep import run


@pytest.fixture
def clock(monkeypatch):
    """A clock that a computed stage moves on by a second."""
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    start = Inline.start

    def slow(self, stage):
        start(self, stage)
        now[0] += 1.0

    monkeypatch.setattr(Inline, "start", slow)
    return now


@pytest.mark.parametrize("strategy", ["grid", "front"])
def test_it_stops_at_a_stages_end_and_goes_on(tmp_path, clock, strategy):
    config = tiny_config(tmp_path, *SMALL, f"strategy={strategy}")
    whole = run_inline(config, tmp_path / "whole")[1]
    parts, rounds = [], 0
    while rounds < 20:
        code, computed, text = run_inline(config, tmp_path / "parts", report=True, seconds=5.0)
        rounds += 1
        parts += computed
        assert code == 0
        if "the time is over" not in text:
            break
        assert len(computed) == 5 and "stages are left; the same command goes on" in text
        cells = read_cells(tmp_path / "parts/tiny")
        assert set(cells.status) <= {"done", "pending"}  # nothing is skipped before the search has ended
        assert (tmp_path / "parts/tiny/report.html").is_file()
    assert sorted(parts) == sorted(whole) and rounds == -(-len(whole) // 5)
    assert set(read_cells(tmp_path / "parts/tiny").status) == set(read_cells(tmp_path / "whole/tiny").status)


def test_networks_that_are_not_on_the_front_are_kept_until_the_end(tmp_path, clock):
    config = tiny_config(tmp_path, *SMALL, "keep=front")
    assert run_inline(config, tmp_path / "results", seconds=9.0)[0] == 0
    left = sum(1 for _ in (tmp_path / "results/stages").glob("quantize-*/tensors.safetensors"))
    assert left == sum(1 for _ in (tmp_path / "results/stages").glob("quantize-*"))


def test_durations():
    assert [seconds_of(text, "--for") for text in ("8h", "90m", "45s", "1h30m", "2d")] == [
        28800,
        5400,
        45,
        5400,
        172800,
    ]
    assert [duration_text(one) for one in (45, 119, 5400, 28800, 90000)] == ["45s", "119s", "1h 30m", "8h", "1d 1h"]
    for text in ("", "8", "h", "30m1h", "-3h", "0h"):
        with pytest.raises(UserError, match="--for .*: write a duration such as 8h"):
            seconds_of(text, "--for")


def test_networks_that_are_to_be_made_again_are_left_too(tmp_path, clock):
    """Their stages are done, only their tensors were not kept."""
    config = tiny_config(tmp_path, *SMALL, "keep=none")
    assert run_inline(config, tmp_path / "results")[0] == 0
    keeping = tiny_config(tmp_path, *SMALL, "keep=all")
    code, computed, text = run_inline(keeping, tmp_path / "results", seconds=1.0)
    assert code == 0 and len(computed) == 1
    assert "stages are left; the same command goes on" in text
    code, computed, text = run_inline(keeping, tmp_path / "results")
    assert code == 0 and computed and "the time is over" not in text
