"""Stages are computed once: what a second run, another ratio, seed, precision, name or `keep` computes, and only that."""

import shutil

import pandas as pd
import pytest
import torch
from same import same_rows
from tiny_sweep import Inline, count_kinds, run_inline, run_workers, tiny_config

import qprune
from qprune.executors.base import run_stages
from qprune.registry.errors import UserError
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan
from qprune.sweep.run import missing_stages, wanted_networks


def rows_of(folder, name="tiny"):
    return read_cells(folder / "results" / name).set_index("cell")


def tensors_of(folder, stage):
    return Store(folder / "results/stages").tensors(stage)


def same_tensors(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


# Once is enough -----------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(resumable):
    before = {file: file.stat().st_mtime_ns for file in (resumable / "results/stages").rglob("*")}
    rows = rows_of(resumable)
    code, computed, text = run_inline(tiny_config(resumable), resumable / "results")
    assert code == 0 and computed == []
    assert "16 of 16 cells done; 0 stages computed" in text
    assert {file: file.stat().st_mtime_ns for file in (resumable / "results/stages").rglob("*")} == before
    pd.testing.assert_frame_equal(rows, rows_of(resumable))


def test_another_ratio_computes_only_its_own_stages(resumable):
    old = rows_of(resumable)
    stages = set(Store(resumable / "results/stages").folder.iterdir())
    code, computed, _ = run_inline(tiny_config(resumable, "prune.ratios=[0,0.25,0.5]"), resumable / "results")
    assert code == 0
    # a snapshot and its fine-tuning for each of 2 seeds, then 4 precisions of each
    assert count_kinds(computed) == {"prune": 2, "finetune": 2, "quantize": 8, "evaluate": 8}
    assert {folder.name for folder in set((resumable / "results/stages").iterdir()) - stages} == set(computed)
    new = rows_of(resumable)
    assert len(new) == 24 and set(new.status) == {"done"} and set(new.total_updates) == {68}
    assert set(new[new.pruning_ratio == 0.25].achieved_ratio) == {4 * 8 / 112}  # 28 maps take 4 steps of 8
    same_rows(old, new)


def test_a_path_is_the_same_wherever_its_snapshots_are(finished, resumable, tmp_path):
    """0.25, walked after 0.5 was there, and 0.5, walked on from 0.25, in one process as in two workers."""
    grid = ("prune.ratios=[0,0.25,0.5]", "precisions=[fp32,int4]", "seeds=0")
    run_inline(tiny_config(resumable, *grid), resumable / "results")
    (tmp_path / "fresh").mkdir()
    code, _ = run_workers(tiny_config(tmp_path / "fresh", *grid), tmp_path / "fresh/results", workers=1)
    assert code == 0
    direct, fresh = rows_of(resumable), rows_of(tmp_path / "fresh")
    assert len(fresh) == 6
    assert fresh.loc["vgg_tiny-digits-taylor-fp32-r0.25-s0"].stage_prune.endswith("-00004")
    same_rows(direct, fresh)
    same_rows(rows_of(finished), fresh)  # run by two workers
    for column in ("stage_dense", "stage_prune", "stage_finetune", "stage_quantize"):
        for stage in set(fresh[column].dropna()):
            same_tensors(tensors_of(tmp_path / "fresh", stage), tensors_of(resumable, stage))


def test_another_seed_and_another_precision_compute_only_their_own(resumable):
    old = rows_of(resumable)
    config = tiny_config(resumable, "seeds=[0,1,2]", "precisions=[fp32,w8a8]")
    code, computed, _ = run_inline(config, resumable / "results")
    assert code == 0
    # seed 2: a dense network, a path, two fine-tunings and 2 x 2 cells; seeds 0 and 1: 2 cells of w8a8 each
    assert count_kinds(computed) == {"dense": 1, "prune": 1, "finetune": 2, "quantize": 4 + 4, "evaluate": 4 + 4}
    new = rows_of(resumable)
    assert len(new) == 12 and set(new.status) == {"done"}
    same_rows(old, new)
    paired = new.reset_index().pivot(index=["seed", "pruning_ratio"], columns="precision", values="gbops")
    assert (paired.w8a8 * 16).to_list() == pytest.approx(paired.fp32.to_list())


def test_another_name_shares_the_stages(resumable):
    code, computed, _ = run_inline(tiny_config(resumable, "name=twin"), resumable / "results")
    assert code == 0 and computed == []
    same_rows(rows_of(resumable), rows_of(resumable, "twin"), "sweep")
    cell = "vgg_tiny-digits-taylor-int4-r0.50-s0"
    networks = [qprune.load_network(resumable / "results" / name, cell) for name in ("tiny", "twin")]
    same_tensors(*[network.state_dict() for network in networks])


def test_int4_and_w4a4_are_one_stage_under_two_names(resumable):
    code, computed, _ = run_inline(tiny_config(resumable, "precisions=w4a4"), resumable / "results")
    assert code == 0 and computed == []
    assert set(rows_of(resumable).precision) == {"w4a4"}


def test_what_was_deleted_is_computed_again(resumable):
    old = rows_of(resumable)
    for stage in {old.stage_prune.dropna().iloc[0], old.stage_evaluate.iloc[0]}:
        shutil.rmtree(resumable / "results/stages" / stage)
    deleted = tensors_of(resumable, old.stage_finetune.iloc[0])
    code, computed, _ = run_inline(tiny_config(resumable), resumable / "results")
    assert code == 0 and count_kinds(computed) == {"prune": 1, "evaluate": 1}
    same_rows(old, rows_of(resumable))
    same_tensors(deleted, tensors_of(resumable, old.stage_finetune.iloc[0]))


# The end of the path ------------------------------------------------------------------------------------------------


def snapshot(folder) -> dict:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


@pytest.mark.parametrize("ratios", ["[0,0.5,0.75]", "[0,0.25]"])
def test_a_ratio_that_moves_the_paths_end_is_refused(resumable, ratios):
    before = snapshot(resumable / "results")
    with pytest.raises(UserError, match=r"--set prune.ratios=.*: the largest ratio, .*0\.5.*`until: 0\.5`.*new `name`"):
        run_workers(tiny_config(resumable, f"prune.ratios={ratios}"), resumable / "results", 1)
    assert snapshot(resumable / "results") == before


def test_a_smaller_ratio_with_until_is_the_same_path(resumable):
    config = tiny_config(resumable, "prune.ratios=[0]", "prune.until=0.5")
    code, computed, _ = run_inline(config, resumable / "results")
    assert code == 0 and computed == [] and len(rows_of(resumable)) == 8


def test_until_starts_over_where_it_is_asked_for(finished, tmp_path):
    old = {cell.id: cell for cell in make_plan(tiny_config(tmp_path)).cells}
    new = make_plan(tiny_config(tmp_path, "prune.until=0.75"))
    for cell in new.cells:
        assert cell.stages["dense"] == old[cell.id].stages["dense"]
        assert cell.stages["finetune"] != old[cell.id].stages["finetune"]
        assert new.total_updates(cell) == 40 + 11 * 2 + 8 + 6  # 84 maps take 11 steps of 8


# keep ---------------------------------------------------------------------------------------------------------------


def networks(folder, name="tiny") -> set[str]:
    return {file.stem for file in (folder / "results" / name / "networks").glob("*")}


def test_keep_all_keeps_every_network(finished):
    assert networks(finished) == set(rows_of(finished).index)


def test_keep_none(resumable):
    code, computed, _ = run_inline(tiny_config(resumable, "keep=none"), resumable / "results")
    rows = rows_of(resumable)
    assert code == 0 and computed == [] and networks(resumable) == set()
    store = Store(resumable / "results/stages")
    assert not any(store.has_tensors(stage) for stage in rows.stage_quantize)
    assert all(store.has_tensors(stage) for stage in rows.stage_finetune)  # a precision can still be added
    with pytest.raises(UserError, match="keep"):
        qprune.load_network(resumable / "results/tiny", rows.index[0])
    code, computed, _ = run_inline(tiny_config(resumable, "keep=none"), resumable / "results")
    assert code == 0 and computed == []


def test_keep_all_after_keep_none_makes_the_networks_again(resumable, finished):
    run_inline(tiny_config(resumable, "keep=none"), resumable / "results")
    code, computed, _ = run_inline(tiny_config(resumable), resumable / "results")
    assert code == 0 and count_kinds(computed) == {"quantize": 16}
    assert networks(resumable) == set(rows_of(resumable).index)
    same_rows(rows_of(finished), rows_of(resumable))
    for cell in rows_of(resumable).index[:4]:
        left, right = (qprune.load_network(folder / "results/tiny", cell) for folder in (finished, resumable))
        same_tensors(*[{k: v for k, v in n.state_dict().items() if hasattr(v, "shape")} for n in (left, right)])


def test_keep_front(resumable):
    code, computed, _ = run_inline(tiny_config(resumable, "keep=front"), resumable / "results")
    assert code == 0 and computed == []
    rows = rows_of(resumable).reset_index()
    points = rows.groupby(["precision", "pruning_ratio"])[["bit_gflops", "val_accuracy"]].mean()
    front = {
        point
        for point, (cost, accuracy) in points.iterrows()
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points.to_numpy())
    }
    assert 0 < len(front) < 8
    on_front = [(row.precision, row.pruning_ratio) in front for row in rows.itertuples()]
    assert networks(resumable) == set(rows.cell[on_front])
    for cell in rows.cell[on_front][:2]:
        qprune.load_network(resumable / "results/tiny", cell)


def test_a_network_that_comes_onto_the_front_is_made_again(resumable):
    """Its own was deleted when the sweep had two more precisions."""
    run_inline(tiny_config(resumable, "keep=front"), resumable / "results")
    fp32 = {cell for cell in rows_of(resumable).index if "-fp32-" in cell}
    assert not networks(resumable) & fp32  # fp16 has the same accuracy at a quarter of the cost
    only = ("keep=front", "precisions=fp32")
    code, computed, _ = run_inline(tiny_config(resumable, *only), resumable / "results")
    assert code == 0 and count_kinds(computed) == {"quantize": 4}  # two points, neither worse than the other
    assert fp32 <= networks(resumable)
    assert run_inline(tiny_config(resumable, *only), resumable / "results")[:2] == (0, [])


def test_a_damaged_snapshot_that_no_sweep_asks_for_now_is_no_obstacle(tmp_path):
    """A path goes on from the furthest snapshot that is whole."""
    shared = ("seeds=0", "precisions=fp32", "prune.until=0.5")
    assert run_inline(tiny_config(tmp_path, *shared, "prune.ratios=[0,0.25]"), tmp_path / "results")[0] == 0
    (snapshot,) = (tmp_path / "results/stages").glob("prune-*")
    file = snapshot / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    config = tiny_config(tmp_path, *shared, "prune.ratios=[0,0.5]", "name=other")
    code, _, text = run_inline(config, tmp_path / "results")
    assert code == 0, text
    assert run_inline(tiny_config(tmp_path, *shared, "prune.ratios=[0,0.5]"), tmp_path / "fresh")[0] == 0
    rows = [read_cells(tmp_path / where).accuracy.tolist() for where in ("results/other", "fresh/tiny")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("keep", ["none", "front", "all"])
def test_what_another_sweep_has_finished_and_not_kept_is_not_computed_again(tmp_path, keep):
    """Planned before the other began, begun after it had ended; with keep: all its networks are wanted all the same."""
    small = ("seeds=0", "precisions=[fp32,int4]", "prune.ratios=0", "train.updates=5")
    config = tiny_config(tmp_path, *small, f"keep={keep}")
    plan, store = make_plan(config), Store(tmp_path / "results/stages")
    wanted = wanted_networks(plan, tmp_path / "results/tiny")
    todo = missing_stages(plan, store, wanted)
    assert len(todo) == len(plan.stages)
    assert run_inline(tiny_config(tmp_path, *small, "keep=none"), tmp_path / "results")[0] == 0
    executor, events = Inline(store.folder), []
    run_stages(todo, executor, store, events.append, wanted)
    networks = {cell.network for cell in plan.cells}
    assert set(executor.computed) == (networks if keep == "all" else set())
    assert sum(event.kind == "done" for event in events) == len(todo)
