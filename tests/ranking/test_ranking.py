"""qprune rank: its stages, tables and swaps against slow and obvious ones, on a small network."""

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from browser import errors, open_page, set_scheme
from rich.console import Console
from scipy.stats import spearmanr, t
from tiny_sweep import MAPS, Inline, command, count_kinds

from qprune.data import load_data
from qprune.data.base import first_of_train
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.groups import ChannelGroups, Layer
from qprune.pruning.oracle import oracle_loss
from qprune.pruning.sets import QUADRANTS, pruned_set, quadrants, removal, swapped
from qprune.ranking.findings import verdict
from qprune.ranking.plan import make_rank_plan
from qprune.ranking.run import run_rank
from qprune.ranking.tables import correlations
from qprune.registry.errors import UserError
from qprune.settings.config import load_config
from qprune.stages.fold import LAMBDAS
from qprune.stages.saved import NetworkSpec
from qprune.storage.sealed_table import read_table
from qprune.storage.store import Store
from qprune.training import evaluate

SMALL = """\
name: small
data: {name: digits, subset: 256}
model: {name: vgg_tiny, width: 0.5}
seeds: [0, 1]
train: {updates: 60, batch_size: 32, lr: 0.1}
prune: {ratios: 0}
rank: {criteria: [taylor, activation, weight_norm, random], oracle_images: 100, shares: [0.25, 0.5], finetune_updates: 4}
precisions: fp32
"""


def run(folder, *overrides) -> tuple[int, list[str], str]:
    """Exit code, ids of the stages that were computed, what was printed."""
    (folder / "small.yaml").write_text(SMALL)
    config = load_config(folder / "small.yaml", overrides)
    text, executors = io.StringIO(), []

    def make_executor(stages, store_folder):
        executors.append(Inline(store_folder))
        return executors[-1]

    code = run_rank(config, folder / "results", make_executor, Console(file=text, width=200))
    return code, [stage for one in executors for stage in one.computed], text.getvalue()


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """The folder of a finished ranking, its plan, what was computed and printed."""
    folder = tmp_path_factory.mktemp("ranked")
    code, computed, text = run(folder)
    assert code == 0, text
    return folder, make_rank_plan(load_config(folder / "small.yaml")), computed, text


def table(folder, name):
    return read_table(folder / "results" / "small" / "rank" / f"{name}.csv", "rank again")


def dense_network(folder, plan, place=0) -> GatedNetwork:
    store, dense = Store(folder / "results" / "stages"), plan.networks[place].dense
    spec = NetworkSpec.from_json(store.meta(dense)["network"], (), "")
    return GatedNetwork(spec.load_fp32(store.tensors(dense)), spec.image_shape)


def test_oracle_in_parts_is_the_whole_oracle(ranked):
    folder, plan, computed, _ = ranked
    assert count_kinds(computed)["oracle"] == 2 * math.ceil(MAPS / 16)
    data = load_data({"name": "digits", "subset": 256})
    expected = oracle_loss(dense_network(folder, plan), first_of_train(data.train, 100))
    scores = table(folder, "scores")
    mine = scores[scores.seed == 0]
    assert len(mine) == MAPS
    assert np.array_equal(mine.oracle_loss, expected.numpy())
    assert np.array_equal(mine.oracle_abs, expected.abs().numpy())


def test_scores_by_hand(ranked):
    """Mean |z| and |dC/dz| over whole minibatches of a shuffled epoch are those over all images, in eval mode."""
    folder, plan, *_ = ranked
    gated, data = dense_network(folder, plan), load_data({"name": "digits", "subset": 256})
    network, seen = gated.network.eval(), []
    for gate in gated.gates:
        gate.watcher = lambda gate, z: (z.retain_grad(), seen.append((gate, z)))
    logits = network(data.train.images.float() / 255)
    torch.nn.functional.cross_entropy(logits, data.train.labels, reduction="sum").backward()  # of each image by itself
    scores = table(folder, "scores")
    mine = scores[scores.seed == 0]
    for name, of in (("activation", lambda z: z), ("mean_gradient", lambda z: z.grad)):
        by_hand = np.zeros(MAPS)
        for gate, z in seen:
            by_hand[gate.index.numpy()] = of(z).detach().abs().mean((0, 2, 3)).numpy()
        assert np.allclose(mine[name], by_hand, rtol=1e-3, atol=1e-9)
    taylor = np.zeros(MAPS)
    for gate, z in seen:
        taylor[gate.index.numpy()] = (z * z.grad).mean((2, 3)).abs().mean(0).detach().numpy()
    assert np.allclose(mine.taylor, taylor, rtol=1e-3, atol=1e-9)


def test_spearman_table(ranked):
    folder, *_ = ranked
    scores, found = table(folder, "scores"), table(folder, "spearman")
    values = {column: [] for column in ("per_layer", "all_layers", "all_layers_l2", "all_layers_l2_both")}
    for _, one in scores.groupby("seed"):
        layers = one.groupby("layer", sort=False)
        values["per_layer"].append(np.mean([spearmanr(part.taylor, part.oracle_abs).statistic for _, part in layers]))
        values["all_layers"].append(spearmanr(one.taylor, one.oracle_abs).statistic)
        divided = layers.taylor.transform(lambda part: part / np.sqrt((part**2).sum()))
        both = layers.oracle_abs.transform(lambda part: part / np.sqrt((part**2).sum()))
        values["all_layers_l2"].append(spearmanr(divided, one.oracle_abs).statistic)
        values["all_layers_l2_both"].append(spearmanr(divided, both).statistic)
    rows = found[(found.criterion == "taylor") & (found.target == "oracle_abs")].set_index("column")
    for column, of_seeds in values.items():
        row = rows.loc[column]
        half = t.ppf(0.975, 1) * np.std(of_seeds, ddof=1) / math.sqrt(2)
        assert row["mean"] == pytest.approx(np.mean(of_seeds), abs=1e-6)
        assert (row.low, row.high) == pytest.approx((np.mean(of_seeds) - half, np.mean(of_seeds) + half), abs=1e-4)
        assert row.seeds == 2
    assert set(found.criterion) == {"taylor", "activation", "weight_norm", "random", "mean_gradient"}


def test_correlation_without_an_order_is_unknown():
    groups = ChannelGroups((Layer("a", 0, 3), Layer("b", 3, 4)), ())
    target = np.array([0.1, 0.2, 0.3, 0.4])
    found = correlations(np.ones(4), np.ones(4), target, groups)
    assert all(math.isnan(value) for value in found.values())
    found = correlations(np.arange(4.0), np.array([3.0, 2.0, 1.0, 9.0]), target, groups)
    assert found["per_layer"] == pytest.approx(-1)  # the layer with one map has no order
    assert found["all_layers"] == pytest.approx(1)
    assert found["all_layers_l2"] == pytest.approx(spearmanr([3, 2, 1, 9], target).statistic)


def test_quadrants_slowly():
    groups = ChannelGroups((Layer("a", 0, 7), Layer("b", 7, 15)), ())
    generator = torch.Generator().manual_seed(0)
    activation, gradient = torch.rand(2, 15, generator=generator, dtype=torch.float64)
    found = quadrants(activation, gradient, groups)
    for layer in groups.layers:
        for number in range(layer.start, layer.stop):
            high = [
                bool(values[number] > np.median(values[layer.start : layer.stop].numpy()))
                for values in (activation, gradient)
            ]
            name = {
                (True, False): "case_1",
                (False, True): "case_2",
                (True, True): "high_high",
                (False, False): "low_low",
            }
            assert QUADRANTS[found[number]] == name[tuple(high)]
    assert len(set(found.tolist())) == 4


def slow_swap(start: set, other: set, order: dict, other_order: dict, coming: set, going: set) -> set:
    """One pair after the other; no layer is emptied in these tests."""
    result = set(start)
    while (coming & other - result) and (going & result - other):
        result.add(min(coming & other - result, key=lambda one: other_order[one]))
        result.remove(max(going & result - other, key=lambda one: order[one]))
    return result


@pytest.fixture
def two_rankings():
    """Groups, the rankings of 40 maps, their quadrants, and the half that each ranking removes."""
    groups = ChannelGroups((Layer("a", 0, 20), Layer("b", 20, 40)), ())
    taylor, activation, places = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))
    rankings = {"taylor": taylor, "activation": activation}
    sets = {name: set(ranking.argsort()[:20].tolist()) for name, ranking in rankings.items()}  # none empties a layer
    return groups, rankings, (places * 4).long(), sets


@pytest.mark.parametrize(
    "start, other, quadrant", [("taylor", "activation", "case_2"), ("activation", "taylor", "case_1")]
)
def test_swaps_slowly(two_rankings, start, other, quadrant):
    groups, rankings, places, sets = two_rankings
    settings = {"share": 0.5, "min_channels": 1, "start": start, "put_in": other, "quadrant": quadrant}
    cases = {name: set((places == QUADRANTS.index(name)).nonzero().flatten().tolist()) for name in ("case_1", "case_2")}
    coming, going = cases[quadrant], cases[{"case_1": "case_2", "case_2": "case_1"}[quadrant]]
    removed, maps = removal(rankings, places, groups, **settings)
    expected = slow_swap(sets[start], sets[other], rankings[start], rankings[other], coming, going)
    assert set(removed.nonzero().flatten().tolist()) == expected
    assert maps == min(len((sets[other] - sets[start]) & coming), len((sets[start] - sets[other]) & going)) > 0
    assert removed.sum() == 20 and len(expected - sets[start]) == maps


@pytest.mark.parametrize("quadrant", QUADRANTS)
@pytest.mark.parametrize("criterion, other", [("taylor", "activation"), ("activation", "taylor")])
def test_what_is_added_to_what_both_remove(two_rankings, criterion, other, quadrant):
    groups, rankings, places, sets = two_rankings
    settings = {"share": 0.5, "min_channels": 1, "start": "both", "put_in": criterion, "quadrant": quadrant}
    own = {n for n in sets[criterion] - sets[other] if places[n] == QUADRANTS.index(quadrant)}
    removed, maps = removal(rankings, places, groups, **settings)
    assert set(removed.nonzero().flatten().tolist()) == sets["taylor"] & sets["activation"] | own and maps == len(own)


def test_swapping_everything_gives_the_other_set():
    groups = ChannelGroups((Layer("a", 0, 30),), ())
    rankings = dict(
        zip(("taylor", "activation"), torch.rand(2, 30, generator=torch.Generator().manual_seed(2)), strict=True)
    )
    removed = {name: pruned_set(ranking, groups, 0.5) for name, ranking in rankings.items()}
    all_maps = torch.ones(30, dtype=torch.bool)
    everything, maps = swapped(removed, rankings, "taylor", all_maps, all_maps, groups)
    assert torch.equal(everything, removed["activation"])
    assert maps == (removed["activation"] & ~removed["taylor"]).sum()


def test_a_swap_empties_no_layer():
    groups = ChannelGroups((Layer("a", 0, 2), Layer("b", 2, 4)), ())
    removed = {
        "taylor": torch.tensor([True, False, True, False]),
        "activation": torch.tensor([True, True, False, False]),
    }
    rankings = {name: torch.arange(4.0) for name in removed}
    all_maps = torch.ones(4, dtype=torch.bool)
    result, maps = swapped(removed, rankings, "taylor", all_maps, all_maps, groups)
    assert torch.equal(result, removed["taylor"]) and maps == 0


def test_sets_and_quadrants(ranked):
    """Both sets have the same size; the quadrants' counts add up; the losses are those of the network without the maps."""
    folder, plan, *_ = ranked
    sets, counts, scores = table(folder, "sets"), table(folder, "quadrants"), table(folder, "scores")
    for (seed, share), group in counts.groupby(["seed", "share"]):
        own = sets[(sets.seed == seed) & (sets.share == share) & sets.put_in.isna()].set_index("start")
        assert own.removed["taylor"] == own.removed["activation"] == round(share * MAPS)
        for by in ("taylor", "activation"):
            assert group[group.only_removed_by == by].maps.sum() == own.removed["taylor"] - own.removed["both"]
    assert (sets[sets.start.isin(["taylor", "activation"])].removed == round(0.25 * MAPS)).sum() == 2 * (2 + 2)
    mine = scores[scores.seed == 1]
    divided = mine.groupby("layer", sort=False).taylor.transform(lambda part: part / np.sqrt((part**2).sum()))
    gated = dense_network(folder, plan, 1)
    alive = torch.ones(MAPS, dtype=torch.bool)
    alive[np.argsort(divided.to_numpy(), kind="stable")[: round(0.25 * MAPS)]] = False  # empties no layer here
    assert all(alive[layer.start : layer.stop].any() for layer in gated.groups.layers)
    gated.mask(alive)
    row = sets[(sets.seed == 1) & (sets.share == 0.25) & (sets.start == "taylor") & sets.put_in.isna()].iloc[0]
    data = load_data({"name": "digits", "subset": 256})
    assert row.val_loss_before == pytest.approx(evaluate(gated.network, data.val).loss)
    assert row.train_loss_before == pytest.approx(evaluate(gated.network, first_of_train(data.train, 100)).loss)
    assert row.val_loss_after != row.val_loss_before


def test_effects(ranked):
    folder, _, _, text = ranked
    sets, effects = table(folder, "sets"), table(folder, "effects")

    def loss(seed, start, put_in=None, quadrant=None):
        of = sets[(sets.seed == seed) & (sets.share == 0.5) & (sets.start == start)]
        of = of[of.put_in.isna()] if put_in is None else of[(of.put_in == put_in) & (of.quadrant == quadrant)]
        return of.val_loss_before.item()

    rows = effects[(effects.share == 0.5) & (effects.loss == "val_loss") & (effects.when == "before")]
    rows = rows.fillna({"quadrant": ""}).set_index(["effect", "quadrant"])
    gap = [loss(seed, "activation") - loss(seed, "taylor") for seed in (0, 1)]
    assert rows.loc[("gap", ""), "mean"] == pytest.approx(np.mean(gap))
    own = sets[(sets.share == 0.5) & (sets.start == "both")].set_index(["seed", "put_in", "quadrant"]).maps

    def per_map(seed, criterion, quadrant):
        maps = own[seed, criterion, quadrant]
        return (loss(seed, "both", criterion, quadrant) - loss(seed, "both")) / maps if maps else math.nan

    difference = [per_map(seed, "activation", "case_2") - per_map(seed, "taylor", "case_1") for seed in (0, 1)]
    row = rows.loc[("difference_per_map", "")]
    assert row["mean"] == pytest.approx(np.mean(difference))
    assert row.high - row.low == pytest.approx(2 * t.ppf(0.975, 1) * np.std(difference, ddof=1) / math.sqrt(2))
    for effect, sign, start, put_in, quadrant in (
        ("swap_in_taylor", 1, "taylor", "activation", "case_2"), ("swap_in_activation", -1, "activation", "taylor", "case_1"),
    ):  # fmt: skip
        changes = [sign * (loss(seed, start, put_in, quadrant) - loss(seed, start)) for seed in (0, 1)]
        assert rows.loc[(effect, ""), "mean"] == pytest.approx(np.mean(changes))
    says = verdict(row.low, row.high, "case 2 makes the", "case 1 makes the", "no clear difference between")
    (sentence,) = [line for line in text.splitlines() if "50% removed, before" in line]
    assert says in sentence


def test_lambda_curve(ranked):
    """It begins with Taylor alone, exactly."""
    folder, *_ = ranked
    curve, spearman = table(folder, "lambda"), table(folder, "spearman")
    assert list(curve["lambda"].unique()) == list(LAMBDAS) and set(curve.column) == {"per_layer", "all_layers_l2"}
    values = curve.set_index(["lambda", "column", "what"])["mean"]
    taylor = spearman[(spearman.target == "oracle_abs") & (spearman.criterion == "taylor")].set_index("column")["mean"]
    for column in ("per_layer", "all_layers_l2"):
        assert values[0.0, column, "spearman"] == taylor[column] and values[0.0, column, "gain"] == 0
        for weight in LAMBDAS:
            gain = values[weight, column, "spearman"] - values[0.0, column, "spearman"]
            assert values[weight, column, "gain"] == pytest.approx(gain, abs=1e-12)


def test_verdict():
    assert verdict(0.1, 0.2, "above", "below") == "above"
    assert verdict(-0.2, -0.1, "above", "below") == "below"
    assert verdict(-0.1, 0.1, "above", "below") == "no clear difference"
    assert "one seed" in verdict(math.nan, math.nan, "above", "below")


def test_again_computes_nothing_and_a_stage_lost_is_made_anew(ranked, tmp_path):
    folder, plan, *_ = ranked
    before = table(folder, "sets")
    code, computed, _ = run(folder)
    assert (code, computed) == (0, [])
    lost = plan.networks[0].oracle[1]
    store = Store(folder / "results" / "stages")
    store.drop_tensors(lost)
    code, computed, _ = run(folder)
    assert (code, computed) == (0, [lost])
    pd.testing.assert_frame_equal(table(folder, "sets"), before)


def test_a_new_share_keeps_what_is_there(ranked):
    folder, *_ = ranked
    _, computed, _ = run(folder, "rank.shares=[0.25,0.5,0.1]")
    assert set(count_kinds(computed)) == {"removal"}
    run(folder)


def test_what_a_criterion_can_t_do_is_left_out_and_said(ranked, monkeypatch):
    from qprune.pruning.criteria.random import Random

    def check(self, network, groups):
        raise UserError("random: this network has no dice")

    monkeypatch.setattr(Random, "check", check, raising=False)
    folder, *_ = ranked
    code, computed, text = run(folder, "seeds=7")
    assert code == 0
    assert "left out: random on vgg_tiny on digits, seed 7: random: this network has no dice" in text
    assert "random" not in table(folder, "scores")
    assert "no dice" in (folder / "results" / "small" / "rank" / "rank.html").read_text()
    assert "one seed has no interval" in text
    run(folder)


def test_shares_that_can_t_be(tmp_path):
    with pytest.raises(UserError, match="small.yaml:7:.*a share of 0 removes nothing"):
        (tmp_path / "small.yaml").write_text(SMALL.replace("[0.25, 0.5]", "[0.5, 0]"))
        load_config(tmp_path / "small.yaml")
    with pytest.raises(UserError, match="can't be reached"):
        run(tmp_path, "rank.shares=0.99")


def test_command_and_page(ranked, browser, tmp_path):
    """The real command, with workers, on what is there; the page's charts as files, drawn in a browser."""
    folder, *_ = ranked
    done = command("rank", "small.yaml", "--figures", tmp_path / "figures", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0 stages computed" in done.stdout
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    charts = ("spearman", "plane", "costs", "lambda")
    assert names == {f"{chart}-vgg_tiny-digits.{form}" for chart in charts for form in ("svg", "png")}
    page = (folder / "results" / "small" / "rank" / "rank.html").read_text()
    assert "0.73 over all layers l2-normalised" in page
    assert "https://" not in page.partition("<script>")[0]
    assert command("rank", "missing.yaml", cwd=folder).returncode == 2

    open_page(browser, folder / "results" / "small" / "rank" / "rank.html")
    for scheme, paper in (("light", "#ffffff"), ("dark", "#14181d")):
        set_scheme(browser, scheme)
        looks = browser.execute_script(
            "return [...document.querySelectorAll('.js-plotly-plot')].map(({layout}) => [layout.paper_bgcolor, layout.plot_bgcolor])"
        )
        assert looks == [[paper, paper]] * len(charts)
    assert errors(browser) == []
    set_scheme(browser, "light")
