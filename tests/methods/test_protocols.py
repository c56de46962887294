"""What the protocols make of a budget: phases, rates, and the same with every way in which a cell can be made."""

import dataclasses
import io
import math

import pytest
from rich.console import Console
from tiny_sweep import N, P, run_inline, tiny_config

from qprune.methods.spending import Spending
from qprune.ranking.plan import make_rank_plan
from qprune.recipe import COSINE, Rate
from qprune.registry.errors import UserError
from qprune.settings.config import load_config
from qprune.settings.protocols import PROTOCOLS
from qprune.stages import fold
from qprune.storage.results import read_cells
from qprune.sweep.forecast import show_plan
from qprune.sweep.plan import make_plan
from qprune.sweep.run import run_sweep

BUDGET = """\
name: tiny
data: {name: digits, subset: 256}
model: {name: vgg_tiny, width: 0.5}
seeds: 0
train: {batch_size: 32, lr: 0.1}
prune: {ratios: [0, 0.5], channels_per_step: 8}
precisions: [fp32, int4]
budget: {updates: 100}
"""


def config_of(tmp_path, *overrides):
    (tmp_path / "q.yaml").write_text(BUDGET)
    return load_config(tmp_path / "q.yaml", overrides)


def only(plan, kind):
    return [stage for stage in plan.stages.values() if stage.kind == kind]


def test_shares_of_a_budget_by_hand(tmp_path):
    """Half of 112 maps go in 7 steps of 8: 10 of 100 updates are nearest to 7 steps of one, F takes what is left."""
    plan = make_plan(config_of(tmp_path))
    assert plan.spending["vgg_tiny", "digits"] == Spending(12, 7, 73, 8, 1, 8.0)
    assert {plan.total_updates(cell) for cell in plan.cells} == {100}
    longer = make_plan(config_of(tmp_path, "budget={updates: 400, shares: {quantize: 0.2, prune: 0.25}}"))
    assert longer.spending["vgg_tiny", "digits"] == Spending(48, 98, 174, 80, 14, 8.0)
    epochs = make_plan(config_of(tmp_path, "budget={epochs: 10}"))
    assert epochs.spending["vgg_tiny", "digits"].total == 10 * (256 // 32)
    unpruned = make_plan(config_of(tmp_path, "prune.ratios=0"))
    assert unpruned.spending["vgg_tiny", "digits"] == Spending(12, 0, 80, 8, 10, 8.0)


def test_a_budget_that_is_too_small_is_refused_where_it_stands(tmp_path):
    config_of(tmp_path)
    (tmp_path / "q.yaml").write_text(BUDGET.replace("updates: 100", "updates: 9"))
    refused = r"q.yaml:8:10: 9 updates are too few: N 1, P 7 steps of 1 and Q 1 leave nothing"
    with pytest.raises(UserError, match=refused):
        make_plan(load_config(tmp_path / "q.yaml"))


def test_several_minibatches_get_them(tmp_path):
    plan = make_plan(config_of(tmp_path, "prune.criterion=gradient_variance"))
    assert plan.spending["vgg_tiny", "digits"].updates_between == 2


def test_early_stays_at_the_peak_and_decays_once(tmp_path):
    plan = make_plan(config_of(tmp_path))
    (dense,) = only(plan, "dense")
    assert (dense.lr, dense.rate) == (0.1, Rate("none", warmup=1))
    assert {stage.walk.lr for stage in only(plan, "prune")} == {0.1}
    for stage in only(plan, "finetune"):
        assert (stage.path_lr, stage.lr, stage.rate) == (0.1, 0.1, COSINE)
    assert {(stage.lr, stage.rate) for stage in only(plan, "quantize")} == {(0.01, COSINE)}
    (narrow,) = only(plan, "narrow")
    assert (narrow.lr, narrow.budget) == (0.1, 92) and narrow.rate == Rate("cosine", 1, 18)  # as long at the peak


def test_restart_prunes_at_a_low_rate_and_goes_up_again(tmp_path):
    before = "pretrain={data: {name: digits, subset: 128}, updates: 3}"
    plan = make_plan(config_of(tmp_path, before))
    assert plan.config.protocol == "restart"
    assert plan.spending["vgg_tiny", "digits"].dense == 25  # the head is new
    dense = next(stage for stage in only(plan, "dense") if stage.pretrained)
    assert dense.rate == Rate("none", warmup=2)
    assert {stage.walk.lr for stage in only(plan, "prune")} == {0.02}
    tuned = {(stage.lr, stage.rate) for stage in only(plan, "finetune")}
    assert tuned == {(0.1, Rate("cosine", warmup=6))}
    (narrow,) = only(plan, "narrow")
    assert narrow.rate.decay == "cosine" and narrow.inputs == ()


def test_classic_is_named_as_before_there_were_protocols(tmp_path):
    """Rates that did not exist are no part of its stages' names."""
    plan = make_plan(tiny_config(tmp_path, "seeds=0"))
    for kind in ("dense", "finetune", "quantize"):
        for stage in only(plan, kind):
            assert stage.rate == COSINE and "rate" not in stage.named_by["settings"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_quantize_first_walks_at_one_rate(tmp_path, protocol):
    """N, Q, P, F: under a protocol of one decay, Q stays at the path's rate, each precision on a trunk of its own."""
    config = config_of(tmp_path, "order=quantize_first", f"protocol={protocol}", "baselines=[]")
    plan = make_plan(config)
    for stage in only(plan, "quantize_dense"):
        if protocol == "classic":
            assert (stage.lr, stage.rate) == (config.quantize.lr, COSINE)
        else:
            assert (stage.lr, stage.rate) == (config.prune.lr, Rate("none"))
    assert len({stage.source for stage in only(plan, "prune")}) == 2
    assert {plan.total_updates(cell) for cell in plan.cells} == {100}


WAYS = {
    "as it is": (),
    "quantize_first": ("order=[prune_first,quantize_first]",),
    "one_shot": ("prune.schedule=one_shot",),
    "cv": ("prune.criterion={name: taylor_activation, lambda: cv}",),
    "ptq": ("quantize.method=ptq",),
    "distill": ("quantize.distill=true",),
    "scratch": ("train.scratch_baseline=true",),
    "both baselines": ("baselines=[narrower,same_shape]",),
}


@pytest.mark.parametrize("protocol", ["early", pytest.param("restart", marks=pytest.mark.long)])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_make_a_cell_under_every_protocol(tmp_path, monkeypatch, protocol, way):
    monkeypatch.setattr(fold, "LAMBDAS", (0.0, 1.0))
    config = config_of(tmp_path, f"protocol={protocol}", "budget.updates=40", "precisions=int4", *WAYS[way])
    code, _, text = run_inline(config, tmp_path / "results")
    assert code == 0, text
    cells = read_cells(tmp_path / "results/tiny")
    assert set(cells.status) == {"done"} and set(cells.total_updates) == {40} and set(cells.protocol) == {protocol}
    assert (cells.training_flops > 0).all()
    plan = make_plan(config)
    if way == "one_shot":
        (snapshot,) = only(plan, "prune")
        between = plan.spending["vgg_tiny", "digits"].updates_between
        tuned = next(stage for stage in only(plan, "finetune") if stage.source == snapshot.id)
        assert (tuned.walked, tuned.path_updates) == (between, 7 * between)  # the rest of P waits after the one cut
    if way == "cv":
        (dense,) = only(plan, "dense")
        tuned = only(plan, "finetune")[0]
        assert {(stage.rate, stage.finetune_rate) for stage in only(plan, "fold")} == {(dense.rate, tuned.rate)}
    if way == "distill":
        (teacher,) = {stage.teacher for stage in only(plan, "quantize")}  # the same for baselines
        assert plan.stages[teacher].kind == "finetune" and plan.stages[teacher].cut is None


def test_ranks_fine_tuning_goes_as_the_protocols(tmp_path):
    config = config_of(tmp_path, "protocol=restart", "rank={oracle_images: 8, shares: 0.5, finetune_updates: 20}")
    removals = [stage for stage in make_rank_plan(config).stages.values() if stage.kind == "removal"]
    assert {(stage.lr, stage.rate) for stage in removals} == {(0.1, Rate("cosine", warmup=2))}


def test_a_folder_of_another_default_is_not_redone_unasked(tmp_path):
    """A finished classic sweep, and the same file without the word: refused, both ways on named; by the word nothing is redone."""
    code, computed, _ = run_inline(tiny_config(tmp_path, "seeds=0"), tmp_path / "results")
    assert code == 0 and computed
    text = (tmp_path / "tiny.yaml").read_text().replace("protocol: classic\n", "")
    (tmp_path / "tiny.yaml").write_text(text)
    config = load_config(tmp_path / "tiny.yaml", ["seeds=0"])
    console = Console(file=io.StringIO())
    for act in (
        lambda: run_sweep(config, tmp_path / "results", None, console),
        lambda: show_plan(config, tmp_path / "results", console),
    ):
        with pytest.raises(UserError, match="made with protocol classic, .*; --set protocol=classic goes on with it"):
            act()
    going_on = load_config(tmp_path / "tiny.yaml", ["seeds=0", "protocol=classic"])
    assert run_inline(going_on, tmp_path / "results")[:2] == (0, [])
    anew = load_config(tmp_path / "tiny.yaml", ["seeds=0", "protocol=early", "baselines=[]"])
    assert len(run_inline(anew, tmp_path / "results")[1]) > 0


def test_a_rate_goes_up_stays_and_falls():
    rate = Rate("cosine", warmup=3, hold=2).over(1.0, 9)
    assert [round(rate(update), 4) for update in range(9)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.8536, 0.5, 0.1464]
    assert [Rate("linear").over(2.0, 4)(update) for update in range(4)] == [2.0, 1.5, 1.0, 0.5]
    assert {Rate("none").over(0.1, 4)(update) for update in range(9)} == {0.1}
    assert COSINE.over(0.1, 4)(2) == pytest.approx(0.05)
    before = [0.05 * 0.5 * (1 + math.cos(math.pi * update / 77)) for update in range(77)]
    assert [
        COSINE.over(0.05, 77)(update) for update in range(77)
    ] == before  # bit for bit: finished stages were made so
    assert dataclasses.asdict(COSINE) == {"decay": "cosine", "warmup": 0, "hold": 0}


def test_phases_by_hand_under_early(tmp_path):
    """Budgets of phases still work, whatever the protocol."""
    plan = make_plan(tiny_config(tmp_path, "seeds=0", "protocol=early"))
    (dense,) = only(plan, "dense")
    assert (dense.budget, dense.rate.decay) == (N, "none")
    assert plan.spending["vgg_tiny", "digits"].prune == P
