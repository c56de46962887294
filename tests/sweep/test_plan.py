"""Settings to cells and stages: how many there are, what they share, what they are called, how long they train."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from this_machine import INT8_ACTIVATIONS
from tiny_sweep import SMALL, TINY, F, N, P, Q, environment, tiny_config

from qprune.registry.errors import UserError
from qprune.settings.config import load_config
from qprune.stages import work
from qprune.stages.finetune import Finetune
from qprune.storage.store import Store
from qprune.sweep import forecast
from qprune.sweep.by_method import costs_by_method
from qprune.sweep.plan import make_plan
from qprune.sweep.records import Records
from qprune.sweep.run import missing_stages, wanted_networks

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "sweeps/quickstart.yaml"
KINDS = ("dense", "prune", "finetune", "quantize", "evaluate")


def kinds_of(plan) -> dict[str, int]:
    kinds = [stage.kind for stage in plan.stages.values()]
    return {kind: kinds.count(kind) for kind in KINDS}


def test_quickstart_by_hand():
    """4 precisions x 5 ratios x 3 seeds train 3 trunks with 4 snapshots each, and beside them 4 narrower networks a seed."""
    quickstart = make_plan(load_config(QUICKSTART))
    assert [cell.method for cell in quickstart.cells].count("prune_first") == 60
    assert [cell.method for cell in quickstart.cells].count("narrower") == 48  # but for ratio 0
    assert kinds_of(quickstart) == {"dense": 3, "prune": 12, "finetune": 15, "quantize": 108, "evaluate": 108}
    total = 48 * (1078 // 64)  # 60% of digits' 1,797 images are for training
    dense, quantize = round(0.12 * total), round(0.08 * total)
    path = 45 * 2  # 2% of the 224 maps goes at a time, 202 of them in all, for 10% of the updates
    assert {quickstart.total_updates(cell) for cell in quickstart.cells} == {total}
    made = {kind: sum(s.updates for s in quickstart.stages.values() if s.kind == kind) for kind in ("dense", "prune")}
    assert made == {"dense": 3 * dense, "prune": 3 * path}  # each path is walked once
    waits = [path - steps * 2 for steps in (0, 13, 25, 38, 45)]  # 56, 112, 168, 202 of the maps
    recovered = sum(stage.updates for stage in quickstart.stages.values() if stage.kind == "finetune")
    assert recovered == 3 * (sum(waits) + 5 * (total - dense - path - quantize))


def shared(plan) -> float:
    """How many times fewer updates the cells that a criterion prunes take together than one by one."""
    cells = [cell for cell in plan.cells if cell.criterion != "none"]
    return sum(map(plan.total_updates, cells)) / plan.updates_of(plan.needed_by(cell.network for cell in cells))


def test_cells_share_what_they_can():
    protocols = {name: make_plan(load_config(QUICKSTART, [f"protocol={name}"])) for name in ("early", "classic")}
    assert shared(protocols["early"]) >= 2.6 and shared(protocols["classic"]) >= 5


def test_every_stage_stands_after_its_inputs_and_cells_are_chains(tmp_path):
    tiny = make_plan(tiny_config(tmp_path, "prune.ratios=[0.5,0.25,0]", "prune.criterion=[taylor,random]"))
    seen = set()
    for name, stage in tiny.stages.items():
        assert set(stage.inputs) <= seen and stage.id == name
        seen.add(name)
    assert len({cell.id for cell in tiny.cells}) == len(tiny.cells) == 4 * 3 * 2 * 2
    for cell in tiny.cells:
        kinds = ["dense", *(["prune"] if cell.ratio else []), "finetune", "quantize", "evaluate"]
        assert list(cell.stages) == kinds
        for before, after in zip(kinds, kinds[1:], strict=False):
            source = tiny.stages[cell.stages[after]].inputs
            if after == "prune" and cell.ratio == 0.5:
                source = tiny.stages[source[0]].inputs  # it is walked on from the snapshot at 0.25
            assert source == (cell.stages[before],)
        assert tiny.total_updates(cell) == N + P + F + Q
        base = tiny.stages[tiny.stages[cell.baseline].inputs[0]]
        assert base.makes == "fp32" and base.seed == cell.seed
    by_criterion = {(c.criterion, c.ratio, c.precision, c.seed): c for c in tiny.cells}
    for (criterion, ratio, precision, seed), cell in by_criterion.items():
        other = by_criterion["random" if criterion == "taylor" else "taylor", ratio, precision, seed]
        assert (cell.stages["evaluate"] == other.stages["evaluate"]) == (ratio == 0)  # unpruned, they are the same


def stage_ids(tmp_path, *overrides) -> dict[str, set[str]]:
    stages = make_plan(tiny_config(tmp_path, *overrides)).stages.values()
    return {kind: {s.id for s in stages if s.kind == kind} for kind in KINDS}


@pytest.mark.parametrize(
    ("setting", "first_changed"),
    [
        ("train.lr=0.2", "dense"),
        ("train.updates=41", "dense"),
        ("train.batch_size=16", "dense"),
        ("train.weight_decay=0", "dense"),
        ("data.subset=255", "dense"),
        ("data.augment=shift", "dense"),
        ("model.width=0.75", "dense"),
        ("prune.criterion=random", "prune"),
        ("prune.updates_between=3", "prune"),
        ("prune.channels_per_step=7", "prune"),
        ("prune.until=0.6", "prune"),
        ("prune.lr=0.01", "prune"),
        ("prune.min_channels=2", "prune"),
        ("prune.round_to=2", "prune"),
        ("prune.ignore=conv1", "prune"),
        ("finetune.lr=0.01", "finetune"),
        ("finetune={updates: 9}", "finetune"),
        ("quantize.lr=0.1", "quantize"),
        ("quantize.updates=7", "quantize"),
        ("quantize.first_last_bits=6", "quantize"),
    ],
)
def test_a_setting_changes_the_stages_from_where_it_acts(tmp_path, setting, first_changed):
    old, new = stage_ids(tmp_path), stage_ids(tmp_path, "seeds=[0,1]", setting)
    kinds = list(old)
    for kind in kinds[: kinds.index(first_changed)]:
        assert old[kind] == new[kind], kind
    assert not old[first_changed] & new[first_changed] or first_changed == "prune"
    pruned = [kind for kind in kinds[kinds.index(first_changed) :]]
    for kind in pruned:
        assert old[kind] != new[kind], kind


@pytest.mark.parametrize("setting", ["name=other", "keep=none", "prune.ratios=[0,0.125,0.25,0.5]", "seeds=[0,1,2]"])
def test_other_settings_change_no_stage(tmp_path, setting):
    old, new = stage_ids(tmp_path), stage_ids(tmp_path, setting)
    assert all(old[kind] <= new[kind] for kind in old)


def test_the_memory_format_follows_from_network_and_batch(tmp_path):
    """Half of VGG-tiny makes 0.1 values of a digit for each of its weights, so those of 64 outweigh these and those of 8 don't."""
    auto, last, contiguous = (
        {batch: stage_ids(tmp_path, f"train={{updates: 40, batch_size: {batch}{given}}}") for batch in (64, 8)}
        for given in ("", ", channels_last: true", ", channels_last: false")
    )
    assert auto[64] == last[64] != contiguous[64]
    assert auto[8] == contiguous[8] != last[8]
    for batch, expected in ((64, True), (8, False)):
        plan = make_plan(tiny_config(tmp_path, f"train={{updates: 40, batch_size: {batch}}}"))
        rows = Records(tmp_path, plan, Store(tmp_path / "stages")).rows.values()
        assert {row["channels_last"] for row in rows} == {expected}


def test_a_raised_code_version_changes_a_stage_and_what_follows(tmp_path, monkeypatch):
    old = stage_ids(tmp_path)
    monkeypatch.setattr(Finetune, "version", Finetune.version + 1)
    new = stage_ids(tmp_path)
    assert [old[kind] == new[kind] for kind in old] == [True, True, False, False, False]
    assert not old["finetune"] & new["finetune"]


def test_a_checkpoint_is_named_by_its_content_and_trains_nothing(tmp_path):
    file = tmp_path / "network.safetensors"
    ids = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        work.file_hash.cache_clear()
        tiny = make_plan(tiny_config(tmp_path, f"train.checkpoint={file}"))
        assert sum(stage.updates for stage in tiny.stages.values() if stage.kind == "dense") == 0
        assert {tiny.total_updates(cell) for cell in tiny.cells} == {N + P + F + Q}
        ids.append({cell.stages["dense"] for cell in tiny.cells})
    assert not ids[0] & ids[1]


def test_ids_of_cells_differ_where_cells_do(tmp_path):
    ratios = [0.5, 0.3333333, 0.33333331, 1e-7, 0.05]
    model = "model=[{name: vgg_tiny, width: 0.5},{name: vgg_tiny, width: 0.25}]"
    cells = make_plan(tiny_config(tmp_path, f"prune.ratios={ratios}", model, "precisions=fp32", "seeds=0")).cells
    assert len({cell.id for cell in cells}) == 10
    assert len({cell.id.casefold().replace("/", "") for cell in cells}) == 10
    assert sum("-r0.50-" in cell.id for cell in cells) == sum("-r0.05-" in cell.id for cell in cells) == 2


def test_a_sweep_without_pruning_needs_no_path(tmp_path):
    tiny = make_plan(tiny_config(tmp_path, "prune.ratios=0"))
    assert kinds_of(tiny) == {"dense": 2, "prune": 0, "finetune": 2, "quantize": 8, "evaluate": 8}
    assert {tiny.total_updates(cell) for cell in tiny.cells} == {N + F + Q}


@pytest.mark.parametrize(
    ("overrides", "place"),
    [(["prune.ratios=[0,0.97]"], "--set prune.ratios=[0,0.97]"), (["prune.until=0.97"], "--set prune.until=0.97")],
)
def test_a_ratio_that_leaves_a_layer_empty_is_refused(tmp_path, overrides, place):
    """6 layers keep a map each: at most 106 of the 112 can go, 94.6%."""
    with pytest.raises(UserError) as caught:
        make_plan(tiny_config(tmp_path, *overrides))
    assert str(caught.value).startswith(f"{place}: ")
    assert "0.97" in str(caught.value) and "0.946" in str(caught.value) and "min_channels" in str(caught.value)


def test_unreachable_names_line_and_column(tmp_path):
    file = tmp_path / "q.yaml"
    file.write_text(TINY.replace("ratios: [0, 0.5]", "ratios: [0, 0.5], min_channels: 16"))
    with pytest.raises(UserError, match=r"q\.yaml:6:21: .*0\.5 .*min_channels"):
        make_plan(load_config(file))  # 8 + 8 + 4 x 16 stay: 32 of 112 can go


# Large sweeps -------------------------------------------------------------------------------------------------------

LARGE = ["seeds=" + json.dumps(list(range(125))), "prune.ratios=" + json.dumps([i / 25 for i in range(20)])]


def test_ten_thousand_cells(tmp_path):
    """125 seeds x 4 precisions x 20 ratios (0 to 0.76) share 125 dense networks and 125 paths of 19 snapshots."""
    large = make_plan(tiny_config(tmp_path, *LARGE))
    assert len(large.cells) == 10_000 and len({cell.id for cell in large.cells}) == 10_000
    steps = {-(-round(112 * i / 25 + 0.4999999) // 8) for i in range(1, 20)}  # maps, rounded up; steps of 8
    assert kinds_of(large) == {
        "dense": 125,
        "prune": 125 * len(steps),
        "finetune": 125 * (1 + len(steps)),
        "quantize": 500 * (1 + len(steps)),
        "evaluate": 500 * (1 + len(steps)),
    }
    assert set(missing_stages(large, Store(tmp_path / "none"), wanted_networks(large, tmp_path))) == set(large.stages)
    updates = sum(stage.updates for stage in large.stages.values() if stage.kind == "prune")
    assert updates == 125 * max(steps) * 2


def test_forecast_of_ten_thousand_cells(tmp_path, monkeypatch):
    """The whole answer, with one measurement, however many cells there are; nothing is written."""
    measured = []
    measure = forecast.measure
    monkeypatch.setattr(forecast, "measure", lambda *arguments: measured.append(1) or measure(*arguments))
    text = io.StringIO()
    forecast.show_plan(tiny_config(tmp_path, *LARGE), tmp_path / "results", Console(file=text, width=200))
    assert len(measured) == 1
    assert "10000 cells, 0 done" in text.getvalue()
    assert not (tmp_path / "results").exists()


# The forecast -------------------------------------------------------------------------------------------------------


def forecast_of(config, out) -> tuple[str, dict[str, list[str]], dict[str, str]]:
    """All that is printed; the entries of its tables, by their first; the list of cells, id -> state and cost."""
    text = io.StringIO()
    forecast.show_plan(config, out, Console(file=text, width=200), cells=True)
    lines = text.getvalue().splitlines()
    rows = [[entry.strip() for entry in line.split("│")[1:-1]] for line in lines if "│" in line]
    listed = [line.split("  ", 1) for line in lines if line.startswith("vgg_tiny-")]
    return text.getvalue(), {first: rest for first, *rest in rows}, dict(listed)


def test_forecast_of_a_new_sweep_by_hand(tmp_path):
    text, table, cells = forecast_of(tiny_config(tmp_path), tmp_path / "results")
    assert "tiny: 16 cells, 0 done" in text
    assert table["dense"] == ["2", "0", "2", str(2 * N)]
    assert table["prune"] == ["2", "0", "2", str(2 * P)]
    assert table["finetune"] == ["4", "0", "4", str(2 * (P + F) + 2 * F)]
    assert table["quantize"] == ["16", "0", "16", str(16 * Q)]
    assert table["evaluate"] == ["16", "0", "16", "0"]
    macs, edge = 152_384, 4_608 + 320
    expected = {
        "fp32": 2 * macs,
        "fp16": 2 * macs / 4,
        "int8": 2 * macs * 8 * INT8_ACTIVATIONS / 32**2,
        "int4": 2 * (macs - edge) / 64 + edge / 8,
    }
    assert table["0%"] == [f"{flops / 1e9:.4g}" for flops in expected.values()]
    assert table["50%"] == ["?"] * 4
    for precision, flops in expected.items():
        for seed in (0, 1):
            assert cells[f"vgg_tiny-digits-taylor-{precision}-r0.00-s{seed}"] == f"to do  bit_gflops {flops / 1e9:.6g}"
            assert cells[f"vgg_tiny-digits-taylor-{precision}-r0.50-s{seed}"] == "to do  bit_gflops ?"
    assert f"{N + P + F + Q} = N {N} + P {P} + F {F} + Q {Q}" in text
    assert "minutes" in text and " MB " in text
    assert not (tmp_path / "results").exists()


def test_what_each_method_adds(tmp_path):
    """By hand: 2 seeds, ratios 0, 0.5 and 0.75, fp32 and int4; equal FLOPs give the narrowest four times the updates."""
    settings = ("baselines=[narrower,same_shape]", "baseline_budget=[updates,flops]", "prune.ratios=[0,0.5,0.75]",
                "precisions=[fp32,int4]", "protocol=early", "train={batch_size: 32}", "finetune={}", "quantize={}",
                "budget={updates: 200, shares: {dense: 0.5, prune: 0.3, quantize: 0.1}}",
                "prune.updates_between=null")  # fmt: skip
    config = tiny_config(tmp_path, *settings)
    plan = make_plan(config)
    seconds = dict.fromkeys(plan.stages, 1.0)
    costs = {one.method: one for one in costs_by_method(plan, plan.stages, seconds)}
    assert list(costs) == ["prune_first", "narrower", "narrower.flops", "same_shape", "same_shape.flops"]
    spending = plan.spending["vgg_tiny", "digits"]
    assert spending.total == 200 and spending.quantize == 20
    pruned = costs["prune_first"]  # trunk, path, a branch for each ratio, the waits of those that end early, twigs
    steps = {0: 0, 0.5: 7, 0.75: 11}
    waits = sum(spending.prune - step * spending.updates_between for step in steps.values())
    assert pruned.stages == 2 * (1 + 2 + 3 + 6 + 6) and pruned.cells == 12
    each = spending.dense + spending.prune + waits + 3 * spending.finetune + 6 * spending.quantize
    assert pruned.updates == 2 * each and (pruned.least, pruned.most) == (200, 200)
    narrow = costs["narrower"]
    assert narrow.stages == 2 * (2 + 4 + 4) and narrow.updates == 2 * (2 * 180 + 4 * 20) and narrow.seconds == 20
    long = costs["narrower.flops"]
    assert long.most == 800 and long.least < 800 and long.capped == 4  # 0.75, at both precisions and seeds
    assert sum(one.stages for one in costs.values()) == len(plan.stages)
    assert sum(one.updates for one in costs.values()) == plan.updates_of(plan.stages)
    text, table, _ = forecast_of(config, tmp_path / "results")
    assert table["narrower"][:4] == ["8", "200", "20", "880"]
    assert table["narrower.flops"][1] == f"{long.least} to 800 (4 capped)"
    assert "methods: what each adds to those above it" in text


def test_minutes_are_for_the_workers_that_are_asked_for(tmp_path):
    config = tiny_config(tmp_path)
    for workers in (1, 4):
        text = io.StringIO()
        forecast.show_plan(config, tmp_path / "results", Console(file=text, width=200), workers=workers)
        assert f"with {workers} worker(s) of 1 thread" in text.getvalue()


@pytest.fixture
def timed(monkeypatch):
    """The networks whose updates have been timed. The measurement is as on a machine without other work."""
    real, places = forecast.measure, []

    def measure(plan, faults, left):
        places.extend(left)
        return {place: dataclasses.replace(one, waited=0.0) for place, one in real(plan, faults, left).items()}

    monkeypatch.setattr(forecast, "measure", measure)
    return places


def printed(config, out, **options) -> str:
    text = io.StringIO()
    forecast.show_plan(config, out, Console(file=text, width=200), **options)
    return text.getvalue()


def test_updates_are_timed_once_on_a_machine(tmp_path, timed, monkeypatch):
    config, out = tiny_config(tmp_path, *SMALL), tmp_path / "results"
    first = printed(config, out)
    assert timed == [("vgg_tiny", "digits")] and "were timed on" not in first
    again = printed(config, out)
    day = time.strftime("%Y-%m-%d")
    assert len(timed) == 1 and f"updates were timed on this machine on {day}" in again and "--anew" in again
    lines = [line for line in again.splitlines() if "were timed" not in line]
    assert lines == first.splitlines()  # the very minutes
    assert "were timed on" not in printed(config, out, anew=True) and len(timed) == 2
    more = tiny_config(tmp_path, *SMALL, "model=[{name: vgg_tiny, width: 0.5},{name: vgg_tiny, width: 0.25}]")
    assert "some of the updates were timed" in printed(more, out) and len(timed) == 3
    for other in ("train.batch_size=16", "prune.ratios=[0,0.25]", "precisions=[fp32]", "prune.criterion=activation",
                  "quantize.distill=true", "train.math=bf16"):  # fmt: skip
        timed.clear()
        printed(tiny_config(tmp_path, *SMALL, other), out)
        assert len(timed) == 1, other
    monkeypatch.setattr(forecast, "processor_name", lambda: "another")
    printed(config, out)
    assert len(timed) == 2


def test_a_loaded_machine_is_said_and_its_times_serve_while_it_is(tmp_path, monkeypatch):
    """The share is that of the timed updates in which they had no processor."""
    config, calls, clock = tiny_config(tmp_path, *SMALL), [], time.perf_counter
    start, worked = clock(), time.process_time()
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: start + 2 * (clock() - start))  # half of it with others
    monkeypatch.setattr(forecast.time, "process_time", lambda: worked + clock() - start)
    real = forecast.measure
    monkeypatch.setattr(forecast, "measure", lambda *arguments: calls.append(1) or real(*arguments))
    for load, timed in ((0.1, 1), (99.0, 1), (0.1, 2)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        said = " ".join(printed(config, tmp_path / "results").split())
        assert "loaded the timed updates waited for a processor 50% of their time" in said
        assert len(calls) == timed and ("were timed on" in said) == (load > 1)


def test_forecast_of_a_finished_sweep_and_of_one_more_precision(finished, tmp_path):
    before = sorted((finished / "results").rglob("*"))
    text, table, cells = forecast_of(tiny_config(tmp_path, "precisions=[fp32,w8a8]"), finished / "results")
    assert "tiny: 8 cells, 4 done" in text
    assert [table[kind][2] for kind in KINDS] == ["0", "0", "0", "4", "4"]
    known = pd.read_csv(finished / "results/tiny/cells.csv").set_index("cell").bit_gflops
    for ratio in ("0.00", "0.50"):
        for seed in (0, 1):
            flops = known[f"vgg_tiny-digits-taylor-fp32-r{ratio}-s{seed}"]
            assert cells[f"vgg_tiny-digits-taylor-fp32-r{ratio}-s{seed}"] == f"done  bit_gflops {flops:.6g}"
            assert cells[f"vgg_tiny-digits-taylor-w8a8-r{ratio}-s{seed}"] == f"to do  bit_gflops {flops / 16:.6g}"
    assert sorted((finished / "results").rglob("*")) == before


def test_forecast_seconds_follow_the_measured_times(tmp_path):
    """With times that are given: each stage's updates, at the speed of its kind, precision and pruning."""
    config = tiny_config(tmp_path, "seeds=0", "precisions=[fp32,int4]")
    tiny = make_plan(config)
    real = forecast.measure(tiny)
    timing = dataclasses.replace(
        next(iter(real.values())), update=1.0, pruned_update=0.5, scored_update=2.0, image=0.0, images=585,
        precision_update={"fp32": 1.0, "w4a4": 3.0}, precision_start={"fp32": 0.0, "w4a4": 100.0},
    )  # fmt: skip
    seconds = forecast.forecast_seconds(tiny, tiny.stages, dict.fromkeys(real, timing))
    cells = {(cell.precision, cell.ratio): cell for cell in tiny.cells}
    assert seconds[cells["fp32", 0.0].stages["dense"]] == pytest.approx(N)
    assert seconds[cells["fp32", 0.5].stages["prune"]] == pytest.approx(2 * P)
    assert seconds[cells["fp32", 0.0].stages["finetune"]] == pytest.approx(P + F)
    assert seconds[cells["fp32", 0.5].stages["finetune"]] == pytest.approx(F / 2)
    assert seconds[cells["int4", 0.0].stages["quantize"]] == pytest.approx(3 * Q + 100)
    assert seconds[cells["int4", 0.5].stages["quantize"]] == pytest.approx(3 * Q / 2 + 100)


def test_the_forecast_of_post_training_quantisation_follows_fp32_updates(tmp_path):
    """Its Q updates are FP32's; at the cell's precision it only fits the scales. QAT makes them at the precision."""
    seconds = {}
    for method in ("qat", "ptq"):
        plan = make_plan(
            tiny_config(tmp_path, "seeds=0", "precisions=int4", "prune.ratios=0", f"quantize.method={method}")
        )
        (key,) = plan.facts
        timing = dataclasses.replace(
            forecast.measure(plan)[key], update=1.0, pruned_update=1.0, image=0.0,
            precision_update={"w4a4": 3.0}, precision_start={"w4a4": 100.0},
        )  # fmt: skip
        (cell,) = plan.cells
        seconds[method] = forecast.forecast_seconds(plan, plan.stages, {key: timing})[cell.stages["quantize"]]
    assert seconds == {"qat": pytest.approx(3 * Q + 100), "ptq": pytest.approx(Q + 100)}


def test_the_forecast_of_the_disk_counts_what_is_kept(tmp_path):
    """Networks, a path's twice; folds, lambdas and evaluations keep their report alone."""
    criterion = "prune.criterion={name: taylor_activation, lambda: cv}"
    config = tiny_config(tmp_path, "seeds=0", "precisions=fp32", criterion)
    plan = make_plan(config)
    measured = forecast.measure(plan)
    (timing,) = measured.values()
    kinds = kinds_of(plan)
    networks = kinds["dense"] + 2 * kinds["prune"] + kinds["finetune"] + kinds["quantize"]
    fold, choice = 5, 1
    reports = sum(kinds.values()) + fold + choice
    assert len(plan.stages) == reports
    expected = networks * timing.bytes + reports * forecast.REPORT_BYTES + len(plan.cells) * forecast.RECORD_BYTES
    assert forecast._megabytes(plan, plan.stages, measured) == pytest.approx(expected / 1e6)


def test_ids_are_the_same_in_every_process(tmp_path):
    """A hash of Python's own would differ from run to run, and nothing would ever be found again."""
    tiny_config(tmp_path)
    code = (
        "import sys; from qprune.settings.config import load_config; from qprune.sweep.plan import make_plan\n"
        "print(*make_plan(load_config(sys.argv[1])).stages)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny.yaml")], capture_output=True, text=True, env=environment()
    )
    assert run.stdout.split() == list(make_plan(tiny_config(tmp_path)).stages), run.stderr


def test_a_folder_of_images_is_called_by_its_name(tmp_path):
    from PIL import Image

    roots = [tmp_path / "flowers", tmp_path / "birds 200"]
    for root in roots:
        for label in ("a", "b"):
            (root / label).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(root / label / f"{number}.png")
    data = ", ".join(f"{{name: imagefolder, root: {root}, image_size: 8}}" for root in roots)
    plan = make_plan(tiny_config(tmp_path, f"data=[{data}]", "seeds=0", "precisions=fp32", "prune.ratios=0"))
    assert [cell.data for cell in plan.cells] == ["flowers", "birds_200"]


def test_a_folder_that_moves_takes_its_finished_work_along(tmp_path):
    """Stages are named by what the pictures are, not by where they lie."""
    from PIL import Image

    ids = []
    for root in (tmp_path / "here", tmp_path / "there"):
        for label in ("a", "b"):
            (root / label).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(root / label / f"{number}.png")
        data = f"data={{name: imagefolder, root: {root}, image_size: 8}}"
        ids.append(list(make_plan(tiny_config(tmp_path, data, "seeds=0", "precisions=fp32")).stages))
    assert ids[0] == ids[1]
    Image.new("RGB", (8, 8), (0, 99, 0)).save(root / "a" / "0.png")
    work.data_fingerprint_of.cache_clear()  # as in another process
    assert set(make_plan(tiny_config(tmp_path, data, "seeds=0", "precisions=fp32")).stages).isdisjoint(ids[0])
