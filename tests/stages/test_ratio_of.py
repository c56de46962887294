"""Ratios of MACs and parameters: a snapshot is where its share is gone, named by it, on the same path as all others."""

import dataclasses

import pytest
import torch
from stops import CPU, Killed, copy_of, killed_at
from tiny_sweep import F, N, Q, run_inline, tiny_config

from qprune.registry.errors import UserError
from qprune.stages import partial
from qprune.stages.prune import Goal
from qprune.stages.work import compute
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

OF = ("seeds=0", "precisions=fp32", "prune.ratios=[0,0.5,0.75]", "prune.until=0.9")


def finished(config, out):
    code, computed, text = run_inline(config, out)
    return code, computed, read_cells(out / "tiny").set_index("pruning_ratio"), text


@pytest.mark.parametrize("of", ["macs", pytest.param("params", marks=pytest.mark.long)])
def test_a_snapshot_has_lost_its_share_and_had_not_one_step_before(tmp_path, of):
    config = tiny_config(tmp_path, *OF, f"prune.of={of}")
    code, _, cells, text = finished(config, tmp_path / "results")
    assert code == 0, text
    path = 13 * 2  # 101 of 112 maps in steps of 8, 2 updates each
    assert set(cells.total_updates) == {N + path + F + Q} and set(cells.ratio_of) == {of}
    whole = cells[of][0.0]
    plan, store = make_plan(config), Store(tmp_path / "results/stages")
    for ratio in (0.5, 0.75):
        lost = 1 - cells[of][ratio] / whole
        snapshot = store.meta(cells.stage_prune[ratio])
        assert snapshot["lost"] == pytest.approx(lost, abs=0.002 if of == "params" else 1e-12)  # BN folds into a bias
        assert lost >= ratio - 0.002 and snapshot["target"] == ratio and str(ratio) in cells.stage_prune[ratio]
        assert snapshot["updates"]["prune"] == 2 * snapshot["step"]
    steps = [store.meta(cells.stage_prune[ratio])["step"] for ratio in (0.5, 0.75)]
    # the same path in shares of maps: with one step less each has less than its share gone
    maps = tiny_config(tmp_path, *OF, f"prune.ratios={[0, *sorted({step * 8 / 112 for s in steps for step in (s - 1, s)})]}", "prune.until=0.9")  # fmt: skip
    code, _, others, text = finished(maps, tmp_path / "results")
    assert code == 0, text
    for ratio, step in zip((0.5, 0.75), steps, strict=True):
        before, there = (1 - others[of][k * 8 / 112] / whole for k in (step - 1, step))
        assert before < ratio <= there + 0.002
    assert {stage.path for stage in plan.stages.values() if stage.kind == "prune"} == {
        stage.path for stage in make_plan(maps).stages.values() if stage.kind == "prune"
    }


def test_a_target_that_is_added_later_changes_no_other(tmp_path):
    """0.9 and then 0.5, each gone on from or walked past; the networks are those of one go."""
    one_go, in_parts = tmp_path / "one", tmp_path / "parts"
    config = tiny_config(tmp_path, *OF, "prune.of=macs", "prune.ratios=[0,0.5,0.9]")
    assert finished(config, one_go)[0] == 0
    for ratios in ("[0,0.9]", "[0,0.5,0.9]"):
        code, computed, cells, _ = finished(
            tiny_config(tmp_path, *OF, "prune.of=macs", f"prune.ratios={ratios}"), in_parts
        )
        assert code == 0
    assert sum("prune-" in name for name in computed) == 1  # the one that was added
    for stage in make_plan(config).stages:
        if Store(one_go / "stages").has_tensors(stage):
            first, second = (Store(out / "stages").tensors(stage) for out in (one_go, in_parts))
            assert all((first[name] == second[name]).all() for name in first), stage


def test_a_target_that_the_path_does_not_reach_fails_alone(tmp_path):
    config = tiny_config(tmp_path, *OF, "prune.of=macs", "prune.ratios=[0,0.5,0.999]", "prune.until=0.6")
    code, _, cells, _ = finished(config, tmp_path / "results")
    assert code == 1 and cells.status.to_dict() == {0.0: "done", 0.5: "done", 0.999: "failed"}
    assert "0.999 of the macs can't be removed: at the end of the pruning path" in cells.reason[0.999]


def test_the_path_ends_at_a_share_of_maps(tmp_path):
    assert tiny_config(tmp_path, "prune.of=macs").prune.until == 0.95
    with pytest.raises(
        UserError, match="prune.criterion.*lambda: cv chooses at shares of maps; give a number with of: macs"
    ):
        tiny_config(tmp_path, "prune.of=macs", "prune.criterion={name: taylor_activation, lambda: cv}")


def test_narrower_networks_lose_as_much_of_the_same(tmp_path):
    config = tiny_config(tmp_path, *OF, "prune.of=macs", "baselines=narrower")
    code, _, _, text = finished(config, tmp_path / "results")
    assert code == 0, text
    cells = read_cells(tmp_path / "results/tiny")
    whole = cells.macs.max()
    narrow = cells[cells.method == "narrower"].set_index("pruning_ratio")
    for ratio in (0.5, 0.75):
        assert 0 <= 1 - narrow.macs[ratio] / whole - ratio < 0.06  # one map of 112 less is too little


def snapshots(plan):
    return {stage.goal.target: stage for stage in plan.stages.values() if stage.kind == "prune"}


def same(left: Store, right: Store, stage: str) -> bool:
    first, second = left.tensors(stage), right.tensors(stage)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_walk_to_a_target_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Even where another snapshot has come in between, of another kind of share, further on than what was saved."""
    monkeypatch.setattr(partial, "SAVING_SHARE", float("inf"))
    small = ("train.updates=5", "prune.channels_per_step=4", "prune.until=0.9", "prune.ratios=[0,0.75]")
    plan = make_plan(tiny_config(tmp_path, "seeds=0", "precisions=fp32", "prune.of=macs", *small))
    whole, (stage,) = Store(tmp_path / "whole"), snapshots(plan).values()
    for name in (*stage.inputs, stage.id):
        compute(plan.stages[name], whole, CPU)
    updates = whole.meta(stage.id)["updates"]["prune"]
    store = copy_of(whole, stage.inputs, tmp_path / "stages")
    saved = []
    for update in (11, updates // 2, 3):  # at the last, of what has been left
        with pytest.raises(Killed):
            compute(stage, store, CPU, killed_at(update))
        saved.append(store.load_partial(stage.id)[0]["step"])
    assert 0 < saved[0] < saved[1] <= saved[2] < whole.meta(stage.id)["step"]
    compute(stage, store, CPU)
    assert same(store, whole, stage.id) and store.meta(stage.id)["updates"] == whole.meta(stage.id)["updates"]
    # and gone on from a snapshot of a share of the maps, with what was saved before it thrown away
    step = whole.meta(stage.id)["step"] - 1
    nearer = dataclasses.replace(stage, goal=Goal(step), before=stage.source)
    other = copy_of(whole, stage.inputs, tmp_path / "other")
    with pytest.raises(Killed):
        compute(stage, other, CPU, killed_at(11))
    compute(nearer, other, CPU)
    ticks = []
    compute(stage, other, CPU, ticks.append)
    assert sum(ticks) == stage.walk.updates_between  # one step
    assert same(other, whole, stage.id) and other.meta(stage.id)["updates"] == whole.meta(stage.id)["updates"]
    # one that is past the target is none to go on from; what it has lost is told by its widths alone
    beyond = dataclasses.replace(stage, goal=Goal(step + 2), before=stage.source)
    past = copy_of(whole, stage.inputs, tmp_path / "past")
    compute(beyond, past, CPU)
    compute(stage, past, CPU, ticks.append)
    assert same(past, whole, stage.id) and past.meta(stage.id)["step"] == step + 1


def test_under_quantisation_a_target_is_found_on_each_precisions_own_path(tmp_path):
    config = tiny_config(tmp_path, *OF, "prune.of=macs", "order=quantize_first", "precisions=[fp16,int4]")
    code, _, text = run_inline(config, tmp_path / "results")
    assert code == 0, text
    cells = read_cells(tmp_path / "results/tiny")
    assert set(cells.total_updates) == {N + 26 + F + Q} and set(cells.status) == {"done"}
    store = Store(tmp_path / "results/stages")
    for row in cells[cells.pruning_ratio > 0].itertuples():
        lost = 1 - row.macs / cells.macs.max()
        assert row.pruning_ratio <= lost == pytest.approx(store.meta(row.stage_prune)["lost"], abs=1e-12)
    assert cells.stage_prune.dropna().nunique() == 4
