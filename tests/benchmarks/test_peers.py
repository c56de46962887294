"""qprune beside its peers: equal updates, costs as qprune counts them, nothing finished is trained twice."""

import json

import pandas as pd
import pytest
from benchmarks.peers import sweep_cells
from benchmarks.peers.common import budget_of
from benchmarks.peers.driver import file_of, jobs, lacking, run_job
from benchmarks.peers.same_shape import train_shape
from benchmarks.peers.tables import best_within, equal_cost, hypervolumes, summarise, write_tables
from tiny_sweep import F, N, P, Q, run_inline, tiny_config

from qprune.cost import count_cost
from qprune.stages.saved import NetworkSpec
from qprune.storage.store import Store

TOTAL = N + P + F + Q
OVERRIDES = (
    "prune.criterion=[taylor, random]", "precisions=[fp32, int8, int4]", "seeds=[0]", "train.scratch_baseline=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny finished sweep: its settings, the folder of results, the budget, and every peer's points of seed 0."""
    out = tmp_path_factory.mktemp("peers")
    config = tiny_config(out, *OVERRIDES)
    code, _, text = run_inline(config, out)
    assert code == 0, text
    budget = budget_of(config, out)
    points = [(names, list(call(names))) for names, call in jobs(budget, [0])]
    return config, out, budget, points


def test_the_budget_is_the_sweeps(tiny):
    _, _, budget, _ = tiny
    assert (budget.dense, budget.path, budget.finetune, budget.quantize) == (N, P, F, Q)
    assert (budget.removals, budget.between, budget.until) == (7, 2, 0.5)


def test_every_network_of_every_method_has_had_all_updates(tiny):
    config, out, _, points = tiny
    rows = [*sweep_cells.rows(config, out)] + [point.row for _, part in points for point in part]
    assert {row["method"] for row in rows} == {"qprune", "random", "torch_pruning", "width", "unpruned"}
    assert {row["updates"] for row in rows} == {TOTAL}


def test_every_job_yields_the_points_that_it_names(tiny):
    *_, points = tiny
    for names, part in points:
        assert [
            tuple(point.row[key] for key in ("method", "precision", "ratio", "width", "seed")) for point in part
        ] == names


def test_costs_are_those_of_the_network_handed_over(tiny):
    *_, points = tiny
    for _, part in points:
        for point in part:
            cost = count_cost(point.network, (1, 8, 8))
            assert point.row["bit_gflops"] == pytest.approx(cost.bit_gflops, rel=1e-12)
            assert point.row["gflops"] == cost.gflops
            # converting to torch.ao's integer modules changes a few bytes of scales
            tolerance = {"rel": 0.05} if point.row["precision"] == "int8" else {"rel": 1e-12}
            assert point.row["weight_bytes"] == pytest.approx(cost.weight_bytes, **tolerance)
            widths = [layer.channels_out for layer in cost.layers]
            assert point.row["maps"] == "-".join(map(str, widths[:-1]))


def test_torch_pruning_removes_the_maps_asked_for(tiny):
    *_, points = tiny
    for point in points[0][1]:
        assert point.row["method"] == "torch_pruning"
        assert point.row["achieved_ratio"] == pytest.approx(point.row["ratio"], abs=0.08)  # steps of 1/14


def test_work_that_points_share_counts_once(tiny):
    config, out, budget, points = tiny
    width = [point.row["new_updates"] for point in points[-1][1]]
    assert width == [TOTAL, Q, Q]
    shrinking = [point.row for point in points[0][1]]
    # dense and path, then from the ratios 0 and 0.5: the rest of P, F, and Q at three precisions
    whole = N + P + (P + F + 3 * Q) + (F + 3 * Q)
    assert sum(row["new_updates"] for row in shrinking) == whole
    assert shrinking[-1]["scoring_passes"] == 7 * 2  # as many as qprune scores from
    own = [row for row in sweep_cells.rows(config, out) if row["method"] == "qprune"]
    assert sum(row["new_updates"] for row in own) == whole


def test_the_peers_start_from_the_sweeps_dense_network(tiny):
    _, out, budget, _ = tiny
    tensors, updates = budget.stage(0, "dense")
    assert updates == N
    data, spec = budget.load()
    assert isinstance(spec, NetworkSpec)
    spec.load_fp32(tensors)  # strict
    cell = next(cell for cell in budget.cells if cell.seed == 0)
    assert Store(out / "stages").meta(cell.stages["dense"])["updates"] == N


def test_a_pruned_shape_from_scratch_costs_the_same_and_has_all_updates(tiny):
    _, _, budget, points = tiny
    row = next(point.row for point in points[0][1] if (point.row["ratio"], point.row["precision"]) == (0.5, "fp32"))
    trained = train_shape(budget, row)
    assert trained["updates"] == TOTAL
    assert trained["bit_gflops_from_scratch"] == pytest.approx(row["bit_gflops"], rel=1e-12)


def test_what_is_finished_is_not_trained_again(tiny, tmp_path):
    _, _, budget, _ = tiny
    names, call = jobs(budget, [0])[-1]
    first = run_job(names[:1], call, tmp_path)
    assert first == [file_of(names[0], tmp_path)]
    content = first[0].stat().st_mtime_ns
    assert lacking(names, tmp_path) == names[1:]
    rest = run_job(lacking(names, tmp_path), call, tmp_path)
    assert rest == [file_of(name, tmp_path) for name in names[1:]]
    assert first[0].stat().st_mtime_ns == content and lacking(names, tmp_path) == []


def test_tables_of_a_finished_run(tiny):
    config, out, budget, points = tiny
    folder = out / config.name / "points"
    folder.mkdir(exist_ok=True)
    for names, part in points:
        for name, point in zip(names, part, strict=True):
            file_of(name, folder).write_text(json.dumps(point.row))
    table, summary = write_tables(config, out)
    # two criteria, FP32 from scratch, Torch-Pruning; width 1 at two precisions, the other widths at three
    assert len(table) == 2 * 6 + 1 + 6 + 2 + 4 * 3
    front = summary.set_index(["method", "precisions"])
    assert front.loc[("qprune", "all"), "updates"] == N + P + (P + F + 3 * Q) + (F + 3 * Q)
    assert front.loc[("width", "all"), "updates"] == TOTAL + TOTAL + Q + 4 * (TOTAL + 2 * Q)
    assert len(pd.read_csv(out / config.name / "summary.csv")) == len(summary)


def test_hypervolume_and_paired_difference_by_hand():
    rows = []
    for seed, extra in ((0, 0.0), (1, 0.01), (2, 0.02)):
        rows.append(("qprune", "fp32", 0.0, seed, 0.9, 1.0))
        rows.append(("qprune", "w4a4", 0.5, seed, 0.85, 0.25))
        rows.append(("width", "fp32", None, seed, 0.85 + extra, 0.5))
    points = pd.DataFrame(rows, columns=["method", "precision", "ratio", "seed", "val_accuracy", "bit_gflops"])
    points[["new_updates", "scoring_passes", "seconds"]] = 0
    # reference: 1 GFLOP and 80%; 0.25 GFLOP is 2 octaves below and 5 points above; 1 GFLOP adds nothing
    assert list(hypervolumes(points, "qprune")) == pytest.approx([10, 10, 10])
    assert list(hypervolumes(points, "width")) == pytest.approx([5, 6, 7])
    assert list(hypervolumes(points, "qprune", ("fp32",))) == pytest.approx([0, 0, 0])
    row = summarise(points).set_index(["method", "precisions"]).loc[("width", "all")]
    assert (row.hypervolume, row.qprune_minus_it) == pytest.approx((6, 4))
    half = 4.302652729911275 / 3**0.5  # Student's t of 2 degrees of freedom, sd 1
    assert row.difference_low == pytest.approx(4 - half, abs=1e-3)


def test_equal_cost_by_hand():
    rows = []
    for seed, extra in ((0, 0.0), (1, 0.01), (2, 0.02)):
        rows.append(("qprune", "fp32", 0.0, None, seed, 0.9, 0.90, 1.0))
        rows.append(("qprune", "fp32", 0.5, None, seed, 0.8, 0.81, 0.4))
        rows.append(("qprune", "w4a4", 0.5, None, seed, 0.7, 0.99, 0.3))  # worse by validation, so it isn't chosen
        rows.append(("width", "fp32", None, 0.7, seed, 0.8, 0.80 + extra, 0.5))
        rows.append(("width", "fp32", None, 0.9, seed, 0.9, 0.85, 0.6))  # too dear for half of the cost
    columns = ["method", "precision", "ratio", "width", "seed", "val_accuracy", "accuracy", "bit_gflops"]
    points = pd.DataFrame(rows, columns=columns).assign(maps="4-2")
    assert best_within(points[points.method == "width"], 0.49) is None
    table = equal_cost(points).set_index(["share_of_dense_cost", "method"])
    assert set(table.index) == {(0.5, "qprune"), (0.5, "width")}
    own, other = table.loc[(0.5, "qprune")], table.loc[(0.5, "width")]
    assert (own.accuracy, own.ratio, own.relative_cost) == pytest.approx((81, 0.5, 0.4))
    assert (other.accuracy, other.width, other.qprune_minus_it) == pytest.approx((81, 0.7, 0))
    half = 4.302652729911275 / 3**0.5  # Student's t of 2 degrees of freedom, sd 1
    assert other.difference_high == pytest.approx(half, abs=1e-4)
