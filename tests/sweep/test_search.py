"""The search for the front: on made-up outcomes whose front is known, with failures, interrupted; and a real run."""

import dataclasses
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_sweep import command, run_inline, tiny_config

from qprune.analysis.front import hypervolume, operating_points
from qprune.precision import PRECISIONS
from qprune.report.build import report_data
from qprune.settings.config import load_config
from qprune.storage.results import read_cells
from qprune.sweep.plan import make_plan
from qprune.sweep.search import Search, foretell, hypervolume_gains, next_cells

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from adaptive import outcomes_of, replay, stages_of  # noqa: E402

GRID = (
    "seeds=[0,1,2]",
    "prune.ratios=[0,0.2,0.4,0.6,0.8]",
    "precisions=[fp32,fp16,w8a8,w6a6,int4,w3a3,w2a2]",
    "order=[prune_first,quantize_first]",
)
TWO = ("seeds=[0,1]", "prune.ratios=[0,0.5]", "precisions=[fp32,int4,w2a2]", "strategy=front")


def made_outcomes(plan, noise: float = 0.002) -> dict:
    """Accuracy falls with ratio and width, and 2 points more with quantize_first; costs as the bits' product has it."""
    outcomes = {}
    for cell in plan.cells:
        bits = PRECISIONS.get(cell.precision).bits[0]
        draw = random.Random(cell.stages["evaluate"]).gauss(0, noise)
        lost = 0.2 * 2**-bits + 0.05 * cell.ratio**4 + 0.02 * (cell.method == "quantize_first")
        cost = (bits / 32) ** 2 * (1 - cell.ratio) ** 1.6
        outcomes[cell.stages["evaluate"]] = (0.95 - lost + draw, cost)
        outcomes.setdefault(cell.baseline, (0.95, 1.0))
    return outcomes


def points_of(plan, outcomes, cells) -> dict[tuple, tuple[float, float]]:
    """(log2 cost, accuracy) of the points all of whose seeds are among the cells: means over seeds."""
    groups: dict[tuple, list] = {}
    for cell in plan.cells:
        groups.setdefault((cell.criterion, cell.method, cell.precision, cell.ratio), []).append(cell)
    return {
        key: (
            np.mean([np.log2(outcomes[cell.stages["evaluate"]][1]) for cell in group]),
            np.mean([outcomes[cell.stages["evaluate"]][0] for cell in group]),
        )
        for key, group in groups.items()
        if all(cell.id in cells and outcomes[cell.stages["evaluate"]] for cell in group)
    }


def volume(points) -> float:
    values = np.array(list(points.values()))
    return hypervolume(2 ** values[:, 0], values[:, 1], 1.0, 0.85)


def grid(tmp_path, *overrides):
    return make_plan(tiny_config(tmp_path, *GRID, *overrides))


def asked_of(plan, outcomes) -> set[str]:
    search = Search(plan)
    assert search.advance(outcomes) == []
    return search.asked


def test_gains_are_differences_of_hypervolumes():
    draws = np.random.default_rng(0)
    for size in (0, 1, 2, 7, 30):
        known = np.column_stack([draws.uniform(-8, 1, size), draws.uniform(-0.2, 0.02, size)])
        points = np.column_stack([draws.uniform(-9, 1, 40), draws.uniform(-0.2, 0.03, 40)])

        def volume(values):
            return hypervolume(2.0 ** values[:, 0], values[:, 1], 1.0, -0.1) if len(values) else 0.0

        expected = [volume(np.vstack([known, point])) - volume(known) for point in points]
        assert np.allclose(hypervolume_gains(known, points), expected, atol=1e-12) and max(expected) > 0


def test_what_is_known_is_foretold(tmp_path):
    plan = grid(tmp_path)
    study = Search(plan).studies[0]
    known, values = study.points[:10], np.column_stack([-np.arange(10.0), -0.01 * np.arange(10)])
    far = foretell(known[:1], values[:1], study.points)
    near = foretell(known, np.column_stack([far[0][:10, 0], far[0][:10, 1]]), known)
    assert np.abs(near[0] - far[0][:10]).max() < 1e-9  # outcomes as they were expected change nothing
    assert (near[1][:, 1] >= near[0][:, 1] - 0.01).all() and (near[1][:, 0] == near[0][:, 0]).all()


@pytest.mark.parametrize("seeds", ["[0]", "[0,1]", "[0,1,2]"])
def test_most_of_the_front_for_a_share_of_the_updates(tmp_path, seeds):
    """The whole grid's points, one by one, are the truth."""
    plan = grid(tmp_path, f"seeds={seeds}")
    outcomes = made_outcomes(plan)
    asked = asked_of(plan, outcomes)
    whole, found = (points_of(plan, outcomes, cells) for cells in ({cell.id for cell in plan.cells}, asked))
    assert volume(found) >= 0.95 * volume(whole)
    spent, all_ = (
        sum(plan.stages[name].updates for name in stages_of(plan, cells))
        for cells in (asked, {cell.id for cell in plan.cells})
    )
    assert spent < all_ / 2
    order = {cell.id: cell.method for cell in plan.cells}
    assert [order[cell] for cell in asked].count("quantize_first") < len(asked) / 3  # which is never better here


# (validation accuracy, bit_gflops x 10^6) at ratios 0, 0.25, 0.5, 0.75 and 0.9, as the quickstart sweep measured them
QUICKSTART = {
    "fp32": ((0.9951, 1199), (0.9951, 669.7), (0.9951, 304.8), (0.9951, 75.83), (0.9617, 15.24)),
    "fp16": ((0.9951, 299.8), (0.9963, 167.4), (0.9951, 76.19), (0.9951, 18.96), (0.9617, 3.810)),
    "int8": ((0.9951, 74.96), (0.9951, 41.86), (0.9951, 19.05), (0.9951, 4.739), (0.9642, 0.9525)),
    "int4": ((0.9963, 19.66), (0.9938, 11.16), (0.9951, 5.224), (0.9938, 1.415), (0.9617, 0.3518)),
}


def test_baselines_that_take_much_of_the_grid_do_not_end_the_search(tmp_path):
    """Under the early protocol the unpruned FP32 networks alone, which no choice of cells saves, take 18% of the updates."""
    sweeps = Path(__file__).parents[2] / "sweeps"
    plan = make_plan(load_config(sweeps / "quickstart.yaml", ["baselines=[]"]))
    outcomes = {}
    for cell in plan.cells:
        outcomes[cell.stages["evaluate"]] = QUICKSTART[cell.precision][(0, 0.25, 0.5, 0.75, 0.9).index(cell.ratio)]
    baselines = plan.updates_of(plan.needed_by(cell.baseline for cell in plan.cells))
    all_ = plan.updates_of(plan.stages)
    assert baselines / all_ == pytest.approx(3 * 768 / 12_705)
    asked = asked_of(plan, outcomes)
    whole, found = (points_of(plan, outcomes, cells) for cells in ({cell.id for cell in plan.cells}, asked))
    volumes = [
        hypervolume(*np.array([(2**cost, value) for cost, value in points.values()]).T, 1199, 0.8951)
        for points in (whole, found)
    ]
    assert volumes[1] >= 0.98 * volumes[0]
    assert plan.updates_of(stages_of(plan, asked)) < 0.6 * all_


@pytest.mark.long
def test_the_same_way_however_it_is_interrupted(tmp_path):
    """In every order of arrival and one at a time, and by a search that starts over each time."""
    plan = grid(tmp_path)
    outcomes = made_outcomes(plan)
    whole = asked_of(plan, outcomes)
    for start in range(3):
        draws, known = random.Random(start), {}
        while cells := next_cells(plan, known):
            one = draws.choice(cells)
            known |= {stage: outcomes[stage] for stage in (one.stages["evaluate"], one.baseline)}
        cells = [cell for cell in plan.cells if cell.id in whole]
        assert known.keys() == {stage for cell in cells for stage in (cell.stages["evaluate"], cell.baseline)}


def test_outcomes_that_were_not_asked_for_change_nothing(tmp_path):
    plan = grid(tmp_path)
    outcomes = made_outcomes(plan)
    asked = asked_of(plan, outcomes)
    few = {
        stage: outcomes[stage]
        for cell in plan.cells
        if cell.id in asked
        for stage in (cell.stages["evaluate"], cell.baseline)
    }
    assert asked_of(plan, few) == asked


@pytest.mark.parametrize("what", ["some", "first seed", "baselines", "all"])
def test_failures_do_not_stop_it(tmp_path, what):
    plan = grid(tmp_path)
    outcomes = made_outcomes(plan)
    lost = {
        "some": lambda cell: cell.precision == "w2a2" or (cell.ratio == 0.6 and cell.seed == 1),
        "first seed": lambda cell: cell.seed == 0,
        "baselines": lambda cell: cell.stages["evaluate"] == cell.baseline,
        "all": lambda cell: True,
    }[what]
    for cell in plan.cells:
        if lost(cell):
            outcomes[cell.stages["evaluate"]] = None
            if cell.seed == 0 and what == "first seed":
                outcomes[cell.baseline] = None
    asked = asked_of(plan, outcomes)
    done = {cell.id for cell in plan.cells if cell.id in asked and outcomes[cell.stages["evaluate"]]}
    if what == "all":
        assert len(asked) == len(plan.cells)  # each was tried
        return
    assert len({cell.precision for cell in plan.cells if cell.id in done}) > 2
    assert {cell.seed for cell in plan.cells if cell.id in done} == ({1, 2} if what == "first seed" else {0, 1, 2})


@pytest.mark.parametrize(
    "overrides",
    [
        ("prune.ratios=[0]",),
        ("precisions=[fp32]",),
        ("precisions=[w2a2]", "prune.ratios=[0.8]"),
        ("precisions=[fp32]", "prune.ratios=[0]"),
        ("prune.criterion=[taylor,activation]",),
    ],
)
def test_grids_of_few_axes(tmp_path, overrides):
    """Each ends, with a point that all seeds have."""
    plan = grid(tmp_path, *overrides)
    outcomes = made_outcomes(plan)
    asked = asked_of(plan, outcomes)
    assert points_of(plan, outcomes, asked)
    if "prune.ratios=[0]" in overrides and len(overrides) == 2:
        assert len({cell.seed for cell in plan.cells if cell.id in asked}) == 3


def test_nothing_worth_having_still_gives_a_point(tmp_path):
    plan = grid(tmp_path, "precisions=[w2a2]", "prune.ratios=[0.6,0.8]", "order=prune_first")
    outcomes = {stage: (0.95, 1.0) for stage in {cell.baseline for cell in plan.cells}}
    outcomes |= {cell.stages["evaluate"]: (0.2 - cell.ratio / 100, 0.001) for cell in plan.cells}
    assert ("taylor", "prune_first", "w2a2", 0.6) in points_of(plan, outcomes, asked_of(plan, outcomes))


def test_two_studies_are_searched_apart(tmp_path):
    both = grid(tmp_path, "model=[vgg_tiny,vgg_small]")
    outcomes = made_outcomes(both)
    asked = asked_of(both, outcomes)
    for model in ("vgg_tiny", "vgg_small"):
        alone = dataclasses.replace(both, cells=tuple(cell for cell in both.cells if cell.model == model))
        assert asked_of(alone, outcomes) == {cell.id for cell in alone.cells if cell.id in asked}


# Real runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run: its folder, plan, stages computed, what it printed, its table."""
    folder = tmp_path_factory.mktemp("front")
    config = tiny_config(folder, *TWO)
    code, computed, text = run_inline(config, folder / "results")
    assert code == 0
    return folder, make_plan(config), computed, text, read_cells(folder / "results/tiny")


def test_a_real_run_computes_what_the_replay_says(run, tmp_path):
    """The replay goes by a full grid's table; the run had no such table."""
    folder, plan, computed, _, _ = run
    assert run_inline(tiny_config(tmp_path, *TWO, "strategy=grid"), tmp_path / "results")[0] == 0
    full = read_cells(tmp_path / "results/tiny")
    asked = replay(plan, full)
    assert set(computed) == stages_of(plan, asked) and len(computed) == len(set(computed))
    assert outcomes_of(plan, full).keys() >= {cell.stages["evaluate"] for cell in plan.cells}


def test_what_was_left_out_is_told(run):
    folder, plan, computed, text, cells = run
    counts = cells.status.value_counts().to_dict()
    assert set(counts) == {"done", "skipped"} and sum(counts.values()) == len(plan.cells)
    assert f"{counts['done']} of {len(plan.cells)} cells done, {counts['skipped']} skipped" in text
    points = operating_points(cells)
    assert len(points) and (points.seeds == 2).all()
    shown = report_data([folder / "results/tiny"])["counts"]
    assert shown == {"failed": 0, "pending": 0} | counts
    status = command("status", folder / "results/tiny", cwd=folder)
    assert f"{counts['done']} done, 0 failed, 0 pending, {counts['skipped']} skipped" in status.stdout
    told = command("plan", "tiny.yaml", *(part for each in TWO for part in ("--set", each)), cwd=folder)
    assert f"at most {len(plan.cells)} cells, {counts['done']} done" in told.stdout, told.stderr


def test_a_second_run_does_nothing_and_a_grid_fills_in(run):
    folder, plan, computed, _, cells = run
    assert run_inline(tiny_config(folder, *TWO), folder / "results")[1] == []
    assert read_cells(folder / "results/tiny").status.tolist() == cells.status.tolist()
    code, more, _ = run_inline(tiny_config(folder, *TWO, "strategy=grid"), folder / "results")
    assert code == 0 and not set(more) & set(computed)
    assert set(more) | set(computed) == set(plan.stages)
    assert set(read_cells(folder / "results/tiny").status) == {"done"}


@pytest.mark.parametrize("stop", [3, 7, 11])
def test_interrupted_it_goes_on_the_same_way(run, tmp_path, monkeypatch, stop):
    import tiny_sweep

    _, _, computed, _, cells = run
    made, start = [], tiny_sweep.Inline.start

    def interrupted(self, stage):
        if len(made) == stop:
            raise KeyboardInterrupt
        made.append(stage.id)
        start(self, stage)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_sweep.Inline, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_inline(tiny_config(tmp_path, *TWO), tmp_path / "results")
    assert set(read_cells(tmp_path / "results/tiny").status) <= {"done", "pending"}
    code, rest, _ = run_inline(tiny_config(tmp_path, *TWO), tmp_path / "results")
    assert code == 0 and sorted([*made, *rest]) == sorted(computed)
    assert read_cells(tmp_path / "results/tiny").status.tolist() == cells.status.tolist()


def test_the_key_is_checked(tmp_path):
    from qprune.registry.errors import UserError

    file = tmp_path / "sweep.yaml"
    file.write_text("name: a\ndata: digits\nmodel: vgg_tiny\nstrategy: fronts\n")
    with pytest.raises(UserError, match="sweep.yaml:4:1: strategy: unknown value 'fronts'; did you mean 'front'"):
        load_config(file)


def test_what_no_criterion_prunes_is_computed_and_no_part_of_the_search(tmp_path):
    for order, count in (("[prune_first,scratch]", 1), ("scratch", 1)):
        plan = make_plan(tiny_config(tmp_path, f"order={order}", "seeds=0", "precisions=[fp32,int4]"))
        beside = [cell for cell in plan.cells if cell.criterion == "none"]
        search, outcomes = Search(plan), {}
        asked = search.advance(outcomes)
        assert len(beside) == count and {cell.id for cell in beside} <= {cell.id for cell in asked}
        while asked:
            outcomes |= {stage: (0.9, 1.0) for cell in asked for stage in (cell.stages["evaluate"], cell.baseline)}
            asked = search.advance(outcomes)
        assert {cell.id for cell in beside} <= search.asked


def test_narrower_networks_are_points_of_the_search(tmp_path):
    """As a variant of their own: scouted where they promise something, and left where pruned ones have it already."""
    overrides = (
        "baselines=narrower",
        "prune.ratios=[0,0.25,0.5,0.75]",
        "precisions=[fp32,int8,int4]",
        "baseline_budget=[updates,flops]",
    )
    plan = make_plan(tiny_config(tmp_path, *overrides))
    narrow = [cell for cell in plan.cells if cell.method == "narrower"]
    assert len(narrow) == 3 * 3 * 2 * 2
    for worth, expected in ((0.02, True), (-0.3, False)):
        search, outcomes = Search(plan), {}
        asked = search.advance(outcomes)
        assert not search.studies[0].beside
        while asked:
            for cell in asked:
                cost = (
                    plan.facts["vgg_tiny", "digits"].dense_macs
                    * (1 - cell.ratio) ** 2
                    * {"fp32": 1, "int8": 1 / 16, "int4": 1 / 64}[cell.precision]
                )
                accuracy = 0.9 - 0.1 * cell.ratio**4 + (worth if cell.method == "narrower" else 0)
                outcomes[cell.stages["evaluate"]] = (accuracy, cost)
                outcomes.setdefault(cell.baseline, (0.9, plan.facts["vgg_tiny", "digits"].dense_macs))
            asked = search.advance(outcomes)
        confirmed = [cell for cell in narrow if cell.id in search.asked and cell.seed == 1]
        assert bool(confirmed) == expected
        assert len(search.asked) < len(plan.cells)
