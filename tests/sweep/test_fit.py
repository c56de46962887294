"""plan --fit: what is suggested fits by the plan's own forecast, and the next larger one doesn't."""

import dataclasses
import io
import shlex

import pytest
from rich.console import Console
from tiny_sweep import command, run_inline, tiny_config

from qprune.settings.config import load_config
from qprune.sweep import fit as fit_module
from qprune.sweep import plan as plan_module
from qprune.sweep.fit import fits, show_fits
from qprune.sweep.forecast import WORKER_START_SECONDS, measure, wall_seconds_of
from qprune.sweep.plan import make_plan
from qprune.sweep.run import open_sweep

SETTINGS = ("protocol=early", "baselines=narrower", "budget={updates: 100}", "train={batch_size: 32}", "finetune={}",
            "quantize={}", "prune={ratios: [0, 0.25, 0.5, 0.75]}", "precisions=[fp32,int4]", "seeds=[0,1,2,3]")  # fmt: skip


@pytest.fixture
def config(tmp_path):
    return tiny_config(tmp_path, *SETTINGS)


@pytest.fixture
def measured(config):
    """As if each update took a second, and all else nothing."""
    plain = {"update": 1.0, "pruned_update": 1.0, "scored_update": 1.0, "image": 0.0}
    return {
        key: dataclasses.replace(
            one, **plain, precision_update=dict.fromkeys(one.precision_update, 1.0), precision_start={}
        )
        for key, one in measure(make_plan(config)).items()
    }


def wall(config, out, measured, change):
    changed = load_config(config.source.path, [*config.source.overrides, change])
    return wall_seconds_of(*open_sweep(changed, out), measured, 2)


def test_the_largest_that_fits(config, measured, tmp_path):
    whole = wall(config, tmp_path, measured, "keep=all")
    limit = (whole - WORKER_START_SECONDS) / 2 + WORKER_START_SECONDS
    found = {one.change.partition("=")[0]: one for one in fits(config, tmp_path, limit, 2, measured)}
    assert set(found) == {"budget.updates", "seeds", "prune.ratios"}
    assert found["seeds"].change == "seeds=[0, 1]"  # half of the four
    for one in found.values():
        assert one.seconds == pytest.approx(wall(config, tmp_path, measured, one.change)) and one.seconds <= limit
    updates = int(found["budget.updates"].change.partition("=")[2])
    assert wall(config, tmp_path, measured, f"budget.updates={updates + 1}") > limit
    assert wall(config, tmp_path, measured, "seeds=[0,1,2]") > limit
    ratios = len(found["prune.ratios"].change.split(","))
    assert ratios < 4 and "0.0" in found["prune.ratios"].change


def test_more_than_the_file_where_there_is_room(config, measured, tmp_path):
    whole = wall(config, tmp_path, measured, "keep=all")
    limit = 2 * (whole - WORKER_START_SECONDS) + WORKER_START_SECONDS
    found = {one.change.partition("=")[0]: one.change for one in fits(config, tmp_path, limit, 2, measured)}
    assert found["seeds"] == "seeds=[0, 1, 2, 3, 4, 5, 6, 7]"
    assert int(found["budget.updates"].partition("=")[2]) > 100


def test_ratio_0_alone_is_no_suggestion(config, measured, tmp_path):
    limit = wall(config, tmp_path, measured, "prune.ratios=[0]")
    assert limit < wall(config, tmp_path, measured, "prune.ratios=[0,0.75]")
    assert not [one for one in fits(config, tmp_path, limit, 2, measured) if one.change.startswith("prune.ratios")]


def test_what_the_file_has_already_is_no_suggestion(config, measured, tmp_path):
    whole = wall(config, tmp_path, measured, "keep=all")
    found = [one.change.partition("=")[0] for one in fits(config, tmp_path, whole, 2, measured)]
    assert found == []  # one update, seed or ratio more doesn't fit


def test_what_the_plan_refuses_is_too_large_for_it(config, measured, tmp_path, monkeypatch):
    """With room for any number of seeds, as many as a sweep takes."""
    monkeypatch.setattr(plan_module, "MAX_CELLS", 7 * 4 * 2 * 2)  # ratios, precisions, methods
    found = {one.change.partition("=")[0]: one for one in fits(config, tmp_path, 1e9, 2, measured)}
    assert found["seeds"].change == "seeds=[0, 1, 2, 3, 4, 5, 6]" and not found["seeds"].most
    assert found["budget.updates"].change == "budget.updates=6400" and found["budget.updates"].most


def test_what_is_done_costs_nothing(tmp_path, measured, config):
    small = tiny_config(tmp_path, *SETTINGS, "seeds=0", "budget.updates=60")
    assert run_inline(small, tmp_path / "results")[0] == 0
    assert wall_seconds_of(*open_sweep(small, tmp_path / "results"), measured, 2) == 0


def test_in_words(config, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "time_updates", lambda *arguments: measured)
    text = io.StringIO()
    show_fits(config, tmp_path, 800.0, 2, Console(file=text, width=200))
    said = text.getvalue()
    assert "does not fit 13m" in said and "each of these alone fits:" in said
    typed = [shlex.split(line.partition("  (about ")[0]) for line in said.splitlines() if "--set" in line]
    assert [option for option, _ in typed] == ["--set"] * len(typed)
    assert [change for _, change in typed] == [one.change for one in fits(config, tmp_path, 800.0, 2, measured)]
    assert typed[0][1].startswith("budget.updates=")
    text = io.StringIO()
    searched = tiny_config(tmp_path, *SETTINGS, "strategy=front")
    show_fits(searched, tmp_path, 1e9, 2, Console(file=text, width=200))
    assert text.getvalue().startswith("tiny: at most ") and "each of these alone fits too:" in text.getvalue()
    assert "; more may, too)" in text.getvalue()
    text = io.StringIO()
    show_fits(config, tmp_path, 1.0, 2, Console(file=text, width=200))
    assert "nothing smaller fits" in text.getvalue()


def test_the_command(config, tmp_path):
    (tmp_path / "q.yaml").write_text("name: q\ndata: digits\nmodel: vgg_tiny\nprecisions: fp32\n")
    done = command("plan", "q.yaml", "--fit", "10m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fits 10m" in done.stdout and "--set 'seeds=[0, 1, 2, 3" in done.stdout
    wrong = command("plan", "q.yaml", "--fit", "soon", cwd=tmp_path)
    assert wrong.returncode == 2 and "--fit 'soon': write a duration such as 8h" in wrong.stderr
    both = command("plan", "q.yaml", "--fit", "10m", "--cells", cwd=tmp_path)
    assert both.returncode == 2 and "give one of the two" in both.stderr


def test_phases_with_budgets_of_their_own_are_said(measured, tmp_path):
    text = io.StringIO()
    show_fits(tiny_config(tmp_path), tmp_path, 100.0, 2, Console(file=text, width=200))
    assert "no budget is among them" in text.getvalue()
