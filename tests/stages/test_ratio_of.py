"""Ratios of MACs and parameters: a snapshot is where its share is gone, named by it, on the same path as all others."""

import pytest
from tiny_sweep import F, N, Q, run_inline, tiny_config

from qprune.registry.errors import UserError
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

OF = ("seeds=0", "precisions=fp32", "prune.ratios=[0,0.5,0.75]", "prune.until=0.9")


def finished(config, out):
    code, computed, text = run_inline(config, out)
    return code, computed, read_cells(out / "tiny").set_index("pruning_ratio"), text


@pytest.mark.parametrize("of", ["macs", "params"])
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
