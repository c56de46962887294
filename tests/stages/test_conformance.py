"""What every kind of stage keeps to, and what follows from its phases; a kind of one's own needs its line alone."""

import dataclasses
import json
import pickle
from collections import Counter

import pandas as pd
import pytest
from tiny_sweep import F, Inline, N, P, Q, run_inline, tiny_config

from qprune.executors.base import run_stages
from qprune.methods import Made
from qprune.ranking.plan import make_rank_plan
from qprune.recipe import constant, seed_of
from qprune.registry import Entry
from qprune.registry.errors import UserError
from qprune.registry.identity import digest
from qprune.report.build import report_data
from qprune.settings.methods import METHODS, Method
from qprune.stages import KINDS, Phase, fold
from qprune.stages.base import TrainingStage, stage_input
from qprune.stages.work import recipe_of
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store
from qprune.sweep.forecast import forecast_seconds, measure
from qprune.sweep.plan import make_plan

EVERY_KIND = (
    "seeds=0", "precisions=[int4]", "order=[prune_first,quantize_first,scratch]", "baselines=narrower", "rank={oracle_images: 32, shares: 0.25, finetune_updates: 3}",
    "prune.criterion={name: taylor_activation, lambda: cv}", "rank.criteria=taylor",
)  # fmt: skip


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """(stages by id, store): one or more of each kind, computed."""
    folder = tmp_path_factory.mktemp("kinds")
    config = tiny_config(folder, *EVERY_KIND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "LAMBDAS", (0.0, 1.0))
        stages = {**make_plan(config).stages, **make_rank_plan(config).stages}
        store, failed = Store(folder / "stages"), []
        run_stages(stages, Inline(store.folder), store, lambda event: event.kind == "failed" and failed.append(event))
        assert not failed
        yield stages, store


@pytest.mark.parametrize("kind", KINDS.names())
def test_a_stage_says_what_it_was_named_by_and_leaves_what_it_says(every_kind, kind):
    stages, store = every_kind
    own = [stage for stage in stages.values() if stage.kind == kind]
    assert own
    for stage in own:
        meta = store.meta(stage.id)
        assert (
            meta["named_by"] == json.loads(json.dumps(stage.named_by)) and meta["named_by"]["version"] == stage.version
        )
        assert stage.id.startswith(f"{kind}-{digest(meta['named_by'])}")
        assert meta["label"] == stage.label and meta["continues"] == stage.continues
        assert set(meta["inputs"]) == set(stage.inputs)
        assert store.has_tensors(stage.id) == stage.keeps_tensors and stage.is_there(store)
        assert pickle.loads(pickle.dumps(stage)) == stage
        with pytest.raises(dataclasses.FrozenInstanceError):
            stage.label = "another"
        left_out = {field.name for field in dataclasses.fields(stage)} - set(meta["named_by"]["settings"])
        aside = {field.name for field in dataclasses.fields(stage) if field.metadata.get("aside")}
        later = {field.name for field in dataclasses.fields(stage) if "before" in field.metadata}
        assert aside <= left_out <= aside | later


@pytest.mark.parametrize("kind", KINDS.names())
def test_a_stage_makes_the_updates_of_its_phases(every_kind, kind):
    stages, store = every_kind
    for stage in stages.values():
        if stage.kind != kind or store.meta(stage.id).get("maps") == 0:  # a removal of no map measures nothing
            continue
        meta, planned = store.meta(stage.id), Counter()
        for phase in stage.phases:
            planned[phase.name] += phase.updates
        before = Counter(store.meta(stage.continues)["updates"] if stage.continues else {})
        made = {name: count - before[name] for name, count in meta["updates"].items()}
        assert {name: count for name, count in made.items() if count} == {n: c for n, c in planned.items() if c}
        assert sum(made.values()) == stage.updates
        for name, curve in meta["curves"].items():
            assert all(before[name] <= update < meta["updates"][name] for update, _ in curve)


def test_a_stage_that_is_named_by_something_else_has_another_id(every_kind):
    stages, _ = every_kind
    for stage in stages.values():
        for field in dataclasses.fields(stage):
            if field.metadata.get("aside") or not isinstance(value := getattr(stage, field.name), (int, float, str)):
                continue
            other = value + "x" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
            assert dataclasses.replace(stage, **{field.name: other}).id != stage.id, (stage.kind, field.name)
        assert dataclasses.replace(stage, label="another", trust=("a:b",)).id == stage.id


# A kind and a method of one's own ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settle(TrainingStage):
    """All updates after dense training, at one low rate: a phase that no other kind has."""

    kind = "settle"
    version = 1

    source: str = stage_input()
    budget: int

    @property
    def continues(self):
        return self.source

    @property
    def phases(self):
        return (Phase("settle", self.budget),)

    def compute(self, work):
        data, (spec, network) = work.data(self), work.load_fp32(self.source)
        seed, recipe = seed_of(self.seed, "settle"), recipe_of(self, data)
        work.partial.train("settle", network, data.train, recipe, range(self.budget), constant(1e-3), seed)
        return {"network": spec.to_json()}, network.eval().state_dict()


def settled(maker):
    dense = maker.dense()
    rest = maker.spending.total - dense.updates
    stage = maker.add(Settle(**maker.common, recipe=maker.recipe, source=dense.id, budget=rest, label="settle"))
    yield Made("fp32", 0.0, (dense, stage, maker.evaluated(stage, "fp32", 0.0)))


def twice(maker):
    dense, evaluated = maker.dense(), maker.evaluated(maker.dense(), "fp32", 0.0)
    yield Made("fp32", 0.0, (dense, dense, evaluated))


def unfair(maker):
    yield Made("fp32", 0.0, (maker.dense(), maker.evaluated(maker.dense(), "fp32", 0.0)))


@pytest.fixture
def made_up():
    with (
        KINDS.temporarily(Entry("settle", f"{__name__}:Settle")),
        METHODS.temporarily(
            *(Method(name, f"{__name__}:{name}", ranks=False) for name in ("settled", "twice", "unfair"))
        ),
    ):
        yield


def test_a_kind_and_a_method_of_ones_own(tmp_path, made_up):
    """By two lines: the sweep, its table, the forecast and the page know of them."""
    config = tiny_config(tmp_path, "seeds=0", "precisions=fp32", "prune.ratios=[0]", "order=[prune_first,settled]")
    code, computed, text = run_inline(config, tmp_path / "results")
    assert code == 0, text
    cells = read_cells(tmp_path / "results/tiny").set_index("method")
    row = cells.loc["settled"]
    assert row.cell == "vgg_tiny-digits-settled-fp32-r0.00-s0" and row.criterion == "none" and row.status == "done"
    assert (row.updates_dense, row.updates_settle, row.total_updates) == (N, F + Q, N + F + Q)
    assert row.total_updates == cells.total_updates["prune_first"] and pd.isna(cells.updates_settle["prune_first"])
    assert row.stage_settle in computed and pd.isna(cells.stage_settle["prune_first"])
    assert run_inline(config, tmp_path / "results")[1] == []
    again = read_cells(tmp_path / "results/tiny").set_index("method")
    assert again.updates_settle["settled"] == F + Q  # read from the record
    record = read_record(tmp_path / "results/tiny", row.cell)
    assert record["stages"]["settle"]["settings"]["budget"] == F + Q
    plan = make_plan(config)
    measured = {key: dataclasses.replace(one, update=2.0) for key, one in measure(plan).items()}
    assert forecast_seconds(plan, plan.stages, measured)[row.stage_settle] == pytest.approx(2.0 * (F + Q))
    page = report_data([tmp_path / "results/tiny"])["details"]["curves"]
    phases = [cell["phase"] for cell in page["cells"] if "settle" in cell["phase"]]
    assert phases == [["dense", "settle"]]


def test_a_method_that_gives_other_budgets_is_refused(tmp_path, made_up):
    config = tiny_config(tmp_path, "seeds=0", "order=[prune_first,unfair]")
    with pytest.raises(UserError, match=f"method unfair gives vgg_tiny-digits-unfair-.* {N} updates.* {N + P + F + Q}"):
        make_plan(config)


def test_a_method_whose_stages_are_no_chain_is_refused(tmp_path, made_up):
    with pytest.raises(ValueError, match="method twice: .* one kind is there twice"):
        make_plan(tiny_config(tmp_path, "seeds=0", "order=twice"))


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_makes_chains_of_equal_budget(tmp_path, method):
    asked = f"baselines={method}" if METHODS.get(method).baseline else f"order={method}"
    plan = make_plan(tiny_config(tmp_path, "seeds=0", asked, "prune.ratios=[0,0.25,0.5]"))
    cells = [cell for cell in plan.cells if cell.method == method]
    assert cells and all(cell.method == method for cell in plan.cells) == asked.startswith("order")
    assert len({cell.id for cell in plan.cells}) == len(plan.cells)
    for cell in cells:
        *line, last, evaluated = (plan.stages[name] for name in cell.stages.values())
        assert evaluated.ends_cell and evaluated.continues == last.id == cell.network
        assert plan.total_updates(cell) == N + P + F + Q == sum(plan.updates_by_phase(cell).values())
        assert list(plan.updates_by_phase(cell))[0] == "dense"
    names = list(plan.stages)
    assert all(names.index(source) < names.index(name) for name in names for source in plan.stages[name].inputs)
