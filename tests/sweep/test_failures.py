"""A cell that can't be computed says why, and harms no other."""

import json
import pickle
import sys

import pandas as pd
import pytest
import torch
from made_stage import MadeStage
from tiny_sweep import SMALL, run_inline, run_workers, tiny_config

from qprune.executors.attempt import attempt
from qprune.executors.base import _ranks, dependants
from qprune.executors.local import LocalExecutor
from qprune.stages import work
from qprune.storage.seal import Damaged, read_sealed_json
from qprune.storage.sealed_table import sealed_table
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

BOOM = '''
import multiprocessing, os
from torch import nn


class Boom(nn.Module):
    """Its logits are infinite as soon as they are more than nothing."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, num_classes)
        nn.init.zeros_(self.linear.weight), nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return self.linear(nn.functional.relu(self.bn(self.conv(x))).mean((2, 3))) * 1e38 * 1e38


def build(num_classes):
    return Boom(num_classes)


def dies(num_classes):
    if multiprocessing.parent_process() is not None:
        os._exit(7)
    return small(num_classes)


def dies_once(num_classes):
    if multiprocessing.parent_process() is not None and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), 9)
    return small(num_classes)


def once(num_classes):
    if multiprocessing.parent_process() is not None and not os.path.exists("now"):
        print("a last word", flush=True)
        raise RuntimeError("not yet")
    return small(num_classes)


def small(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, num_classes))


def raises(num_classes):
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("[/no] such luck")
    return small(num_classes)
'''


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    (tmp_path / "boom.py").write_text(BOOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "boom", raising=False)  # of another test's folder
    work.model_fingerprint_of.cache_clear()


def rows_of(folder):
    return pd.read_csv(folder / "results/tiny/cells.csv")


def test_every_cell_that_diverges_says_so(tmp_path):
    code, _, text = run_inline(tiny_config(tmp_path, *SMALL, "train.lr=1e9"), tmp_path / "results")
    assert code == 1
    rows = rows_of(tmp_path)
    assert len(rows) == 4 and set(rows.status) == {"failed"}
    assert rows.reason.str.contains("loss is").all() and rows.reason.str.contains("lower").all()
    assert rows.accuracy.isna().all()
    assert "0 of 4 cells done" in text and text.count("failed vgg_tiny-") == 4


def test_the_next_run_tries_again(tmp_path):
    run_inline(tiny_config(tmp_path, *SMALL, "quantize.lr=1e30"), tmp_path / "results")
    assert "failed" in set(rows_of(tmp_path).status)
    code, computed, _ = run_inline(tiny_config(tmp_path, *SMALL), tmp_path / "results")
    rows = rows_of(tmp_path)
    assert code == 0 and set(rows.status) == {"done"} and rows.reason.isna().all()
    assert all(stage.startswith(("quantize-", "evaluate-")) for stage in computed)


def test_the_same_run_leaves_failures_alone_until_it_is_told_to_try_again(tmp_path):
    config, out = tiny_config(tmp_path, *SMALL, "quantize.lr=1e30"), tmp_path / "results"
    _, computed, _ = run_inline(config, out)
    failed = rows_of(tmp_path).set_index("cell")
    assert "failed" in set(failed.status)
    code, computed, text = run_inline(config, out)
    assert code == 1 and computed == [] and "--retry-failed" in text
    again = rows_of(tmp_path).set_index("cell")
    assert again.status.equals(failed.status) and again.reason.equals(failed.reason)
    code, computed, _ = run_inline(config, out, retry_failed=True)  # and they fail again
    tried = [json.loads(file.read_text())["reason"] for file in (out / "stages/.failed").iterdir()]
    assert code == 1 and computed == [] and tried and all("loss is" in reason for reason in tried)


def test_what_failed_for_a_passing_reason_is_done_at_the_next_try(tmp_path, user_code):
    """A model that raises until a file is there."""
    config = tiny_config(tmp_path, *SMALL, "model=boom:once", "prune.ratios=0", "precisions=fp32")
    out = tmp_path / "results"
    code, _ = run_workers(config, out, workers=1)
    assert code == 1 and rows_of(tmp_path).reason.str.startswith("RuntimeError: not yet").all()
    record = read_sealed_json(next((out / "tiny/cells").glob("*.failed.json")))
    assert "a last word" in record["log"]
    (tmp_path / "now").touch()
    assert run_workers(config, out, workers=1)[0] == 1
    code, text = run_workers(config, out, workers=1, retry_failed=True)
    assert code == 0, text
    assert set(rows_of(tmp_path).status) == {"done"} and not list((out / "tiny/cells").glob("*.failed.json"))


def test_a_worker_that_dies_once_is_replaced_and_its_stage_done(tmp_path, user_code):
    config = tiny_config(tmp_path, *SMALL, "model=boom:dies_once", "prune.ratios=0", "precisions=fp32")
    code, text = run_workers(config, tmp_path / "results", workers=1)
    assert code == 0, text
    assert "the worker process died: killed by signal 9" in text and "trying once more" in text
    assert set(rows_of(tmp_path).status) == {"done"}


def test_one_model_that_diverges_harms_no_other(tmp_path, user_code):
    """vgg_tiny's cells are done; those of a model whose loss isn't finite are not; in worker processes."""
    model = "model=[boom:build,{name: vgg_tiny, width: 0.5},boom:dies]"
    code, text = run_workers(tiny_config(tmp_path, *SMALL, model), tmp_path / "results", workers=2)
    assert code == 1
    rows = rows_of(tmp_path)
    by_model = {model: group for model, group in rows.groupby("model")}
    assert set(by_model["vgg_tiny"].status) == {"done"}
    assert (
        set(by_model["boom_build"].status) == {"failed"} and by_model["boom_build"].reason.str.contains("loss is").all()
    )
    assert set(by_model["boom_dies"].status) == {"failed"}
    assert by_model["boom_dies"].reason.str.contains("worker process died: exit code 7, 2 times").all()
    assert "4 of 12 cells done" in text


def test_all_workers_dead_is_no_endless_wait(tmp_path, user_code):
    config = tiny_config(tmp_path, *SMALL, "model=boom:dies", "seeds=[0,1]", "prune.ratios=0", "precisions=fp32")
    code, _ = run_workers(config, tmp_path / "results", workers=1)
    assert code == 1
    reasons = list(rows_of(tmp_path).reason)
    assert len(reasons) == 2 and all("died" in reason for reason in reasons)


def test_an_unforeseen_error_keeps_its_trace(tmp_path, user_code):
    config = tiny_config(tmp_path, *SMALL, "model=boom:raises", "prune.ratios=0", "precisions=fp32")
    code, text = run_workers(config, tmp_path / "results", workers=1)
    (row,) = rows_of(tmp_path).itertuples()
    assert code == 1 and row.status == "failed"
    assert row.reason.startswith("RuntimeError: [/no] such luck") and "boom.py" in row.reason
    assert text.count("boom.py") == 1  # told once, not for each stage that needs it


# The executor's order -----------------------------------------------------------------------------------------------


def stage(name: str, *inputs: str, updates: int = 1) -> MadeStage:
    return MadeStage(name=name, needs=inputs, made=updates, ends_cell=name.startswith("evaluate"))


def test_long_chains_come_first_and_evaluations_before_all():
    stages = {
        s.id: s
        for s in (
            stage("dense-a", updates=10),
            stage("dense-b", updates=10),
            stage("prune-a", "dense-a", updates=5),
            stage("finetune-a", "prune-a", updates=3),
            stage("quantize-a", "finetune-a", updates=2),
            stage("evaluate-a", "quantize-a", updates=0),
        )
    }
    ranks = _ranks(stages)
    assert (ranks["dense-a"], ranks["dense-b"], ranks["prune-a"], ranks["quantize-a"]) == (20, 10, 10, 2)
    assert ranks["evaluate-a"] == float("inf")


def test_all_that_needs_a_failed_stage_is_lost_and_nothing_else():
    users = {"a": ["b"], "b": ["c"], "x": ["c", "e"], "c": ["d"]}
    assert sorted(dependants(users, "a")) == ["b", "c", "d"]


def test_an_executor_leaves_no_process(tmp_path):
    with LocalExecutor(2, 1, tmp_path) as executor:
        processes = executor.processes
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)
    with pytest.raises(KeyboardInterrupt), LocalExecutor(2, 1, tmp_path) as executor:
        processes = executor.processes
        raise KeyboardInterrupt
    assert not any(process.is_alive() for process in processes)


def test_stages_go_to_workers_whole(tmp_path):
    for made in make_plan(tiny_config(tmp_path)).stages.values():
        assert pickle.loads(pickle.dumps(made)) == made


def test_code_that_changes_after_the_plan_is_noticed(tmp_path, user_code):
    """A result is never stored under the name of what it was not made from."""
    config = tiny_config(tmp_path, *SMALL, "model=boom:small")
    plan = make_plan(config)
    stage = next(stage for stage in plan.stages.values() if stage.kind == "dense")
    (tmp_path / "boom.py").write_text(BOOM.replace("nn.Conv2d(1, 4, 3)", "nn.Conv2d(1, 4, 3, bias=False)"))
    work.model_fingerprint_of.cache_clear()  # as in another process
    event = attempt(stage, Store(tmp_path / "stages"), torch.device("cpu"), lambda event: None)
    assert event.kind == "failed" and not event.lasting
    assert event.reason.startswith("the model of train boom:small on digits, seed 0 has changed since")
    assert not list((tmp_path / "stages").glob("dense-*"))


def test_a_baseline_that_fails_is_told_where_it_is_no_cell(tmp_path):
    config = tiny_config(tmp_path, *SMALL, "precisions=int4", "prune.ratios=0.5")
    plan = make_plan(config)
    (baseline,) = {cell.baseline for cell in plan.cells}
    Store(tmp_path / "results/stages").fail(baseline, "loss is nan")
    code, _, text = run_inline(config, tmp_path / "results")
    assert code == 1 and f"failed {plan.stages[baseline].label}: loss is nan" in text
    assert (rows_of(tmp_path).status == "done").all()


def test_a_network_from_scratch_that_fails_is_a_failed_cell_and_harms_no_other(tmp_path):
    config = tiny_config(tmp_path, *SMALL, "train.scratch_baseline=true")
    (scratch,) = [cell for cell in make_plan(config).cells if cell.method == "scratch"]
    Store(tmp_path / "results/stages").fail(scratch.stages["dense"], "loss is nan")
    code, _, text = run_inline(config, tmp_path / "results")
    rows = rows_of(tmp_path).set_index("cell")
    assert code == 1 and f"failed {scratch.id}: loss is nan" in text
    assert rows.status[scratch.id] == "failed" and (rows.status.drop(scratch.id) == "done").all()


def test_what_cannot_be_written_in_utf_8_is_no_obstacle(tmp_path, user_code):
    (tmp_path / "boom.py").write_text(BOOM.replace("[/no] such luck", "caf\\udce9.png"))
    code, text = run_workers(tiny_config(tmp_path, *SMALL, "model=[boom:raises,boom:small]"), tmp_path / "results", 1)
    assert code == 1 and "caf\\udce9.png" in text
    assert (rows_of(tmp_path).status == "done").sum() == 4


def test_a_damaged_table_beside_the_cells_stops_no_sweep(tmp_path, user_code):
    """latency.csv is not the sweep's to write: it is told of when all cells are safe."""
    config = tiny_config(tmp_path, *SMALL)
    assert run_inline(tiny_config(tmp_path, *SMALL, "precisions=fp32"), tmp_path / "results")[0] == 0
    latency = tmp_path / "results/tiny/latency.csv"
    latency.write_bytes(sealed_table("cell,runtime,latency_ms\na,torch,1\n").replace(b"torch,1", b"torch,2"))
    with pytest.raises(Damaged, match="latency.csv: row 1 is not what was written"):
        run_inline(config, tmp_path / "results", report=True)
    assert (rows_of(tmp_path).status == "done").all() and len(rows_of(tmp_path)) == 4
