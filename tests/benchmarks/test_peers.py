"""qprune beside its peers: equal updates, costs as qprune counts them, nothing that points share is trained twice."""

from contextlib import ExitStack

import pandas as pd
import pytest
from benchmarks.peers import ENTRIES
from benchmarks.peers.same_shape import write_same_shape
from benchmarks.peers.tables import best_within, equal_cost, hypervolumes, summarise, write_tables
from tiny_sweep import F, N, P, Q, run_inline, tiny_config

from qprune.cost import count_cost
from qprune.methods.narrower import WIDTHS
from qprune.stages.saved import NetworkSpec
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

TOTAL = N + P + F + Q
OVERRIDES = (
    "prune.criterion=[taylor, random]", "prune.ratios=[0, 0.25, 0.5]", "precisions=[fp32, int8, int4]", "seeds=[0]",
    "order=[prune_first, scratch, narrower, torch_pruning]",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny finished sweep of all: its settings, the folder of results, its plan and the tables made of it."""
    out = tmp_path_factory.mktemp("peers")
    with ExitStack() as known:
        for registry, entries in ENTRIES.items():
            known.enter_context(registry.temporarily(*entries))
        config = tiny_config(out, *OVERRIDES)
        code, _, text = run_inline(config, out)
        assert code == 0, text
        yield config, out, make_plan(config), *write_tables(config, out)


def test_every_network_of_every_method_has_had_all_updates(tiny):
    *_, points, _ = tiny
    assert set(points.updates) == {TOTAL}
    # two criteria and Torch-Pruning, 3 ratios at 3 precisions; scratch; width 1 at two precisions, the others at three
    counts = {"qprune": 9, "random": 9, "torch_pruning": 9, "unpruned": 1 + 2, "width": 3 * (len(WIDTHS) - 1)}
    assert points.method.value_counts().to_dict() == counts


def test_costs_are_those_of_the_network_handed_over(tiny):
    _, out, plan, points, _ = tiny
    store = Store(out / "stages")
    for cell in plan.cells:
        if cell.method in ("narrower", "torch_pruning"):
            spec = NetworkSpec.from_json(store.meta(cell.network)["network"], (), out)
            cost = count_cost(spec.load(store.tensors(cell.network)), (1, 8, 8))
            measured = store.meta(cell.stages["evaluate"])["cost"]
            assert measured["bit_gflops"] == pytest.approx(cost.bit_gflops, rel=1e-12)
            assert measured["gflops"] == cost.gflops
            # converting to torch.ao's integer modules changes a few bytes of scales
            tolerance = {"rel": 0.05} if cell.precision == "int8" else {"rel": 1e-12}
            assert measured["weight_bytes"] == pytest.approx(cost.weight_bytes, **tolerance)


def test_widths_are_the_maps_of_the_network(tiny):
    *_, points, _ = tiny
    whole = [8, 8, 16, 16, 32, 32]
    for row in points[points.width.notna()].itertuples():
        assert row.maps == "-".join(str(round(row.width * maps)) for maps in whole)


def test_torch_pruning_removes_the_maps_asked_for(tiny):
    *_, points, _ = tiny
    for row in points[points.method == "torch_pruning"].itertuples():
        assert row.achieved_ratio == pytest.approx(row.ratio, abs=0.08)  # steps of 1/14
        assert row.achieved_ratio == pytest.approx(1 - sum(map(int, row.maps.split("-"))) / 112)


def test_torch_pruning_goes_on_as_if_it_had_not_stopped(tiny, tmp_path):
    """At 0.5 by way of a network that was saved at 0.25, and in one go."""
    config, out, plan, _, _ = tiny
    straight = tiny_config(tmp_path, *OVERRIDES, "prune.ratios=[0, 0.5]", "order=[prune_first, torch_pruning]")
    assert run_inline(straight, tmp_path)[0] == 0
    found = []
    for store, cells in ((Store(out / "stages"), plan.cells), (Store(tmp_path / "stages"), make_plan(straight).cells)):
        (cell,) = [c for c in cells if (c.method, c.ratio, c.precision) == ("torch_pruning", 0.5, "fp32")]
        found.append((len(store.meta(cell.stages["torch_pruning"])["curves"]["prune"]), store.tensors(cell.network)))
    (short, first), (long, second) = found
    assert short < long and first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


def test_work_that_points_share_counts_once(tiny):
    *_, points, summary = tiny
    # dense and path, then from each of three ratios: the rest of P, F, and Q at three precisions
    rests = P + (P - 4 * 2) + 0
    whole = N + P + rests + 3 * (F + 3 * Q)
    front = summary[summary.precisions == "all"].set_index("method")
    assert front.updates["qprune"] == front.updates["random"] == front.updates["torch_pruning"] == whole
    assert front.updates["unpruned"] == TOTAL + TOTAL + Q
    assert front.updates["width"] == front.updates["unpruned"] + (len(WIDTHS) - 1) * (TOTAL + 2 * Q)
    assert front.scoring_passes["torch_pruning"] == 7 * 2  # as many as qprune scores from


def test_a_pruned_shape_from_scratch_costs_the_same_and_has_all_updates(tiny, monkeypatch):
    config, out, *_ = tiny
    monkeypatch.setattr("benchmarks.peers.same_shape.SHAPES", {"taylor": (0.25, 0.5), "random": (0.5,)})
    monkeypatch.setattr("benchmarks.peers.same_shape.TORCH_PRUNING_SHAPES", (0.5,))
    order = "order=[prune_first, torch_pruning, same_shape, same_shape_torch_pruning]"
    config = tiny_config(out, *OVERRIDES, "precisions=fp32", order)
    assert run_inline(config, out)[0] == 0
    table = write_same_shape(config, out, out)
    named = [("qprune", 0.25), ("qprune", 0.5), ("random", 0.5), ("torch_pruning", 0.5)]
    assert sorted(zip(table.method, table.ratio, strict=True)) == named
    assert set(table.updates) == {TOTAL}
    assert list(table.bit_gflops_from_scratch) == pytest.approx(list(table.bit_gflops), rel=1e-12)
    assert not (table.accuracy == table.accuracy_from_scratch).all()


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
