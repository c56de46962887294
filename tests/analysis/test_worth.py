"""Pruned networks against narrower ones: hypervolumes and octaves by hand."""

import math

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from qprune.analysis.answers import WORTH, answers
from qprune.analysis.statistics import holm, paired_p
from qprune.analysis.worth import NOT_COMPARED, NOT_RUN, baselines_beside, headline, octave_verdict, worth

HALF = 4.302652729911275 / 3**0.5  # Student's t of 2 degrees of freedom over 3 seeds, sd 1


def cells_of(rows, protocol="early"):
    columns = ["method", "criterion", "precision", "pruning_ratio", "seed", "val_accuracy", "accuracy", "bit_gflops"]
    cells = pd.DataFrame(rows, columns=columns)
    cells["cell"] = [f"c{row}" for row in range(len(cells))]
    fixed = {"sweep": "s", "model": "m", "data": "d", "status": "done", "protocol": protocol, "dense_accuracy": 0.9}
    losses = {"val_loss": 0.1, "test_loss": 0.1, "updates_dense": 5, "total_updates": 9, "dense_val_accuracy": 0.9}
    cells = cells.assign(**fixed, **losses, relative_bops=cells.bit_gflops, achieved_ratio=cells.pruning_ratio)
    return cells.assign(baseline_val_accuracy=0.9, baseline_accuracy=0.9)


def both(protocol="early"):
    """Dense: 1 GFLOP at 90%. Pruned has 1/4 of it at 85% (test 86%), narrower 1/2 at 85 to 87% (test) and 1/8 at 82%."""
    rows = []
    for seed in range(3):
        rows.append(("prune_first", "taylor", "fp32", 0.0, seed, 0.9, 0.9, 1.0))
        rows.append(("prune_first", "taylor", "fp32", 0.5, seed, 0.85, 0.86, 0.25))
        rows.append(("prune_first", "taylor", "fp32", 0.6, seed, 0.84, 0.99, 0.26))  # dominated by validation
        rows.append(("narrower", "none", "fp32", 0.5, seed, 0.85, 0.85 + seed / 100, 0.5))
        rows.append(("narrower", "none", "fp32", 0.9, seed, 0.82, 0.82, 0.125))
    return cells_of(rows, protocol)


def compare(cells):
    pruned = cells[cells.method == "prune_first"]
    return worth(pruned, baselines_beside(cells, {"sweep": "s", "model": "m", "data": "d", "criterion": "taylor"}))


def test_hypervolume_by_hand():
    """Above 80%, down to 1/4 GFLOP, which both reach: pruned 2 octaves x 6 points, narrower 1 x 5, 6, 7 and 1 x 2."""
    (one,) = compare(both())
    assert (one.baseline, one.equal, one.restarted) == ("narrower", "updates", False)
    assert one.test.mean == pytest.approx(12 - (6 + 2))
    assert (one.test.low, one.test.high) == pytest.approx((4 - HALF, 4 + HALF))
    assert one.validation.mean == pytest.approx(10 - (5 + 2))
    assert "shown better than narrower networks from random weights by 4.0 [+1.5, +6.5]" in headline(one)
    assert "trained before" in headline(compare(both("restart"))[0])


def test_fronts_that_come_nowhere_near_the_baseline_are_no_draw():
    cells = both()
    cells["baseline_accuracy"] = 1.2
    (one,) = compare(cells)
    assert one.test.mean == 0
    assert "nothing can be said" in headline(one) and "within 10 percentage points" in headline(one)


def test_octaves_are_steps_and_never_extrapolated():
    (one,) = compare(both())
    rows = {row.octaves: row for row in one.octaves}
    assert octave_verdict(rows[0]) == "the same network"
    assert (rows[1].pruned, rows[1].other) == (0.5, 0.5)  # the best at half of the cost
    assert rows[1].test.mean == pytest.approx(0.86 - 0.86) and octave_verdict(rows[1]) == "no difference shown"
    assert (rows[2].pruned, rows[2].other) == (0.5, 0.9) and rows[2].test.mean == pytest.approx(0.04)
    assert rows[3].pruned is None and rows[3].other == 0.9 and octave_verdict(rows[3]) == "no overlap"
    assert math.isnan(rows[3].p) and max(rows) == 3


def test_an_octave_without_a_point_is_no_comparison_of_its_own():
    """The pair at 1/32 is the best of 1/2 to 1/16, too: once in the table, and once for Holm's method. It costs 1/32 on average."""
    rows = []
    for seed, cost in enumerate((0.8 / 32, 1.0 / 32, 1.2 / 32)):
        rows.append(("prune_first", "taylor", "fp32", 0.0, seed, 0.9, 0.9, 1.0))
        rows.append(("prune_first", "taylor", "fp32", 0.9, seed, 0.85, 0.85 + seed / 100, cost))
        rows.append(("narrower", "none", "fp32", 0.9, seed, 0.84, 0.84, 1 / 32))
    cells = cells_of(rows)
    (one,) = compare(cells)
    assert [(row.octaves, row.pruned, row.other) for row in one.octaves] == [(0, 0.0, 0.0), (5, 0.9, 0.9)]
    assert one.octaves[1].p == pytest.approx(ttest_rel([0.85, 0.86, 0.87], [0.84] * 3).pvalue)


def test_p_values_are_scipys_and_holms():
    these, those = [0.9, 0.8, 0.85, 0.7], [0.8, 0.75, 0.7, 0.72]
    expected = ttest_rel(these, those).pvalue
    assert paired_p([a - b for a, b in zip(these, those, strict=True)]) == pytest.approx(expected)
    assert math.isnan(paired_p([0.1])) and math.isnan(paired_p([0.1, 0.1]))
    assert math.isnan(paired_p([0.9 - 0.8, 0.8 - 0.7, 0.1]))  # equal but for rounding
    adjusted = holm([0.04, math.nan, 0.01, 0.03])
    assert [adjusted[0], *adjusted[2:]] == pytest.approx([0.06, 0.03, 0.06]) and math.isnan(adjusted[1])


def test_a_seed_that_one_lacks_counts_for_neither():
    cells = both()
    (one,) = compare(cells[~((cells.method == "narrower") & (cells.seed == 2))])
    assert one.test.n == 2
    assert one.test.mean == pytest.approx(12 - (5.5 + 2))


def test_the_answer_says_how_to_have_a_baseline():
    cells = both()
    found = [one for one in answers(cells) if one.question == WORTH]
    assert len(found) == 1 and "At equal updates" in found[0].sentence and len(found[0].rows) == 4
    (alone,) = [one for one in answers(cells[cells.method == "prune_first"]) if one.question == WORTH]
    assert alone.sentence == NOT_RUN


@pytest.mark.parametrize("column, value", [("status", "failed"), ("seed", 7)])
def test_a_baseline_that_is_there_is_not_said_to_be_missing(column, value):
    """Its cells failed or are of other seeds: to ask for baselines once more would not help."""
    cells = both()
    cells.loc[cells.method == "narrower", column] = value
    (said,) = [one for one in answers(cells) if one.question == WORTH]
    assert said.sentence == NOT_COMPARED and not said.rows


def test_a_network_that_has_not_decayed_is_no_baseline():
    """Question E is asked under classic; under early, nothing is read out of the network after N."""
    early, classic = both(), both("classic")
    for cells, said in ((early, True), (classic, False)):
        cells = cells.assign(dense_val_accuracy=0.8, dense_accuracy=0.8)
        (fair,) = [one for one in answers(cells) if one.question.startswith("What does the unpruned")]
        assert ("Under protocol early the network after N has not decayed yet" in fair.sentence) == said


def test_what_a_search_has_left_out_gives_no_verdict():
    """Neither side's own front is known: of 5 points, the search skipped the second seed and the third of one."""
    for method, ratio in (("narrower", 0.9), ("prune_first", 0.5)):
        cells = both()
        left = (cells.method == method) & (cells.pruning_ratio == ratio) & (cells.seed > 0)
        cells.loc[left, "status"] = "skipped"
        cells.loc[left, ["val_accuracy", "accuracy", "bit_gflops"]] = None
        (found,) = [one for one in answers(cells) if one.question == WORTH]
        assert found.sentence.startswith("At equal updates, nothing can be said of pruning against narrower networks")
        assert "has skipped 1 of their 5 points" in found.sentence and found.rows == []
    cells = both()
    cells.loc[cells.method == "narrower", "status"] = "skipped"
    (found,) = [one for one in answers(cells) if one.question == WORTH]
    assert "has skipped 2 of their 5 points" in found.sentence and found.sentence != NOT_RUN


def test_each_baseline_has_its_comparison_and_none_has_a_study():
    cells = both()
    longer = cells[cells.method == "narrower"].assign(method="narrower.flops", accuracy=0.7)
    shaped = cells[cells.method == "narrower"].assign(method="same_shape", criterion="taylor")
    alien = shaped.assign(criterion="random")
    together = pd.concat([cells, longer, shaped, alien], ignore_index=True)
    found = {one.baseline: one for one in compare(together)}
    assert list(found) == ["narrower", "narrower.flops", "same_shape"]
    assert found["narrower.flops"].equal == "flops" and "equal training FLOPs" in headline(found["narrower.flops"])
    assert found["same_shape"].test.n == 3
    assert {one.group for one in answers(together)} == {"s: m on d, taylor"}
