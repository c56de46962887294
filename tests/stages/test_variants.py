"""What a sweep file can vary beside the grid: order, schedule, normalisation, PTQ, the from-scratch baseline, lambda."""

import pytest
import torch
from stored_bytes import stored_bytes
from tiny_sweep import MAPS, F, N, P, Q, count_kinds, run_inline, tiny_config

from qprune.data import Split, load_data
from qprune.deploy.cells import load_network
from qprune.precision import get_precision
from qprune.registry.errors import UserError
from qprune.stages import fold
from qprune.stages.choose_lambda import best_lambda
from qprune.stages.fold import FOLDS, without_fold
from qprune.stages.saved import NetworkSpec
from qprune.storage.results import read_cells, read_lambdas
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan
from qprune.training import evaluate

SEED = "seeds=0"


def store_of(folder) -> Store:
    return Store(folder / "results/stages")


# Order --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_orders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orders")
    config = tiny_config(folder, SEED, "order=[prune_first,quantize_first]")
    code, _, text = run_inline(config, folder / "results", report=True)
    assert code == 0, text
    return folder, config


def test_both_orders_have_the_same_updates_and_costs(both_orders):
    folder, _ = both_orders
    cells = read_cells(folder / "results/tiny")
    assert len(cells) == 16 and set(cells.status) == {"done"} and set(cells.total_updates) == {N + P + F + Q}
    assert set(cells.cell[cells.method == "quantize_first"]) == {
        name.replace("taylor-", "taylor-quantize_first-") for name in cells.cell[cells.method == "prune_first"]
    }
    for column, updates in (("dense", N), ("prune", P), ("finetune", F), ("quantize", Q)):
        assert set(cells[f"updates_{column}"]) == {updates}
    table = cells.pivot(index=["precision", "pruning_ratio"], columns="method", values="bit_gflops")
    unpruned = table.xs(0.0, level="pruning_ratio")
    assert (unpruned.prune_first == unpruned.quantize_first).all()
    pruned = cells[cells.pruning_ratio == 0.5]
    assert set(pruned.achieved_ratio) == {7 * 8 / MAPS}
    assert (cells.accuracy > 0.3).all()


def test_pruning_under_fake_quantisation_is_another_path(both_orders):
    """Its snapshots are at the cell's precision, and the network that is handed over is what was evaluated."""
    folder, config = both_orders
    plan, store = make_plan(config), store_of(folder)
    data = load_data({"name": "digits", "subset": 256})
    for cell in plan.cells:
        if cell.method == "quantize_first":
            assert cell.network == cell.stages["finetune"]
            spec = NetworkSpec.from_json(store.meta(cell.network)["network"], (), "")
            assert spec.precision == get_precision(cell.precision).name
            network = load_network(folder / "results/tiny", cell.id)
            record = store.meta(cell.stages["evaluate"])
            assert evaluate(network, data.test).accuracy == record["test"]["accuracy"]
            assert record["cost"]["weight_bytes"] == stored_bytes(network)
    paths = {c.precision: c.stages["prune"] for c in plan.cells if c.method == "quantize_first" and c.ratio}
    assert len(set(paths.values())) == 4
    source = store.tensors(plan.stages[paths["int4"]].source)
    assert any("tensor_quant" in name for name in source)  # Brevitas scales, learned on the dense network


def test_ptq_and_quantize_first_exclude_each_other(tmp_path):
    with pytest.raises(UserError, match="order.*quantize_first.*ptq"):
        tiny_config(tmp_path, "order=quantize_first", "quantize.method=ptq")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["prune.criterion=gradient_variance", "prune.updates_between=1"], "gradient_variance needs 2 minibatches"),
        (
            ["prune.criterion=[taylor,obd_lecun]", "order=quantize_first"],
            "criterion.1.*obd_lecun has no rule for quant",
        ),
    ],
)
def test_criteria_that_cannot_score_are_refused_at_once(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        tiny_config(tmp_path, *settings)


# PTQ ----------------------------------------------------------------------------------------------------------------


def test_ptq_trains_in_fp32_and_fits_scales_last(tmp_path, both_orders):
    config = tiny_config(tmp_path, SEED, "quantize.method=ptq", "name=ptq", "precisions=[fp32,int8,int4]")
    code, _, _ = run_inline(config, tmp_path / "results")
    cells = read_cells(tmp_path / "results/ptq")
    assert code == 0 and set(cells.quantization) == {"ptq"} and set(cells.total_updates) == {N + P + F + Q}
    plan, store = make_plan(config), store_of(tmp_path)
    by = {(cell.precision, cell.ratio): cell for cell in plan.cells}
    masters = store.tensors(by["fp32", 0.5].network)
    rounded = store.tensors(by["int4", 0.5].network)
    weights = [name for name in masters if name.endswith("weight") and name in rounded]
    assert weights and all(torch.equal(masters[name], rounded[name]) for name in weights)
    reference = read_cells(both_orders[0] / "results/tiny")
    fp32 = reference[(reference.precision == "fp32") & (reference.method == "prune_first")]
    assert list(cells[cells.precision == "fp32"].accuracy) == list(fp32.accuracy)  # FP32 has nothing to quantise


# Schedule and normalisation -----------------------------------------------------------------------------------------


def test_one_shot_removes_all_at_once_and_has_the_same_updates(tmp_path):
    config = tiny_config(tmp_path, SEED, "prune.schedule=one_shot", "precisions=fp32", "prune.ratios=[0,0.25,0.5]")
    code, computed, _ = run_inline(config, tmp_path / "results", report=True)
    cells = read_cells(tmp_path / "results/tiny")
    assert code == 0 and set(cells.total_updates) == {N + P + F + Q} and set(cells.schedule) == {"one_shot"}
    assert list(cells.achieved_ratio) == [0, 0.25, 0.5]
    plan, store = make_plan(config), store_of(tmp_path)
    paths = [cell.stages["prune"] for cell in plan.cells if cell.ratio]
    assert [store.meta(path)["updates"]["prune"] for path in paths] == [
        2,
        2,
    ]  # one burst of 2 updates, whatever the ratio
    kept = [store.tensors(path)["path/alive"] for path in paths]
    assert (kept[1] <= kept[0]).all()  # both from the same scores: the second removes what the first does, and more
    assert count_kinds(computed)["prune"] == 2


def test_as_layers_compete_otherwise_other_maps_go(tmp_path):
    alive = []
    for number, (normalize, label) in enumerate(
        {
            "l2": "l2",
            "none": "none",
            "flops": "flops",
            "{name: flops, power: 2}": "flops.power_2",
            "layer": "layer",
        }.items()
    ):
        config = tiny_config(tmp_path, SEED, f"prune.normalize={normalize}", f"name=n{number}", "precisions=fp32")
        assert run_inline(config, tmp_path / "results")[0] == 0
        (path,) = {cell.stages["prune"] for cell in make_plan(config).cells if cell.ratio}
        alive.append(store_of(tmp_path).tensors(path)["path/alive"])
        told = read_cells(tmp_path / f"results/n{number}").normalize
        assert set(told) == {label}
    assert {int(each.sum()) for each in alive} == {MAPS // 2} and len({tuple(each.tolist()) for each in alive}) == 5
    sizes = [8, 8, 16, 16, 32, 32]
    assert [int(part.sum()) for part in alive[-1].split(sizes)] == [size // 2 for size in sizes]


def test_no_layer_loses_more_than_it_may(tmp_path):
    config = tiny_config(tmp_path, SEED, "prune.normalize=none", "prune.max_layer_ratio=0.6", "precisions=fp32")
    assert run_inline(config, tmp_path / "results")[0] == 0
    (path,) = {cell.stages["prune"] for cell in make_plan(config).cells if cell.ratio}
    layers = store_of(tmp_path).meta(path)["layers"]
    assert sum(layer["kept"] for layer in layers) == MAPS // 2
    assert all(layer["maps"] - layer["kept"] <= 0.6 * layer["maps"] for layer in layers)
    with pytest.raises(UserError, match="0.5 can't be reached.*max_layer_ratio"):
        make_plan(tiny_config(tmp_path, SEED, "prune.max_layer_ratio=0.4"))


# The baselines ------------------------------------------------------------------------------------------------------


def test_the_scratch_baseline_is_the_dense_network_trained_as_long_as_a_cell(tmp_path):
    config = tiny_config(tmp_path, SEED, "train.scratch_baseline=true", "precisions=[fp32,int4]")
    code, computed, _ = run_inline(config, tmp_path / "results")
    cells = read_cells(tmp_path / "results/tiny")
    assert code == 0 and count_kinds(computed)["dense"] == 2
    twin = tiny_config(
        tmp_path, SEED, f"train.updates={N + P + F + Q}", "name=twin", "precisions=fp32", "prune.ratios=0"
    )
    run_inline(twin, tmp_path / "results")
    after = read_cells(tmp_path / "results/twin")
    (row,) = cells[cells.method == "scratch"].itertuples()
    assert (row.criterion, row.precision, row.pruning_ratio, row.updates_dense) == ("none", "fp32", 0, N + P + F + Q)
    assert row.total_updates == N + P + F + Q and row.updates_prune == row.updates_finetune == row.updates_quantize == 0
    assert {row.accuracy} == set(after.dense_accuracy) and {row.val_accuracy} == set(after.dense_val_accuracy)
    (base,) = cells[
        (cells.method == "prune_first") & (cells.precision == "fp32") & (cells.pruning_ratio == 0)
    ].itertuples()
    assert (row.bit_gflops, row.relative_bops, row.weight_bytes) == (base.bit_gflops, 1, base.weight_bytes)
    assert (row.dense_accuracy, row.baseline_accuracy) == (base.dense_accuracy, base.accuracy)
    network = load_network(tmp_path / "results/tiny", row.cell)
    assert evaluate(network, load_data({"name": "digits", "subset": 256}).test).accuracy == row.accuracy
    without = tiny_config(tmp_path, SEED, "name=without", "precisions=fp32")
    run_inline(without, tmp_path / "results")
    assert set(read_cells(tmp_path / "results/without").method) == {"prune_first"}


def test_no_dense_network_is_deleted_with_the_networks_of_cells(tmp_path):
    """That of a scratch cell may be what another sweep begins with."""
    config = tiny_config(
        tmp_path, SEED, "train.scratch_baseline=true", "precisions=fp32", "prune.ratios=0", "keep=none"
    )
    assert run_inline(config, tmp_path / "results")[0] == 0
    plan, store = make_plan(config), store_of(tmp_path)
    kept = {stage.kind for name, stage in plan.stages.items() if store.has_tensors(name)}
    assert all(store.has_tensors(name) for name, stage in plan.stages.items() if stage.kind == "dense")
    assert kept == {"dense", "finetune"}


def test_no_scratch_baseline_for_a_network_trained_elsewhere(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(UserError, match="scratch_baseline.*can't be trained from scratch"):
        tiny_config(tmp_path, f"train={{checkpoint: {tmp_path}/w.pth, updates: 5, scratch_baseline: true}}")


# Lambda by cross-validation -----------------------------------------------------------------------------------------


def test_folds_part_the_training_images():
    images = torch.arange(23, dtype=torch.uint8).view(23, 1, 1, 1)
    split = Split(images, torch.arange(23))
    held = [without_fold(split, number) for number in range(FOLDS)]
    assert sorted(label for _, part in held for label in part.labels.tolist()) == list(range(23))
    for rest, part in held:
        assert not set(rest.labels.tolist()) & set(part.labels.tolist()) and len(rest) + len(part) == 23
        assert rest.images.flatten().tolist() == rest.labels.tolist()


def test_the_least_mean_loss_is_chosen_and_of_equals_the_smaller():
    curve = [
        {"lambda": value, "ratio": ratio, "fold": fold, "loss": loss}
        for value, losses in ((0.0, (3, 1)), (1.0, (1, 2)), (3.0, (2, 1)))
        for ratio in (0.5,)
        for fold, loss in enumerate(losses)
    ]
    assert best_lambda(curve) == 1.0


def test_lambda_by_cross_validation(tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "LAMBDAS", (0.0, 1.0))
    criterion = "prune.criterion=[{name: taylor_activation, lambda: cv},taylor]"
    config = tiny_config(tmp_path, SEED, criterion, "precisions=fp32", "train.updates=20")
    code, computed, _ = run_inline(config, tmp_path / "results")
    assert code == 0 and count_kinds(computed)["fold"] == FOLDS and count_kinds(computed)["lambda"] == 1
    plan, store = make_plan(config), store_of(tmp_path)
    (name,) = (stage for stage in plan.stages if stage.startswith("lambda-"))
    meta = store.meta(name)
    assert len(meta["curve"]) == FOLDS * 2 * 1 and meta["lambda"] in (0.0, 1.0)
    code, computed, _ = run_inline(config, tmp_path / "results")
    assert code == 0 and computed == []
    curve = read_lambdas(tmp_path / "results/tiny")
    assert set(curve.criterion) == {"taylor_activation.lambda_cv"} and set(curve.chosen) == {meta["lambda"]}
    assert curve[["lambda", "ratio", "fold", "loss"]].to_dict("records") == meta["curve"]
    assert read_lambdas(tmp_path) is None
    chosen = tiny_config(
        tmp_path, SEED, f"prune.criterion={{name: taylor_activation, lambda: {meta['lambda']}}}", "precisions=fp32",
        "train.updates=20", "name=chosen",
    )  # fmt: skip
    run_inline(chosen, tmp_path / "results")
    cells, again = read_cells(tmp_path / "results/tiny"), read_cells(tmp_path / "results/chosen")
    by_cv = cells[cells.criterion == "taylor_activation.lambda_cv"]
    assert list(by_cv.accuracy) == list(again.accuracy)


def test_the_lambda_0_end_of_the_curve_is_plain_taylor(tmp_path, monkeypatch):
    """The fold's loss at lambda 0 is that of a network pruned by plain Taylor without the fold."""
    from qprune.stages.partial import Partial
    from qprune.stages.work import Work

    monkeypatch.setattr(fold, "LAMBDAS", (0.0,))
    losses = []
    for criterion in ("{name: taylor_activation, lambda: cv}", "taylor"):
        config = tiny_config(
            tmp_path, SEED, "prune.criterion={name: taylor_activation, lambda: cv}", "train.updates=20"
        )
        stage = next(stage for stage in make_plan(config).stages.values() if stage.kind == "fold")
        if criterion == "taylor":
            monkeypatch.setattr(
                fold,
                "get_criterion",
                lambda settings: __import__("qprune.pruning.criteria", fromlist=["x"]).get_criterion("taylor"),
            )
        store = Store(tmp_path / criterion[:4])
        work = Work(store, torch.device("cpu"), Partial(store, stage.id, lambda updates: None, print))
        losses.append(stage.compute(work)[0]["losses"])
    assert losses[0] == losses[1] and losses[0][0.0][0.5] > 0


def test_every_variant_is_planned_with_its_forecast(tmp_path):
    from io import StringIO

    from rich.console import Console

    from qprune.sweep.forecast import show_plan

    text = StringIO()
    config = tiny_config(
        tmp_path, SEED, "order=[prune_first,quantize_first]", "train.scratch_baseline=true", "precisions=[fp32,int4]",
        "prune.criterion={name: taylor_activation, lambda: cv}",
    )  # fmt: skip
    show_plan(config, tmp_path / "results", Console(file=text, width=160))
    for kind in ("dense", "quantize_dense", "prune", "finetune", "fold", "lambda"):
        assert f" {kind} " in text.getvalue(), text.getvalue()
