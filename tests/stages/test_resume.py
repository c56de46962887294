"""Unfinished work: a stage that is killed goes on from its last saved epoch, and ends bit for bit as if nothing had been."""

import pytest
import torch
from stops import CPU, LONG, Killed, copy_of, killed_at
from tiny_sweep import tiny_config

from qprune.stages import fold, partial
from qprune.stages.work import compute
from qprune.storage.seal import Damaged
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

KINDS = ["dense", "prune", "finetune", "fp16", "int8", "int4"]


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch):
    monkeypatch.setattr(partial, "SAVING_SHARE", float("inf"))


@pytest.fixture(scope="module", params=["sgd", pytest.param("adamw", marks=pytest.mark.long)])
def undisturbed(request, tmp_path_factory):
    """(stages in order, store) of one chain of stages for each precision, computed without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed")
    overrides = [*LONG, "precisions=[fp16,int8,int4]", f"train.optimizer={request.param}", "train.lr=0.004"]
    plan = make_plan(tiny_config(folder, *overrides))
    pruned = [cell for cell in plan.cells if cell.ratio == 0.5]
    stages = {name: stage for name, stage in plan.stages.items() if any(name in c.stages.values() for c in pruned)}
    store = Store(folder / "stages")
    for stage in stages.values():
        compute(stage, store, CPU)
    return stages, store


def find(stages: dict, kind: str):
    precision = {"int4": "w4a4"}.get(kind, kind)
    return next(s for s in stages.values() if s.kind == kind or s.makes == precision)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_stage_ends_as_if_it_had_not_been(undisturbed, tmp_path, kind):
    stages, original = undisturbed
    stage = find(stages, kind)
    if stage.recipe.optimizer == "adamw" and kind in ("fp16", "int8"):
        pytest.skip("AdamW's state is as in the other kinds")
    store = copy_of(original, stage.inputs, tmp_path / "stages")
    kills, made = 0, []
    for update in (11, 19, stage.updates - 1):  # in the 2nd epoch, in the 3rd, at the last but one
        with pytest.raises(Killed):
            compute(stage, store, CPU, killed_at(update))
        kills += 1
        assert not store.done(stage.id)
        meta, _ = store.load_partial(stage.id)
        made.append(sum(counter["updates"] for counter in meta["counters"].values()))
    assert kills == 3 and made == sorted(made) and made[0] >= 11 - 8 and made[-1] >= stage.updates - 1 - 8
    compute(stage, store, CPU)
    left, right = store.tensors(stage.id), original.tensors(stage.id)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    clock = ("seconds", "provenance", "tensors_sha256")
    left, right = store.meta(stage.id), original.meta(stage.id)
    assert {k: v for k, v in left.items() if k not in clock} == {k: v for k, v in right.items() if k not in clock}
    assert store.load_partial(stage.id) is None  # nothing is left behind


def test_a_killed_stage_costs_an_epoch_at_most(undisturbed, tmp_path):
    stages, original = undisturbed
    stage = find(stages, "dense")
    store = Store(tmp_path / "stages")
    with pytest.raises(Killed):
        compute(stage, store, CPU, killed_at(18))  # 16 of them were saved
    ticks = []
    compute(stage, store, CPU, ticks.append)
    assert ticks == [16] + [1] * 4


def test_damaged_unfinished_work_is_said_moved_aside_and_done_again(undisturbed, tmp_path):
    stages, original = undisturbed
    stage = find(stages, "dense")
    store = Store(tmp_path / "stages")
    with pytest.raises(Killed):
        compute(stage, store, CPU, killed_at(18))
    (file,) = (store.folder / ".partial").iterdir()
    content = bytearray(file.read_bytes())
    for damaged in (b"", content[:100], bytes([*content[:-9], content[-9] ^ 4, *content[-8:]])):
        file.write_bytes(damaged)
        with pytest.raises(Damaged, match="wrong checksum.*starts over"):
            store.load_partial(stage.id)
        assert store.load_partial(stage.id) is None
    file.write_bytes(content[:-1])
    notes, ticks = [], []
    compute(stage, store, CPU, ticks.append, notes.append)
    assert len(notes) == 1 and "starts over" in notes[0] and ticks == [1] * 20
    assert len(list((store.folder / "damaged").iterdir())) == 4
    for name, tensor in store.tensors(stage.id).items():
        assert torch.equal(tensor, original.tensors(stage.id)[name]), name


def test_saving_takes_a_small_share_of_the_time(undisturbed, tmp_path, monkeypatch):
    """Short stages are not saved at all, as they are done again in no time."""
    monkeypatch.setattr(partial, "SAVING_SHARE", 0.02)
    stages, _ = undisturbed
    stage = find(stages, "dense")
    store = Store(tmp_path / "stages")
    saved = []
    monkeypatch.setattr(Store, "save_partial", lambda *arguments: saved.append(arguments))
    clock = iter(range(10**6))
    monkeypatch.setattr(partial.time, "perf_counter", lambda: next(clock) * 0.001)
    compute(stage, store, CPU)
    assert not saved
    clock = iter(range(0, 10**9, 10_000))
    compute(stage, store, CPU)
    assert saved


def test_a_killed_fold_goes_on_after_its_last_lambda(tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "LAMBDAS", (0.0, 0.3, 1.0))
    criterion = "prune.criterion={name: taylor_activation, lambda: cv}"
    plan = make_plan(tiny_config(tmp_path, "seeds=0", criterion, "precisions=fp32"))
    stage = next(stage for stage in plan.stages.values() if stage.kind == "fold")
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "stages")
    compute(stage, whole, CPU)
    reached = []
    for update in (30, 60, stage.updates - 3):  # in the dense training, at the first lambda, at the last
        with pytest.raises(Killed):
            compute(stage, store, CPU, killed_at(update))
        meta, _ = store.load_partial(stage.id)
        reached.append((meta["part"], len(meta.get("losses", ()))))
    assert [part for part, _ in reached] == ["dense", "dense", "lambdas"] and reached[-1][1] == 2
    compute(stage, store, CPU)
    left, right = store.meta(stage.id), whole.meta(stage.id)
    assert (
        left["losses"] == right["losses"]
        and left["updates"] == right["updates"]
        and sum(left["updates"].values()) == stage.updates
    )
