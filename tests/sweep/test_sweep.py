"""What a finished sweep has written: every number against one that is counted another way."""

import base64
import json
import math
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import recall_score
from this_machine import INT8_ACTIVATIONS
from tiny_sweep import MAPS, F, N, P, Q, run_inline, tiny_config
from torch.nn import functional

import qprune
from qprune.data import load_data
from qprune.recipe import Recipe, seed_of
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.training import minibatch

FIRST_COLUMNS = [
    "cell", "sweep", "model", "data", "criterion", "precision",
    "pruning_ratio", "achieved_ratio", "seed", "status", "accuracy", "val_accuracy", "test_loss",
    "val_loss", "dense_accuracy", "baseline_accuracy", "macs", "gflops",
    "bit_gflops", "linear_gflops", "gbops", "gbops_acc", "relative_bops", "params",
    "weight_bytes", "updates_dense", "updates_prune",
    "updates_finetune", "updates_quantize", "total_updates", "seconds",
]  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "int4")
CONVS = [(1, 8, 64), (8, 8, 64), (8, 16, 16), (16, 16, 16), (16, 32, 4), (32, 32, 4)]  # in, out, positions
DENSE_MACS = sum(9 * c_in * c_out * positions for c_in, c_out, positions in CONVS) + 32 * 10
FIRST_AND_LAST = 9 * 1 * 8 * 64 + 32 * 10


@pytest.fixture(scope="module")
def cells(finished):
    return read_cells(finished / "results/tiny")


@pytest.fixture(scope="module")
def records(finished):
    files = (finished / "results/tiny/cells").glob("*.json")
    return {record["cell"]: record for record in (json.loads(file.read_text()) for file in files)}


def classes(part: dict) -> tuple[np.ndarray, np.ndarray]:
    """Each image's label and predicted class, from base64 of zlib of uint8, without qprune."""
    labels, predicted = (
        np.array(list(zlib.decompress(base64.b64decode(part[key])))) for key in ("labels", "predicted")
    )
    assert len(labels) == len(predicted) == part["images"] and "correct" not in part
    return labels, predicted


def unpacked(part: dict) -> np.ndarray:
    """Per-image correctness."""
    labels, predicted = classes(part)
    return labels == predicted


# The table ----------------------------------------------------------------------------------------------------------


def test_one_row_per_cell_all_done_columns_in_order(cells):
    assert list(cells.columns[: len(FIRST_COLUMNS)]) == FIRST_COLUMNS
    expected = {
        f"vgg_tiny-digits-taylor-{precision}-r{ratio}-s{seed}"
        for precision in PRECISIONS
        for ratio in ("0.00", "0.50")
        for seed in (0, 1)
    }
    assert len(cells) == len(expected) == 16 and set(cells.cell) == expected
    assert set(cells.status) == {"done"} and set(cells.sweep) == {"tiny"}
    for row in cells.itertuples():
        assert (
            row.cell == f"{row.model}-{row.data}-{row.criterion}-{row.precision}-r{row.pruning_ratio:.2f}-s{row.seed}"
        )
    assert not cells[FIRST_COLUMNS].isna().any().any()


def test_updates_are_those_counted_by_hand(cells):
    assert (N, P, F, Q) == (40, 14, 8, 6)
    for column, updates in zip(("dense", "prune", "finetune", "quantize"), (N, P, F, Q), strict=True):
        assert set(cells[f"updates_{column}"]) == {updates}
    assert set(cells.total_updates) == {68}


def test_parquet_is_the_csv(finished, cells):
    parquet = pd.read_parquet(finished / "results/tiny/cells.parquet")
    assert list(parquet.columns) == list(cells.columns)
    for column in cells:
        left, right = cells[column], parquet[column]
        if left.dtype.kind in "if":
            assert np.array_equal(left.to_numpy(float), right.to_numpy(float), equal_nan=True), column
        else:
            assert left.fillna("").tolist() == right.fillna("").tolist(), column


def test_baseline_is_the_unpruned_fp32_cell_of_the_same_seed(cells):
    for seed, rows in cells.groupby("seed"):
        base = rows[(rows.precision == "fp32") & (rows.pruning_ratio == 0)]
        assert len(base) == 1
        assert set(rows.baseline_accuracy) == {base.accuracy.item()}
        assert rows.dense_accuracy.nunique() == 1, seed


def test_settings_hashes_versions_and_device_come_last(cells):
    row = cells.iloc[0]
    assert (row.batch_size, row.optimizer, row.lr_dense, row.until, row.channels_per_step) == (32, "sgd", 0.1, 0.5, 8)
    assert (row.lr_prune, row.lr_finetune, row.lr_quantize) == pytest.approx((0.02, 0.02, 0.01))
    assert f"torch={torch.__version__.split('+')[0]}" in row.versions and "qprune=" in row.versions
    assert row.device.startswith(("cpu", "cuda")) and row.threads == 1
    assert cells[cells.pruning_ratio == 0].stage_prune.isna().all()
    assert cells[cells.pruning_ratio == 0.5].stage_prune.str.match(r"prune-[0-9a-f]{16}-00007$").all()
    assert (
        cells.stage_dense.nunique() == 2
        and cells.stage_finetune.nunique() == 4
        and cells.stage_evaluate.nunique() == 16
    )


# Costs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "bits", "edge_bits"),
    [
        ("fp32", (32, 32), (32, 32)),
        ("fp16", (16, 16), (16, 16)),
        ("int8", (8, INT8_ACTIVATIONS), (8, INT8_ACTIVATIONS)),
        ("int4", (4, 4), (8, 8)),
    ],
)
def test_unpruned_costs_by_hand(cells, precision, bits, edge_bits):
    row = cells[(cells.precision == precision) & (cells.pruning_ratio == 0)].iloc[0]
    inner = DENSE_MACS - FIRST_AND_LAST
    assert (row.macs, row.gflops) == (DENSE_MACS, 2 * DENSE_MACS / 1e9)
    gbops = (inner * math.prod(bits) + FIRST_AND_LAST * math.prod(edge_bits)) / 1e9
    linear_gflops = 2 * (inner * max(bits) + FIRST_AND_LAST * max(edge_bits)) / 32 / 1e9
    assert row.gbops == pytest.approx(gbops, rel=1e-12)
    assert row.linear_gflops == pytest.approx(linear_gflops, rel=1e-12)
    assert row.relative_bops == pytest.approx(row.gbops / (DENSE_MACS * 1024 / 1e9), rel=1e-12)
    if precision == "fp32":
        assert row.bit_gflops == row.gflops and row.relative_bops == 1


def test_bit_gflops_is_gbops_over_512(cells):
    assert (cells.bit_gflops == cells.gbops / 512).all()


def test_layers_of_each_cell_add_up_to_its_totals(records):
    for record in records.values():
        layers, widths = record["cost"]["layers"], [(8, 8), (4, 4), (32, 32)]
        flops = [2 * layer["macs"] / 1e9 for layer in layers]
        products = [layer["w_bits"] * layer["a_bits"] for layer in layers]
        assert sum(layer["macs"] for layer in layers) == record["macs"]
        assert sum(flops) == pytest.approx(record["gflops"], rel=1e-12)
        assert sum(f * p / 1024 for f, p in zip(flops, products, strict=True)) == pytest.approx(record["bit_gflops"])
        accumulated = [
            layer["macs"]
            * (p + layer["w_bits"] + layer["a_bits"] + math.log2(math.prod(layer["kernel"]) * layer["channels_in"]))
            for layer, p in zip(layers, products, strict=True)
        ]
        assert sum(accumulated) / 1e9 == pytest.approx(record["gbops_acc"], rel=1e-9)
        if record["precision"] == "int4":
            assert [(layer["w_bits"], layer["a_bits"]) for layer in layers] == [widths[0], *[widths[1]] * 5, widths[0]]


def test_pruned_cells_are_really_smaller(records):
    for record in records.values():
        if record["pruning_ratio"] == 0:
            assert record["achieved_ratio"] == 0
            continue
        *convs, linear = record["cost"]["layers"]
        kept = [layer["channels_out"] for layer in convs]
        assert sum(kept) == MAPS - 56 and min(kept) >= 1
        assert record["achieved_ratio"] == 0.5
        assert [layer["channels_in"] for layer in convs] == [1, *kept[:-1]] and linear["channels_in"] == kept[-1]
        by_hand = [
            9 * c_in * c_out * positions
            for c_in, c_out, (_, _, positions) in zip([1, *kept], kept, CONVS, strict=False)
        ]
        assert [layer["macs"] for layer in convs] == by_hand and linear["macs"] == 10 * kept[-1]
        weights = 9 * sum(a * b for a, b in zip([1, *kept], kept, strict=False)) + 10 * kept[-1]
        assert record["params"] == weights + 2 * sum(kept) + 10  # BN's shift and scale, the last layer's bias


# Per-image correctness and networks ---------------------------------------------------------------------------------


def test_correctness_gives_the_accuracies(records):
    data = load_data({"name": "digits"})
    for record in records.values():
        test, val = unpacked(record["test"]), unpacked(record["validation"])
        assert (len(test), len(val)) == (len(data.test), len(data.val))
        assert test.mean() == pytest.approx(record["accuracy"], abs=1e-12)
        assert val.mean() == pytest.approx(record["val_accuracy"], abs=1e-12)


def test_recalls_are_those_of_scikit_learn(cells, records):
    for row in cells.itertuples():
        for part, prefix in (("validation", "val_"), ("test", "")):
            found = recall_score(*classes(records[row.cell][part]), average=None, zero_division=0)
            assert getattr(row, f"{prefix}balanced_accuracy") == pytest.approx(found.mean(), abs=1e-12)
            assert getattr(row, f"{prefix}least_recall") == pytest.approx(found.min(), abs=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("ratio", ["0.00", "0.50"])
def test_load_network_is_the_network_that_was_evaluated(finished, records, precision, ratio):
    cell = f"vgg_tiny-digits-taylor-{precision}-r{ratio}-s1"
    network = qprune.load_network(finished / "results/tiny", cell)
    assert not any(module.training for module in network.modules())
    data = load_data({"name": "digits"})
    for part, split in (("test", data.test), ("validation", data.val)):
        with torch.no_grad():
            logits = network(split.images.float() / 255)
        loss = functional.cross_entropy(logits, split.labels).item()
        labels, predicted = classes(records[cell][part])
        assert logits.argmax(1).tolist() == predicted.tolist() and split.labels.tolist() == labels.tolist()
        assert loss == pytest.approx(records[cell]["test_loss" if part == "test" else "val_loss"], rel=1e-4)


def test_int8_is_really_converted(finished):
    network = qprune.load_network(finished / "results/tiny", "vgg_tiny-digits-taylor-int8-r0.50-s0")
    kinds = {type(module).__module__ for module in network.modules() if "Conv" in type(module).__name__}
    assert kinds and all(kind.startswith("torch.ao.nn") and "quantized" in kind and "qat" not in kind for kind in kinds)


def test_load_network_names_the_nearest_cell(finished):
    with pytest.raises(UserError, match=r"did you mean.*int4-r0\.50-s0"):
        qprune.load_network(finished / "results/tiny", "vgg_tiny-digits-taylor-int4-r0.5-s0")
    with pytest.raises(UserError, match="no finished cell"):
        qprune.load_network(finished / "results/nothing", "vgg_tiny-digits-taylor-int4-r0.50-s0")


def test_no_draft_is_left(finished):
    stages = finished / "results/stages"
    hidden = [file for file in finished.rglob(".*") if file.is_file() or file.parent != stages]
    assert not hidden and not [file for folder in stages.glob(".*") for file in folder.iterdir()]


# What the stages did ------------------------------------------------------------------------------------------------


def test_the_unpruned_cell_trains_through_all_of_p_then_afresh_through_f(finished, cells):
    """Its recovery, written out: Nesterov's SGD, at a constant rate for P updates; a new one, decaying, for F."""
    row = cells[(cells.pruning_ratio == 0) & (cells.seed == 1)].iloc[0]
    store = Store(finished / "results/stages")
    assert store.meta(row.stage_dense)["updates"] == {"dense": N}
    assert store.meta(row.stage_finetune)["updates"] == {"prune": P, "finetune": F}
    network = NetworkSpec.from_json(store.meta(row.stage_dense)["network"], (), "").load_fp32(
        store.tensors(row.stage_dense)
    )
    data = load_data({"name": "digits", "subset": 256})
    network.train()
    for what, updates, rate in (
        ("prune", P, lambda update: 0.02),
        ("finetune", F, lambda update: 0.02 * (1 + math.cos(math.pi * update / F)) / 2),
    ):
        weights = [p for p in network.parameters() if p.dim() > 1]
        others = [p for p in network.parameters() if p.dim() <= 1]
        optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": 5e-4}, {"params": others}], lr=1, momentum=0.9, nesterov=True
        )
        for update in range(updates):
            images, labels = minibatch(data.train, Recipe(batch_size=32), seed_of(1, what), update)
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            for group in optimizer.param_groups:
                group["lr"] = rate(update)
            optimizer.step()
    for name, tensor in store.tensors(row.stage_finetune).items():
        assert torch.allclose(network.state_dict()[name], tensor, atol=1e-6), name


def test_a_grid_without_fp32_and_without_ratio_0_still_has_its_baseline(resumable, cells):
    config = tiny_config(resumable, "name=corner", "precisions=int4", "prune.ratios=0.5")
    code, computed, _ = run_inline(config, resumable / "results")
    corner = pd.read_csv(resumable / "results/corner/cells.csv")
    assert code == 0 and computed == []  # the tiny sweep has it all
    assert len(corner) == 2
    both = corner.merge(cells, on="cell", suffixes=("", "_tiny"))
    assert (both.baseline_accuracy == both.baseline_accuracy_tiny).all() and (both.accuracy == both.accuracy_tiny).all()


def test_the_baseline_is_trained_where_no_cell_needs_it(tmp_path):
    overrides = ("seeds=0", "precisions=int4", "prune.ratios=0.5", "train.updates=5", "data.subset=64")
    code, computed, _ = run_inline(tiny_config(tmp_path, *overrides), tmp_path / "results")
    assert code == 0 and len(computed) == 2 + 2 * 3  # dense, prune; finetune, quantize, evaluate of cell and baseline
    (row,) = pd.read_csv(tmp_path / "results/tiny/cells.csv").itertuples()
    (base,) = [
        meta["test"]["accuracy"]
        for meta in (Store(tmp_path / "results/stages").meta(name) for name in computed)
        if meta["kind"] == "evaluate" and meta["network"]["precision"] == "fp32"
    ]
    assert row.baseline_accuracy == base


def test_stages_without_updates(tmp_path):
    overrides = (
        "seeds=0",
        "finetune={updates: 0}",
        "quantize={updates: 0}",
        "prune.ratios=[0]",
        "precisions=[fp32,int8,int4]",
    )
    code, _, _ = run_inline(tiny_config(tmp_path, *overrides), tmp_path / "results")
    rows = pd.read_csv(tmp_path / "results/tiny/cells.csv")
    assert code == 0 and set(rows.total_updates) == {40} and set(rows.updates_prune) == {0}
    assert rows.accuracy[0] == rows.dense_accuracy[0] == rows.baseline_accuracy[0]
