"""Fronts, statistics and picks against slow or closed-form answers."""

import math

import numpy as np
import pandas as pd
import pytest
from made_sweep import make_sweep
from scipy.special import stdtrit

import qprune
from qprune.analysis.front import front_cells, hypervolume, is_on_front, knee, operating_points
from qprune.analysis.pick import Choices, Limits, choices_of, nearest_points, parse_limits, pick, price_of_limits
from qprune.analysis.statistics import BOOTSTRAP_FROM, STUDENT_QUANTILES, interval, sampling_interval
from qprune.analysis.studies import (
    Drop,
    Interval,
    best_at_cost,
    drops,
    equal_cost,
    hypervolumes,
    interactions,
    largest_ratio,
)
from qprune.registry.errors import UserError
from qprune.report.cells import read_measured


def slow_front(cost, accuracy):
    """Straight from the definition, O(n^2)."""

    def dominates(a, b):
        as_good = cost[a] <= cost[b] and accuracy[a] >= accuracy[b]
        return as_good and (cost[a] < cost[b] or accuracy[a] > accuracy[b])

    known = [i for i in range(len(cost)) if not (math.isnan(cost[i]) or math.isnan(accuracy[i]))]
    return [i in known and not any(dominates(j, i) for j in known) for i in range(len(cost))]


@pytest.mark.parametrize("seed", range(200))
def test_front_equals_the_definition(seed):
    draws = np.random.default_rng(seed)
    count = int(draws.integers(0, 40))
    levels = int(draws.choice([3, 10, 1000]))  # few levels: many ties and duplicates
    cost, accuracy = draws.integers(1, levels + 1, (2, count)).astype(float)
    cost[draws.random(count) < 0.1] = np.nan
    accuracy[draws.random(count) < 0.1] = np.nan
    assert is_on_front(cost, accuracy).tolist() == slow_front(cost, accuracy)


def test_knee():
    cost, accuracy = np.array([8.0, 1, 2, 4]), np.array([0.96, 0.5, 0.94, 0.95])  # above the chord by 0.62 and 0.31
    assert knee(cost, accuracy) == 2
    assert knee(cost * 1000, accuracy * 3) == 2  # units don't matter
    assert knee(np.array([1.0, 2, 4]), np.array([0.1, 0.2, 0.3])) is None  # on the chord
    assert knee(cost[:2], accuracy[:2]) is None
    assert knee(np.array([1.0, 1, 1]), np.array([0.5, 0.5, 0.5])) is None


def test_hypervolume_in_closed_form():
    # octaves saved x accuracy above the reference, minus the overlap
    assert hypervolume([1.0], [0.9], 8.0, 0.8) == pytest.approx(3 * 0.1)
    assert hypervolume([1.0, 4.0], [0.85, 0.95], 8.0, 0.8) == pytest.approx(3 * 0.05 + 1 * 0.1)
    assert hypervolume([1.0, 4.0, 4.0, np.nan], [0.85, 0.95, 0.9, 1], 8.0, 0.8) == pytest.approx(3 * 0.05 + 1 * 0.1)
    assert hypervolume([16.0, 1.0], [0.99, 0.7], 8.0, 0.8) == 0  # too dear, too inaccurate
    assert hypervolume([], [], 8.0, 0.8) == 0


def test_hypervolume_equals_a_count_of_small_squares():
    draws = np.random.default_rng(0)
    octaves, steps = draws.integers(1, 30, (2, 12))
    covered = {(x, y) for o, s in zip(octaves, steps, strict=True) for x in range(o) for y in range(s)}
    area = hypervolume(2.0 ** -octaves.astype(float), steps / 100, 1.0, 0.0)
    assert area == pytest.approx(len(covered) / 100)


def test_students_quantiles_are_scipys():
    assert pytest.approx([stdtrit(degrees, 0.975) for degrees in range(1, BOOTSTRAP_FROM - 1)], rel=1e-15) == list(
        STUDENT_QUANTILES
    )


def test_interval_by_hand():
    three = interval([0.90, 0.92, 0.94])
    half = 4.302652729749464 * 0.02 / math.sqrt(3)  # t of 97.5% with two degrees of freedom
    assert (three.mean, three.low, three.high, three.n) == pytest.approx((0.92, 0.92 - half, 0.92 + half, 3))
    assert interval([0.9, math.nan]).n == 1 and math.isnan(interval([0.9]).low)
    assert interval([]).n == 0 and math.isnan(interval([]).mean)


def test_interval_covers_what_it_says():
    draws = np.random.default_rng(1)
    for count, least in ((3, 0.93), (12, 0.88)):  # a bootstrap over 12 falls somewhat short of 95%
        held = [interval(draws.normal(0, 1, count)) for _ in range(400)]
        assert least < np.mean([one.low <= 0 <= one.high for one in held]) < 0.985


def test_bootstrap_from_ten_seeds_on():
    values = list(np.random.default_rng(2).normal(0.9, 0.01, 10))
    ten, nine = interval(values), interval(values[:9])
    assert nine.high - nine.mean == pytest.approx(nine.mean - nine.low)
    assert ten.high - ten.mean != pytest.approx(ten.mean - ten.low, rel=1e-6)
    assert ten == interval(values)  # the same each time


def test_sampling_interval_equals_resampling():
    draws = np.random.default_rng(3)
    base = draws.random((3, 500)) < 0.95
    other = base & (draws.random((3, 500)) < 0.98)
    normal = sampling_interval(base, other)
    difference = base.mean(0) - other.mean(0)
    means = difference[draws.integers(0, 500, (4000, 500))].mean(1)
    assert normal.mean == pytest.approx(base.mean() - other.mean())
    assert (normal.low, normal.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=1e-3)
    unpaired = sampling_interval(base).high - sampling_interval(base).mean
    assert normal.high - normal.mean < unpaired  # pairing takes out what both images have in common


def table(rows):
    """Cells from (precision, ratio, seed, val_accuracy, bit_gflops)."""
    cells = pd.DataFrame(rows, columns=["precision", "pruning_ratio", "seed", "val_accuracy", "bit_gflops"])
    fixed = {
        "sweep": "s",
        "model": "m",
        "data": "d",
        "criterion": "c",
        "method": "prune_first",
        "status": "done",
        "accuracy": 0.5,
        "weight_bytes": 1,
    }
    cells = cells.assign(**fixed, baseline_accuracy=0.5)
    base = cells[(cells.precision == "fp32") & (cells.pruning_ratio == 0)].set_index("seed").val_accuracy
    cells["baseline_val_accuracy"] = cells.seed.map(base)
    cells["cell"] = [f"{p}-{r}-{s}" for p, r, s in zip(cells.precision, cells.pruning_ratio, cells.seed, strict=True)]
    return cells


GRID = table(
    [
        *[("fp32", 0.0, s, 0.96 + s / 100, 16) for s in range(3)],
        *[("fp32", 0.5, s, 0.95 + s / 100, 8) for s in range(3)],
        *[("int4", 0.0, s, 0.94 + s / 100, 2) for s in range(3)],
        *[("int4", 0.5, s, 0.90 + s / 100 + (s == 1) * 0.003, 1) for s in range(3)],
    ]
)


def test_operating_points():
    rows = [("fp32", 0.0, s, a, 1 + s) for s, a in enumerate((0.9, 0.7, 0.8, 0.8))] + [("int4", 0.0, 0, 0.6, 9)]
    cells = table(rows)
    cells.loc[len(cells)] = {**cells.iloc[0], "seed": 9, "status": "failed", "val_accuracy": None}
    points = operating_points(cells)
    assert points.seeds.tolist() == [4, 1]
    assert points.val_accuracy.tolist() == pytest.approx([0.8, 0.6])
    assert points.val_accuracy_sd[0] == pytest.approx(np.std([0.9, 0.7, 0.8, 0.8], ddof=1)) and np.isnan(
        points.val_accuracy_sd[1]
    )
    assert points.bit_gflops_sd[0] == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert points.cell.tolist() == ["fp32-0.0-2", "int4-0.0-0"]  # of 0.7 0.8 0.8 0.9 the first 0.8


def test_operating_points_of_nothing():
    cells = table([("fp32", 0.0, 0, 0.9, 1)]).assign(status="pending")
    assert operating_points(cells).empty and front_cells(cells) == set()


def test_front_cells_are_all_seeds_of_the_points_on_the_front():
    worse = table([("int8", 0.0, s, 0.5, 20) for s in range(3)])
    assert front_cells(pd.concat([GRID, worse], ignore_index=True)) == set(GRID.cell)


def test_drops_and_interactions_by_hand():
    found = {(one.precision, one.ratio): one.drop for one in drops(GRID)}
    assert found["int4", 0.0].mean == pytest.approx(0.02) and found["int4", 0.0].high == pytest.approx(0.02)
    (one,) = interactions(GRID)
    effects = [0.90 - 0.95 - 0.94 + 0.96 + extra for extra in (0, 0.003, 0)]
    assert (one.precision, one.ratio, one.effect.n) == ("int4", 0.5, 3)
    assert one.effect.mean == pytest.approx(np.mean(effects))
    half = 4.302652729749464 * np.std(effects, ddof=1) / math.sqrt(3)
    assert one.effect.high == pytest.approx(np.mean(effects) + half)


def test_interaction_pairs_by_seed():
    lacking = GRID[~((GRID.precision == "int4") & (GRID.pruning_ratio == 0) & (GRID.seed == 1))]
    (one,) = interactions(lacking)
    assert one.effect.n == 2 and one.effect.mean == pytest.approx(-0.03)
    assert interactions(GRID[GRID.pruning_ratio == 0]) == []


def test_largest_ratio():
    def drop(ratio, mean, low, high):
        return Drop("int4", ratio, Interval(mean, low, high, 3))

    four = [drop(0, 0, 0, 0), drop(0.5, 0.012, 0.005, 0.02), drop(0.25, 0.02, 0, 0.04), drop(0.75, 0.03, 0.009, 0.05)]
    bears = largest_ratio(four, 1.2)
    assert (bears.ratio, bears.low, bears.high) == (0.5, 0, 0.75)
    assert largest_ratio(four, 1.1).ratio == 0
    none = largest_ratio(four[1:], 0.5)
    assert none.ratio is None and none.drop.mean == 0.012
    single = [Drop("int4", 0.5, Interval(0.001, math.nan, math.nan, 1))]
    assert (largest_ratio(single, 1).ratio, largest_ratio(single, 1).low) == (0.5, None)


def test_best_at_cost_is_a_step_function():
    costs, accuracies = np.array([1.0, 2, 2, 4]), np.array([0.5, 0.7, 0.7, 0.6])
    assert [best_at_cost(costs, accuracies, limit) for limit in (0.99, 1, 1.99, 2, 100)] == [None, 0, 0, 1, 1]


def test_equal_cost():
    points = operating_points(GRID)
    rows = equal_cost(GRID, points)
    assert [row.limit for row in rows] == [2, 8]
    name = [
        (None if i is None else (points.precision[i], points.pruning_ratio[i]))
        for i in (rows[0].pruned, rows[1].pruned, rows[1].quantised, rows[1].both)
    ]
    assert name == [None, ("fp32", 0.5), ("int4", 0.0), ("int4", 0.5)]
    assert rows[0].difference.n == 0  # no overlap: nothing is said
    assert rows[1].difference.n == 3 and rows[1].difference.mean == pytest.approx(-0.01)


def test_hypervolumes_of_two_sweeps():
    cells = GRID.assign(gflops=16, relative_bops=GRID.bit_gflops / 16)
    better = cells.assign(sweep="better", val_accuracy=cells.val_accuracy + 0.01)
    both = hypervolumes(pd.concat([cells, better], ignore_index=True).assign(baseline_val_accuracy=0.97))
    assert both["better"].mean == pytest.approx(both["s"].mean + 4)  # a point of accuracy over all four octaves
    # seed 0: four octaves of 90 - 87 points, three of 94 - 90, one of 95 - 94; the dense one saves none
    alone = hypervolumes(cells[cells.seed == 0].assign(baseline_val_accuracy=0.97))
    assert alone["s"].mean == pytest.approx(4 * 3 + 3 * 4 + 1 * 1) and alone["s"].n == 1


# --- picks -----------------------------------------------------------------------------------------------------------

POINTS = operating_points(GRID)


def choices(points=POINTS):
    """Points of one cell each, which is as its point."""
    return Choices(points, points.assign(point=range(len(points))))


def chosen(prefer="most-accurate", cost="bit_gflops", points=POINTS, **limits):
    answer = pick(choices(points), Limits(**limits), prefer, cost)
    return None if answer.chosen is None else (points.precision[answer.chosen], points.pruning_ratio[answer.chosen])


def test_pick():
    assert chosen() == ("fp32", 0.0)
    assert chosen(largest={"bit_gflops": 8}) == ("fp32", 0.5)
    assert chosen(smallest={"val_accuracy": 0.92}, prefer="cheapest") == ("int4", 0.0)
    assert chosen("knee") == ("int4", 0.0)
    assert chosen("knee", largest={"bit_gflops": 2}) == ("int4", 0.0)  # two points have no knee: the most accurate
    assert pick(choices(), Limits({"bit_gflops": 2}), "knee").prefer == "most-accurate"
    answer = pick(choices(), Limits(), "cheapest")
    assert [POINTS.bit_gflops[i] for i in (answer.chosen, *answer.runners_up)] == [1, 2, 8, 16]
    assert chosen(largest={"bit_gflops": 0.5}) is None


def test_pick_breaks_ties_as_documented():
    points = POINTS.assign(
        val_accuracy=0.9, bit_gflops=[3, 2, 2, 2], weight_bytes=[1, 5, 4, 4], pruning_ratio=[0, 0, 0.5, 0.25]
    )
    for prefer in ("most-accurate", "cheapest"):
        answer = pick(choices(points), Limits(), prefer)
        assert [answer.chosen, *answer.runners_up] == [3, 2, 1, 0]


def test_nothing_fits():
    limits = Limits({"bit_gflops": 1.5}, {"val_accuracy": 0.94})
    assert nearest_points(choices(), limits)[0] == 3  # 0.29 of 10 points short; int4 unpruned is 0.42 octaves too dear
    prices = price_of_limits(choices(), limits, "most-accurate", "bit_gflops")
    chosen = {text: one.chosen for text, one in prices.items()}
    assert chosen == {"--max bit_gflops=1.5": 0, "--min val_accuracy=0.94": 3}


def test_limits_are_read():
    limits = parse_limits(["bit_gflops=0.5", "weight_bytes = 200k"], ["accuracy=95%"], POINTS)
    assert limits == Limits({"bit_gflops": 0.5, "weight_bytes": 200_000}, {"val_accuracy": 0.95})


@pytest.mark.parametrize(
    "largest, smallest, said",
    [
        (["bit_glops=1"], [], "did you mean 'bit_gflops'"),
        (["bit_gflops"], [], "COLUMN=NUMBER"),
        (["bit_gflops=many"], [], "COLUMN=NUMBER"),
        (["bit_gflops=1e"], [], "COLUMN=NUMBER"),
        (["val_accuracy=0.9"], [], "limited by --min"),
        ([], ["bit_gflops=0.9"], "limited by --max"),
        ([], ["val_accuracy=95"], "95%"),
        ([], ["test_accuracy=0.9"], "by validation"),
        (["test_loss=1"], [], "by validation"),
        (["latency_ms=1"], [], "qprune bench"),
    ],
)
def test_bad_limits_are_refused(largest, smallest, said):
    with pytest.raises(UserError, match=said):
        parse_limits(largest, smallest, POINTS)


def test_notebook(tmp_path):
    folder = make_sweep(tmp_path)
    sweep = qprune.load(folder)
    assert len(sweep.cells) == 60 and len(sweep.points) == 20
    front = sweep.front(cost="weight_bytes")
    assert front.weight_bytes.is_monotonic_increasing and front.val_accuracy.is_monotonic_increasing
    best = sweep.pick(max={"bit_gflops": 0.05}, min={"val_accuracy": 0.5}, prefer="cheapest")
    assert best.bit_gflops == sweep.points.bit_gflops.min()
    assert sweep.pick(max={"bit_gflops": 1e-9}) is None
    figure = sweep.figure()
    assert sum(len(trace.x) for trace in figure.data if trace.mode == "markers") == 20
    with pytest.raises(UserError, match="bit_gflops"):
        sweep.front(cost="bit_glops")
    assert "60 done" in repr(sweep)


def test_latency_joins_the_cells(tmp_path):
    folder = make_sweep(tmp_path)
    from qprune.deploy.latency import COLUMNS

    cell = read_measured(folder).cell[0]
    row = dict.fromkeys(COLUMNS) | {"cell": cell, "runtime": "onnxruntime", "batch": 1, "threads": 1}
    pd.DataFrame([row | {"latency_ms": 0.25, "speedup": 3.0}], columns=list(COLUMNS)).to_csv(
        folder / "latency.csv", index=False
    )
    points = qprune.load(folder).points
    assert points.latency_ms.dropna().tolist() == [0.25] and points.speedup.dropna().tolist() == [3.0]


def test_no_cell_that_is_handed_over_breaks_a_limit_on_costs(tmp_path):
    """200 random limits on costs that vary by seed, against all cells one by one."""
    folder, draws = make_sweep(tmp_path, curves=False), np.random.default_rng(0)
    cells = read_measured(folder)
    columns = ["bit_gflops", "weight_bytes", "peak_activation_bytes"]
    for column in columns:
        cells[column] *= draws.uniform(0.8, 1.2, len(cells))
    asked, others = choices_of(cells, folder, None, None), 0
    names = asked.cells.cell.tolist()
    own: dict = {}  # (precision, ratio) -> its cells
    for cell in cells.to_dict("records"):
        own.setdefault((cell["precision"], cell["pruning_ratio"]), []).append(cell)
    points = list(zip(asked.points.precision, asked.points.pruning_ratio, asked.points.cell, strict=True))
    for _ in range(200):
        limits = {column: draws.choice(cells[column]) for column in draws.choice(columns, 2, replace=False)}
        picked = pick(asked, Limits(limits))
        for place, (precision, ratio, median) in enumerate(points):
            some, found = own[precision, ratio], picked.cells[place]
            keeping = {one["cell"] for one in some if all(one[column] <= limit for column, limit in limits.items())}
            assert (found < 0) == (not keeping)
            if keeping:
                assert names[found] in keeping and (names[found] == median or median not in keeping)
                others += names[found] != median
            means = all(np.mean([one[column] for one in some]) <= limit for column, limit in limits.items())
            assert (place in picked.mean_only) == (means and not keeping)
        assert picked.chosen is None or picked.cells[picked.chosen] >= 0
    assert others
