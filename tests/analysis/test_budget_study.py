"""Fairness of updates, both orders, and the studies' answers in sentences, on cells whose answers are known."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from made_sweep import make_sweep
from tiny_sweep import command

from qprune.analysis.answers import answers, compare_answers
from qprune.analysis.front import front_cells, operating_points
from qprune.analysis.gains import Gains
from qprune.analysis.lambdas import chosen_lambdas, lambda_curve
from qprune.analysis.pick import choices_of, parse_limits, pick
from qprune.analysis.studies import budget, by_seed, criterion_means, hypervolumes, orders, references, studied_groups
from qprune.analysis.tables import accuracy_tables, markdown_table
from qprune.report.build import report_data
from qprune.report.cells import correct_in
from qprune.report.details import curve_tables
from qprune.report.pick_command import describe
from qprune.storage.results import read_cells
from qprune.storage.seal import sealed_json

T = 4.302652729749464  # Student's t of 97.5% with two degrees of freedom
COSTS = {"fp32": 16, "int4": 1}
# of seeds 0, 1 and 2: the same three values around each mean, in another order, so that pairing matters
DENSE, BASELINE, SCRATCH = [0.90, 0.91, 0.92], [0.93, 0.92, 0.94], [0.95, 0.94, 0.93]
ACCURACIES = {
    ("fp32", 0.0): BASELINE,
    ("fp32", 0.5): [0.92, 0.91, 0.93],  # 1 point under the baseline in each seed, but above the network after N
    ("int4", 0.0): [0.92, 0.92, 0.93],
    ("int4", 0.5): [0.86, 0.85, 0.87],
}


def cells_of(accuracies, method="prune_first", seeds=3, **columns):
    """Cells from (precision, ratio) -> validation accuracy of each seed; test accuracy is 5 points lower."""
    rows = []
    for (precision, ratio), values in accuracies.items():
        for seed, value in enumerate(values[:seeds]):
            row = {"sweep": "s", "model": "m", "data": "d", "criterion": "c", "method": method, "precision": precision}
            row |= {"pruning_ratio": ratio, "seed": seed, "status": "done", "val_accuracy": value}
            row |= {"accuracy": value - 0.05, "bit_gflops": COSTS[precision] * (1 - ratio), "weight_bytes": 1}
            for name, known in (("dense", DENSE), ("baseline", BASELINE)):
                row |= {f"{name}_val_accuracy": known[seed], f"{name}_accuracy": known[seed] - 0.05}
            row |= {"updates_dense": 100, "total_updates": 180} | columns
            rows.append(row | {"cell": f"{method}-{precision}-{ratio}-{seed}"})
    return pd.DataFrame(rows)


CELLS = cells_of(ACCURACIES)
FROM_SCRATCH = cells_of({("fp32", 0.0): SCRATCH}, "scratch", criterion="none", updates_dense=180)
ALL = pd.concat([CELLS, FROM_SCRATCH], ignore_index=True)
FIRST = {place: [value + 0.01 for value in values] for place, values in ACCURACIES.items()}
FIRST["int4", 0.5] = [0.88, 0.88, 0.88]  # 2, 3 and 1 points above
BOTH = pd.concat([CELLS, cells_of(FIRST, "quantize_first")], ignore_index=True)


def by_place(found):
    return {(one.precision, one.ratio): one for one in found}


def test_budget_by_hand():
    one = by_place(budget(CELLS, FROM_SCRATCH))["fp32", 0.5]
    apparent = np.array(DENSE) - ACCURACIES["fp32", 0.5]  # -2, 0 and -1 points: it seems to gain
    half = T * apparent.std(ddof=1) / math.sqrt(3)
    assert one.apparent.mean == pytest.approx(-0.01)
    assert (one.apparent.low, one.apparent.high) == pytest.approx((-0.01 - half, -0.01 + half))
    assert (one.fair.mean, one.fair.low, one.fair.high) == pytest.approx((0.01, 0.01, 0.01))
    assert one.scratch.mean == pytest.approx(0.02) and one.scratch.n == 3
    assert one.extra.mean == pytest.approx(0.02)
    for each in budget(CELLS, FROM_SCRATCH) + budget(CELLS, FROM_SCRATCH, "accuracy"):
        assert each.fair.mean - each.apparent.mean == pytest.approx(each.extra.mean)
    assert by_place(budget(CELLS, FROM_SCRATCH))["fp32", 0.0].fair.mean == 0


def test_budget_is_paired_by_seed():
    some = CELLS[~((CELLS.precision == "fp32") & (CELLS.pruning_ratio == 0.5) & (CELLS.seed == 2))]
    one = by_place(budget(some, FROM_SCRATCH[FROM_SCRATCH.seed > 0]))["fp32", 0.5]
    assert (one.scratch.mean, one.scratch.n) == (pytest.approx(SCRATCH[1] - 0.91), 1)
    assert (one.apparent.mean, one.apparent.n) == (pytest.approx(-0.01), 2)
    assert (one.extra.mean, one.extra.n) == (pytest.approx(0.02), 2)  # of the seeds that the place has
    unfinished = CELLS.assign(status=["done" if seed < 1 else "pending" for seed in CELLS.seed])
    one = by_place(budget(unfinished, FROM_SCRATCH))["fp32", 0.5]
    assert one.apparent.n == 1 and math.isnan(one.apparent.low)


def test_budget_without_the_later_columns():
    lacking, none = CELLS.drop(columns=["dense_val_accuracy"]), FROM_SCRATCH[:0]
    one = by_place(budget(lacking, none))["fp32", 0.5]
    assert (one.apparent.n, one.scratch.n, one.extra.n) == (0, 0, 0) and one.fair.n == 3
    assert by_place(budget(lacking, none, "accuracy"))["fp32", 0.5].apparent.n == 3
    assert list(references(lacking, none)) == ["baseline"]
    assert list(references(lacking, none, "accuracy")) == ["dense", "baseline"]


def test_references_are_one_value_per_seed():
    found = references(CELLS, FROM_SCRATCH)
    assert {name: values.tolist() for name, values in found.items()} == {
        "dense": DENSE, "baseline": BASELINE, "scratch": SCRATCH,
    }  # fmt: skip
    assert references(CELLS, FROM_SCRATCH, "accuracy")["scratch"] == pytest.approx([value - 0.05 for value in SCRATCH])


def test_from_scratch_are_held_against_their_own_sweep_model_and_data():
    other = FROM_SCRATCH.assign(val_accuracy=0.0)
    beside = [other.assign(**{name: "other"}) for name in ("sweep", "model", "data")]
    ((group, own, scratch),) = studied_groups(pd.concat([*beside, ALL], ignore_index=True))
    assert group == {"sweep": "s", "model": "m", "data": "d", "criterion": "c", "method": "prune_first"}
    assert list(own.cell) == list(CELLS.cell) and list(scratch.val_accuracy) == SCRATCH


def test_from_scratch_are_operating_points_without_studies(tmp_path):
    points = operating_points(ALL)
    assert len(points) == 5 and points.val_accuracy.iloc[-1] == pytest.approx(np.mean(SCRATCH))
    known = {name: ALL.bit_gflops for name in ("gflops", "linear_gflops")} | {"relative_bops": ALL.bit_gflops / 16}
    assert hypervolumes(ALL.assign(**known))["s"] == hypervolumes(CELLS.assign(**known))["s"]
    assert compare_answers(pd.concat([ALL, ALL.assign(sweep="t")])) == compare_answers(
        pd.concat([CELLS, CELLS.assign(sweep="t")])
    )
    *grids, line = accuracy_tables(ALL)
    (text,) = line.renderables
    assert len(grids) == 1
    assert str(text) == "m on d, scratch: test accuracy (%), mean ± sd over 3 seed(s): 89.0 ± 1.0"


@pytest.mark.parametrize("old", [False, True])
def test_from_scratch_of_tables_of_either_kind(tmp_path, old):
    """As rows, or as columns beside each cell, which are read as such rows."""
    folder = make_sweep(tmp_path, methods=("prune_first", "quantize_first"), scratch=True, old=old)
    names = (folder / "cells.csv").read_text().splitlines()[0].split(",")
    assert ("scratch_accuracy" in names) == ("order" in names) == ("quantization" not in names) == old
    cells = read_cells(folder)
    scratch = cells[cells.method == "scratch"]
    assert len(cells) == 123 and list(scratch.val_accuracy) == pytest.approx([0.98, 0.981, 0.982])
    assert list(scratch.cell) == [f"net-digits-scratch-fp32-r0.00-s{seed}" for seed in range(3)]
    dense = cells[(cells.precision == "fp32") & (cells.pruning_ratio == 0) & (cells.method == "prune_first")]
    assert list(scratch.bit_gflops) == pytest.approx(list(dense.bit_gflops))
    assert not any(name.startswith("scratch") for name in cells)
    found = answers(cells)
    assert {one.group for one in found} == {f"made: net on digits, taylor{name}" for name in ("", ", quantize_first")}
    values = cells[(cells.precision == "int4") & (cells.pruning_ratio == 0.75) & (cells.method == "prune_first")]
    change = 100 * np.mean(list(values.accuracy) - scratch.accuracy.to_numpy())
    fair = next(one for one in found if one.question.startswith("What does"))
    (row,) = [row for row in fair.rows if row[:2] == ("int4", "75%")]
    assert dict(zip(fair.head, row, strict=False)) and row[7].startswith(f"{change:+.2f} (")
    *grids, line = accuracy_tables(cells)
    assert len(grids) == 2 and [str(text) for text in line.renderables] == [
        "net on digits, scratch: test accuracy (%), mean ± sd over 3 seed(s): 99.1 ± 0.1"
    ]


def test_orders_by_hand():
    found = by_place(orders(BOTH))
    assert set(found) == set(ACCURACIES)
    effect = found["int4", 0.5].effect
    half = T * 0.01 / math.sqrt(3)
    assert (effect.mean, effect.low, effect.high) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    assert found["fp32", 0.5].effect.mean == pytest.approx(0.01)
    assert orders(CELLS) == [] and orders(BOTH[BOTH.method == "quantize_first"]) == []
    part = BOTH[~((BOTH.method == "prune_first") & (BOTH.seed == 1))]
    assert by_place(orders(part))["int4", 0.5].effect.mean == pytest.approx(0.015)


def test_orders_are_apart():
    points = operating_points(BOTH)
    assert len(points) == 8 and set(points.seeds) == {3}
    assert points.set_index(["method", "precision", "pruning_ratio"]).val_accuracy[
        "quantize_first", "int4", 0.5
    ] == pytest.approx(0.88)
    assert all(cell.startswith("quantize_first") for cell in front_cells(BOTH))  # the better at every cost
    titles = [str(table.renderables[0]) for table in accuracy_tables(BOTH)]
    assert [title.split(":")[0] for title in titles] == ["m on d, c", "m on d, c, quantize_first"]


def answer(found, start):
    (one,) = [one for one in found if one.question.startswith(start)]
    return one


def test_answers():
    found = answers(ALL)
    assert len(found) == 5 and {one.group for one in found} == {"s: m on d, c"}
    for one in found[1:]:  # the first says how to have a baseline
        assert one.rows and {len(row) for row in one.rows} == {len(one.head)}

    bears = answer(found, "How much")
    assert "within 1 percentage point of" in bears.sentence
    assert (
        "fp32 50% (95%: 50% to 50%; there validation -1.00 percentage points (95%: -1.00 to -1.00), test -1.00"
        in bears.sentence
    )
    assert "int4 0% (95%: none to 50%" not in bears.sentence  # 7 points are lost at 50%: its interval ends at 0%
    int4 = [0.01, 0.0, 0.01]
    half = T * np.std(int4, ddof=1) / math.sqrt(3)
    assert (
        f"int4 0% (95%: none to 0%; there validation -0.67 percentage points (95%: {-0.67 - 100 * half:.2f} to"
        in bears.sentence
    )
    assert [row[:2] for row in bears.rows] == [("fp32", "50%"), ("int4", "0%")]
    strict = answer(answers(ALL, percentage_points=0.5), "How much")
    assert "int4 none (its least loss is at 0%" in strict.sentence and "0.5 percentage points" in strict.sentence

    equal = answer(found, "At equal")  # int4 at 1, pruned fp32 at 8; at 1 there is no pruned one
    assert (
        equal.sentence.startswith("Of 1 costs") and "no difference is shown (largest: at 8 bit_gflops" in equal.sentence
    )
    assert [row[0] for row in equal.rows] == ["1", "8"]
    assert equal.rows[0][1] == "none that cheap" and equal.rows[0][-1] == "no overlap"
    assert equal.rows[1][1] == "fp32 50%: 92.00% (test 87.00%)"

    together = answer(found, "Do pruning")
    effects = [0.86 - 0.92 - 0.92 + 0.93, 0.85 - 0.91 - 0.92 + 0.92, 0.87 - 0.93 - 0.93 + 0.94]
    assert "at 1 both together lose more than the sum of both alone (largest: int4 at 50%" in together.sentence
    assert together.rows[0][2] == f"{100 * np.mean(effects):+.2f}" and together.rows[0][6] == "more than the sum"

    fair = answer(found, "What does")
    assert "M = 80 more updates" in fair.sentence and "N = 100" in fair.sentence
    assert "by +2.00 percentage points (95%: -0.48 to +4.48) in validation accuracy and +2.00" in fair.sentence
    assert "1 of 2 pruned points lose nothing against the network after N; 0 of these" in fair.sentence
    assert fair.sentence.endswith("and 0 against one trained from scratch for N + M.")


def test_answers_of_one_seed():
    found = answers(cells_of(ACCURACIES, seeds=1))
    assert (
        "fp32 50% (one seed; there validation -1.00 percentage points (one seed)" in answer(found, "How much").sentence
    )
    assert "one seed shows no interval" in answer(found, "At equal").sentence
    assert answer(found, "Do pruning").rows[0][6] == "one seed: can't say"
    assert "nan" not in " ".join(text for one in found for text in (one.sentence, *sum(one.rows, ())))


def test_answers_of_what_there_is():
    lacking = CELLS.drop(columns=["dense_val_accuracy"])
    fair = answer(answers(lacking), "What does").sentence
    assert "by +2.00 percentage points (95%: -0.48 to +4.48) in test accuracy. By mean test accuracy" in fair
    assert "scratch" not in fair
    quantised = answers(CELLS[CELLS.precision == "int4"])
    assert "no cost at which" in answer(quantised, "At equal").sentence
    assert "needs FP32" in answer(quantised, "Do pruning").sentence
    unpruned = answer(answers(CELLS[CELLS.pruning_ratio == 0]), "What does").sentence
    assert unpruned.endswith("test accuracy.")
    none = answers(CELLS.assign(baseline_accuracy=math.nan, baseline_val_accuracy=math.nan))
    assert "of fp32 nothing can be said" in answer(none, "How much").sentence
    assert answers(CELLS.assign(status="pending")) == []


def test_answer_on_both_orders():
    found = answers(BOTH)
    assert {one.group for one in found} == {"s: m on d, c", "s: m on d, c, quantize_first"}
    first = answer(found, "Prune first")
    assert first.sentence.startswith(
        "Of 4 points done by both, quantising first and pruning first: at 3 quantising first"
    )
    assert "at 1 no difference is shown (largest: int4 at 50%, validation +2.00 percentage points" in first.sentence
    assert [row[6] for row in first.rows] == ["quantising first"] * 3 + ["no difference shown"]


def test_answer_on_criteria():
    """Of the pruned points alone: unpruned networks are the same whatever the criterion."""
    cells = pd.concat([CELLS.assign(criterion="taylor"), cells_of(FIRST).assign(criterion="other")], ignore_index=True)
    found = answer(answers(cells), "Does another criterion")
    assert found.sentence.startswith(
        "other: Of 2 points done by both, other and taylor: at 1 other is the more accurate"
    )
    assert [row[:4] for row in found.rows] == [("other", "fp32", "50%", "+1.00"), ("other", "int4", "50%", "+2.00")]
    assert [row[7] for row in found.rows] == ["other", "no difference shown"]
    assert not any(one.question.startswith("Does another") for one in answers(CELLS))


def test_answer_on_sweeps():
    cells = pd.concat([CELLS, cells_of(FIRST, sweep="t"), cells_of(FIRST, sweep="u", model="n")], ignore_index=True)
    (found,) = compare_answers(cells)
    assert (found.group, found.question) == ("t: m on d, c", "t or s?") and len(found.rows) == 4
    assert found.rows[1][:5] == ("fp32", "50%", "+1.00", "+1.00 to +1.00", "+1.00")


def test_markdown_table():
    text = markdown_table(("a", "b|c"), [("longer", "1\n2")])
    assert text.splitlines() == ["| a      | b\\|c |", "| ------ | ---- |", "| longer | 1 2  |"]


# --- tables, records and pages ---------------------------------------------------------------------------------------


def test_older_tables_read_as_prune_first(tmp_path):
    old = read_cells(make_sweep(tmp_path / "old", old=True))
    new = read_cells(make_sweep(tmp_path / "new"))
    names = (tmp_path / "old" / "made" / "cells.csv").read_text().splitlines()[0].split(",")
    assert not {"order", "method", "quantization"} & set(names)
    assert set(old.method) == {"prune_first"}
    points = operating_points(old)
    assert points.equals(operating_points(new)[list(points.columns)])
    data = report_data([tmp_path / "old" / "made"])
    (group,) = data["groups"]
    studies = group["studies"]
    assert studies["orders"]["val_accuracy"]["ratio"] == []
    assert list(studies["budget"]["val_accuracy"]["lines"]) == ["baseline"]
    assert list(studies["budget"]["accuracy"]["lines"]) == ["dense", "baseline"]


def test_page_data_of_both_orders(tmp_path):
    folder = make_sweep(tmp_path, methods=("prune_first", "quantize_first"), scratch=True)
    data = report_data([folder])
    assert [group["method"] for group in data["groups"]] == ["prune_first", "quantize_first", "scratch"]
    first, second, scratch = (group["studies"] for group in data["groups"])
    assert scratch is None
    assert first["orders"] == second["orders"]
    assert len(first["orders"]["val_accuracy"]["ratio"]) == 20
    lines = first["budget"]["val_accuracy"]["lines"]
    assert lines["scratch"] == pytest.approx({"mean": 0.981, "sd": 0.001, "seeds": 3})
    assert lines["dense"] == pytest.approx({"mean": 0.97, "sd": 0, "seeds": 3})
    assert first["budget"]["updates"] == {"dense": 100, "total": 180}


def test_curves_of_both_methods_follow_each_other(tmp_path):
    """Dense N; two snapshots, then the rest of the path and fine-tuning; Q at the precision, first or last."""
    stages = {  # -> phase -> (its updates so far, where this stage's curve begins among them)
        "dense-1": {"dense": (100, 0)},
        "prune-x-00001": {"prune": (20, 0)},
        "prune-x-00002": {"prune": (30, 20)},
        "finetune-1": {"prune": (50, 30), "finetune": (20, 0)},
        "quantize-1": {"quantize": (10, 0)},
    }

    def starts(*line):
        before = None
        for stage in line:
            (tmp_path / stage).mkdir(exist_ok=True)
            phases = stages[stage]
            meta = {
                "updates": {phase: reached for phase, (reached, _) in phases.items()},
                "curves": {phase: [[first, 1.0], [first + 10, 0.5]] for phase, (_, first) in phases.items()},
                "continues": before,
            }
            (tmp_path / stage / "stage.json").write_bytes(sealed_json(meta))
            before = stage
        tables = curve_tables(tmp_path, [{"cell": "c", "stages": {"last": {"id": before}}}])
        return [(phase, tables["curves"][place]["at"]) for phase, place in tables["cells"][0]]

    dense, *pruned, quantized = stages
    walked = [("prune", 0), ("prune", 20), ("prune", 30), ("finetune", 50)]
    assert starts(dense, quantized, *pruned) == [
        ("dense", 0), ("quantize", 100), *((phase, 110 + at) for phase, at in walked)
    ]  # fmt: skip
    assert starts(dense, *pruned, quantized) == [
        ("dense", 0), *((phase, 100 + at) for phase, at in walked), ("quantize", 170)
    ]  # fmt: skip


def test_report_prints_answers(tmp_path):
    folder = make_sweep(tmp_path, methods=("prune_first", "quantize_first"), scratch=True)
    done = command("report", folder, "--answers", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("report:") and (folder / "report.html").is_file()
    heads = re.findall(r"^#+ .*", done.stdout, re.MULTILINE)
    assert heads.count("### At equal bit_gflops: prune or quantise?") == 2
    assert heads.count("### Prune first or quantise first?") == 1
    assert "## made: net on digits, taylor, quantize_first" in heads
    assert "| precision | largest ratio |" in done.stdout
    done = command("report", make_sweep(tmp_path / "pending", pending=60), "--answers", cwd=tmp_path)
    assert done.returncode == 2 and "no finished cell" in done.stderr and "Traceback" not in done.stderr


# Lambda ---------------------------------------------------------------------------------------------------------------


def lambdas_of(losses: dict, seeds=3, folds=2):
    """Rows of lambda.csv: (lambda, ratio) -> loss of seed 0; it is 0.1 more for each seed, 0.02 for each fold."""
    rows = []
    for seed in range(seeds):
        for fold in range(folds):
            for (weight, ratio), loss in losses.items():
                row = {"model": "m", "data": "d", "criterion": "c", "seed": seed, "chosen": 1.0, "lambda": weight}
                rows.append(row | {"ratio": ratio, "fold": fold, "loss": loss + 0.1 * seed + 0.02 * fold})
    return pd.DataFrame(rows)


LAMBDAS = lambdas_of({(0.0, 0.5): 1.0, (0.0, 0.9): 2.0, (1.0, 0.5): 0.8, (1.0, 0.9): 2.1})


def test_lambda_curve_by_hand():
    curve = {(one.weight, one.ratio): one for one in lambda_curve(LAMBDAS)}
    assert list(curve) == [(0.0, None), (1.0, None), (0.0, 0.5), (1.0, 0.5), (0.0, 0.9), (1.0, 0.9)]
    assert curve[0.0, None].loss.mean == pytest.approx(1.5 + 0.1 + 0.01)
    assert curve[1.0, None].gain.mean == pytest.approx(-0.05) and curve[1.0, 0.5].gain.mean == pytest.approx(-0.2)
    assert curve[1.0, None].gain.low == pytest.approx(-0.05)  # every seed gains alike
    assert curve[1.0, None].loss.high == pytest.approx(1.56 + T * 0.1 / math.sqrt(3))
    assert chosen_lambdas(LAMBDAS) == {0: 1.0, 1: 1.0, 2: 1.0}


def test_lambda_in_words():
    *_, answer = answers(CELLS, lambdas=LAMBDAS)
    assert answer.question == "Which lambda does cross-validation choose?"
    assert "chose lambda = 1 (seed 0), 1 (seed 1), 1 (seed 2)" in answer.sentence
    assert "least at lambda 1, -0.0500 (-0.0500 to -0.0500) against that of lambda 0" in answer.sentence
    assert answer.rows[0] == ("0", "1.6100", "+0.0000", "+0.0000 to +0.0000", "3")


# --- the order of the criteria ---------------------------------------------------------------------------------------


def test_criterion_means_take_what_all_have_done():
    one = cells_of({("fp32", 0.5): [0.9, 0.8, 0.7], ("int4", 0.5): [0.5, 0.4, 0.3]}, criterion="taylor")
    other = cells_of(
        {("fp32", 0.5): [0.8, 0.8], ("int4", 0.5): [0.1, 0.1], ("fp32", 0.7): [0.0, 0.0]}, criterion="random"
    )
    means = criterion_means(pd.concat([one, other], ignore_index=True))
    assert means == {"taylor": pytest.approx({0: 0.7, 1: 0.6}), "random": pytest.approx({0: 0.45, 1: 0.45})}


def test_answer_on_the_order_of_criteria():
    """Taylor is best on both sweeps; the others change places, which no seed settles."""
    accuracies = {
        "s": {"taylor": [0.90, 0.91, 0.92], "activation": [0.80, 0.82, 0.81], "random": [0.805, 0.80, 0.815]},
        "t": {"taylor": [0.70, 0.71, 0.70], "activation": [0.60, 0.62, 0.61], "random": [0.615, 0.61, 0.62]},
    }
    parts = [
        cells_of({("fp32", 0.5): values}, sweep=sweep, criterion=criterion, data=f"d{sweep}")
        for sweep, own in accuracies.items()
        for criterion, values in own.items()
    ]
    (found,) = compare_answers(pd.concat(parts, ignore_index=True))
    assert found.question == "Is the order of the criteria the same everywhere?"
    assert found.sentence.startswith("Not the same on all 2, by mean validation accuracy over all pruned points.")
    assert "Kendall's tau between two of them is 0.33 on average" in found.sentence
    assert "settle: 2 pairs of criteria, none of them both ways." in found.sentence
    assert [row[1] for row in found.rows] == [
        "taylor 91.00, activation 81.00, random 80.67",
        "taylor 70.33, random 61.50, activation 61.00",
    ]
    assert (
        "taylor over activation by +10.00 percentage points" in found.rows[0][2]
        and "activation over" not in found.rows[0][2]
    )
    (alone,) = [compare_answers(pd.concat(parts[:3] + [parts[0].assign(sweep="t")], ignore_index=True))]
    assert all("order of the criteria" not in one.question for one in alone)


def test_criteria_that_sweeps_do_not_share_have_no_order():
    pairs = {"s": ("taylor", "random"), "t": ("activation", "apoz")}
    cells = pd.concat([cells_of(FIRST, sweep=sweep, criterion=name) for sweep in pairs for name in pairs[sweep]])
    assert compare_answers(cells.reset_index(drop=True)) == []


def test_a_point_of_which_a_seed_was_skipped_is_none():
    cells = cells_of({("fp32", 0.5): [0.9, 0.8, 0.7], ("int4", 0.5): [0.99, 0.0, 0.0]}, criterion="taylor")
    cells.loc[(cells.precision == "int4") & (cells.seed > 0), "status"] = "skipped"
    assert list(operating_points(cells).precision) == ["fp32"]
    assert criterion_means(cells) == {"taylor": pytest.approx({0: 0.9, 1: 0.8, 2: 0.7})}
    assert [place for place in by_seed(cells, "val_accuracy")] == [("fp32", 0.5)]


def test_narrower_networks_are_points_that_no_study_and_no_factor_is_held_against(tmp_path):
    """Whatever a method is called: what no criterion prunes is in the table, and in no comparison of the grid's."""
    folder = make_sweep(tmp_path, methods=("prune_first", "quantize_first"), scratch=True)
    whole = read_cells(folder)
    narrow = whole[whole.method == "scratch"].assign(method="narrower.width_0.5")
    narrow = narrow.assign(cell=narrow.cell + "x", bit_gflops=narrow.bit_gflops / 8, updates_dense=170)
    both = pd.concat([narrow, whole], ignore_index=True)
    assert [(one.group, one.sentence) for one in answers(both)] == [(one.group, one.sentence) for one in answers(whole)]
    assert hypervolumes(both) == hypervolumes(whole)
    some = both[(both.precision != "fp32") | (both.pruning_ratio != 0) | (both.criterion == "none")]
    choices = choices_of(some, folder, None, None)
    limits, gains = parse_limits([], [], choices.points), Gains(some, correct_in(folder))
    described = describe(choices, limits, pick(choices, limits), "most-accurate", "bit_gflops", folder, gains, {})
    assert described["pick"] and described["baseline"] is None
