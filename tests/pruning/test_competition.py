"""How layers compete: each rule against a slow, obvious one; what one layer may lose; the same share of every layer."""

import itertools

import pytest
import torch
from networks import Depthwise, Plain, Residual, make, small
from small_training import classes

from qprune.cost import count_cost
from qprune.precision import get_precision
from qprune.pruning.competition import Flops, LayerShare, normalize
from qprune.pruning.criteria import get_criterion
from qprune.pruning.flops import relative_flops
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.groups import ChannelGroups, Layer
from qprune.pruning.normalizations import NORMALIZATIONS, as_chosen, check_normalization, normalization_label
from qprune.pruning.path import select, walk
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.pruning.schedule import Walk, check_reachable, least_width
from qprune.pruning.scoring import Scorer
from qprune.pruning.uniform import uniform_alive
from qprune.recipe import Recipe
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.identity import plain

GENERATOR = torch.Generator()


def layers_of(*sizes: int) -> ChannelGroups:
    ends = [0, *itertools.accumulate(sizes)]
    return ChannelGroups(tuple(Layer(f"l{i}", ends[i], ends[i + 1]) for i in range(len(sizes))), ())


def lost(groups: ChannelGroups, alive: torch.Tensor) -> list[int]:
    return [int((~alive[layer.start : layer.stop]).sum()) for layer in groups.layers]


def seen(gated, criterion, images, labels) -> Scorer:
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(criterion))
    gated.network.eval()
    with scorer.minibatch():
        torch.nn.functional.cross_entropy(gated.network(images), labels).backward()
    return scorer


# The same share of every layer ------------------------------------------------------------------------------------------


def share_slowly(scores, alive, groups, removed):
    """One map at a time: the least of the layer that will then have lost the least share."""
    alive = alive.clone()
    while (~alive).sum() < removed:
        shares = []
        for layer, gone in zip(groups.layers, lost(groups, alive), strict=True):
            size = layer.stop - layer.start
            shares.append((gone + 1) / size if gone + 1 < size else torch.inf)
        layer = groups.layers[shares.index(min(shares))]
        living = torch.where(alive, scores, torch.inf)[layer.start : layer.stop]
        alive[layer.start + living.argmin()] = False
    return alive


def test_layer_equals_one_map_at_a_time():
    groups = layers_of(5, 7, 3, 13, 11)  # primes: no two layers ever have lost the same share
    for seed in range(20):
        alive = torch.ones(groups.total, dtype=torch.bool)
        for removed in (1, 4, 5, 11, 16, 24, 30, 34):
            scores = torch.randn(groups.total, generator=GENERATOR.manual_seed(100 * seed + removed))  # anew each time
            slow = share_slowly(scores, alive, groups, removed)
            alive = select(LayerShare().place(scores, groups, alive), alive, groups, removed)
            assert torch.equal(alive, slow)


def test_of_equal_shares_the_earlier_layer_goes_first():
    groups, alive = layers_of(4, 4, 8), torch.ones(16, dtype=torch.bool)
    for removed, expected in ((1, [0, 0, 1]), (2, [1, 0, 1]), (3, [1, 1, 1]), (4, [1, 1, 2]), (8, [2, 2, 4])):
        scores = torch.ones(16)
        after = select(LayerShare().place(scores, groups, alive), alive, groups, removed)
        assert lost(groups, after) == expected
        first = [layer.start + i for layer, gone in zip(groups.layers, expected, strict=True) for i in range(gone)]
        assert sorted((~after).nonzero().flatten().tolist()) == first  # of equal scores too


def best_uniform(groups, ratio, widths):
    """Of all ways to give every layer one of the widths that it may have: the total nearest to the wanted one from below,
    then the shares that differ least from it."""
    wanted = round(ratio * groups.total)
    sizes = [layer.stop - layer.start for layer in groups.layers]
    ways = [way for way in itertools.product(*widths) if groups.total - sum(way) <= wanted]
    most = max(groups.total - sum(way) for way in ways)
    ways = [way for way in ways if groups.total - sum(way) == most]
    return most, min(
        sum((size - width - ratio * size) ** 2 for size, width in zip(sizes, way, strict=True)) for way in ways
    )


@pytest.mark.parametrize("ratio", [0, 0.1, 0.25, 0.37, 0.5, 0.75, 0.9])
def test_uniform_is_the_nearest_of_all_shapes(ratio):
    groups = layers_of(4, 6, 9, 5)
    most, error = best_uniform(groups, ratio, [range(1, layer.stop - layer.start + 1) for layer in groups.layers])
    alive = uniform_alive(groups, ratio)
    gone, sizes = lost(groups, alive), (4, 6, 9, 5)
    assert sum(gone) == most == min(round(ratio * 24), 20)
    if ratio < 0.9:  # where no layer is at its last map
        assert sum((each - ratio * size) ** 2 for each, size in zip(gone, sizes, strict=True)) == pytest.approx(error)
        assert all(abs(each - ratio * size) < 1 for each, size in zip(gone, sizes, strict=True))
    for layer in groups.layers:  # the first maps live on
        part = alive[layer.start : layer.stop]
        assert torch.equal(part, part.sort(descending=True, stable=True).values)


def test_uniform_by_hand():
    groups = layers_of(16, 16, 32, 64)
    assert lost(groups, uniform_alive(groups, 0.5)) == [8, 8, 16, 32]
    assert lost(groups, uniform_alive(groups, 0.9)) == [14, 14, 29, 58]  # 115: 14.4 14.4 28.75 57.5
    assert lost(groups, uniform_alive(groups, 0.9, min_channels=4)) == [12, 12, 28, 60]  # not 115: each keeps 4
    assert lost(groups, uniform_alive(groups, 0.5, min_channels=12)) == [4, 4, 19, 37]  # others give what these can't
    assert lost(groups, uniform_alive(groups, 0.5, max_layer_ratio=0.5)) == [8, 8, 16, 32]
    assert lost(groups, uniform_alive(groups, 0.3, round_to=8)) == [8, 0, 8, 16]  # of 4.75 4.75 9.5 19; 8 more is over
    odd = layers_of(10, 10)
    assert lost(odd, uniform_alive(odd, 0.5, round_to=4)) == [6, 2]  # 10 -> 8 -> 4
    assert uniform_alive(groups, 0).all() and lost(layers_of(1, 3), uniform_alive(layers_of(1, 3), 0.99)) == [0, 2]


# FLOPs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
def test_flops_divides_by_a_power_of_what_a_removal_saves(kind):
    network, images, labels = small(kind)
    gated = GatedNetwork(network, (1, 8, 8))
    gated.mask(torch.arange(gated.groups.total) != 1)
    saved = torch.zeros(gated.groups.total)
    before = count_cost(gated.shrink(), (1, 8, 8)).macs
    for number in gated.alive.nonzero().flatten().tolist():
        alive = gated.alive.clone()
        alive[number] = False
        gated.mask(alive)
        saved[number] = before - count_cost(gated.shrink(), (1, 8, 8)).macs
        alive[number] = True
        gated.mask(alive)
    saved /= saved.sum() / gated.alive.sum()
    plain_scorer = seen(gated, "taylor", images, labels)
    l2 = plain_scorer.ranking(GENERATOR)
    for settings, power in (
        ("flops", 0.5),
        ({"name": "flops", "power": 1}, 1.0),
        ({"name": "flops", "power": 0.25}, 0.25),
    ):
        expected = torch.where(gated.alive, l2 / saved**power, 0)
        assert torch.allclose(plain_scorer.ranking(GENERATOR, settings), expected, rtol=1e-5)
        with_lambda = seen(gated, {"name": "taylor", "flops_lambda": 3}, images, labels)  # divided first, then less
        assert torch.allclose(with_lambda.ranking(GENERATOR, settings), expected - 3 * saved, rtol=1e-4, atol=1e-6)
    both = seen(
        gated, {"name": "taylor_activation", "lambda": 0.3}, images, labels
    )  # the sum divided is the terms divided
    expected = torch.where(gated.alive, both.ranking(GENERATOR) / saved**0.5, 0)
    assert torch.allclose(both.ranking(GENERATOR, "flops"), expected, rtol=1e-5)


def test_of_equal_scores_what_saves_more_goes_first_below_0_too():
    scores, flops = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([0.5, 2.0, 0.5, 2.0])
    ranks = Flops(0.5).scale(scores, layers_of(4), flops)
    assert ranks.argsort().tolist() == [3, 2, 1, 0]
    assert torch.allclose(ranks, torch.tensor([0.5 / 0.5**0.5, 0.5 / 2**0.5, -0.5 * 0.5**0.5, -0.5 * 2**0.5]))


def test_flops_are_weighted_by_bits_under_quantisation():
    """The first layer is at 8 bits, the second at 2: its maps are the dearer by the square of that, as its inputs are."""
    network, images, labels = small(Plain)
    gated = QuantizedGatedNetwork(network, (1, 8, 8), get_precision("w2a2", 8), images)
    scorer = seen(gated, "weight_norm", images, labels)
    flops = relative_flops(gated.network, gated.groups, gated.alive, scorer.layer_costs)
    assert torch.equal(scorer.ranking(GENERATOR, "flops"), scorer.ranking(GENERATOR) / flops**0.5)
    own = GatedNetwork(network, (1, 8, 8))
    in_fp32 = relative_flops(own.network, own.groups, own.alive, seen(own, "weight_norm", images, labels).layer_costs)
    assert not torch.allclose(flops, in_fp32, rtol=0.1)


# All of them ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["random", "taylor", {"name": "taylor", "flops_lambda": 0.5}])
@pytest.mark.parametrize("normalization", [*NORMALIZATIONS.names(), {"name": "flops", "power": 1.5}], ids=str)
def test_a_path_is_walked_to_its_end(normalization, criterion):
    split = classes()
    gated = GatedNetwork(small(Residual)[0], (1, 8, 8))
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(criterion))
    how = Walk(2, 1, 0.01, normalize=as_chosen(normalization), max_layer_ratio=0.75)
    walk(gated, scorer, how, range(4), split, Recipe(batch_size=16), seed=0)
    groups, gone = gated.groups, lost(gated.groups, gated.alive)
    assert sum(gone) == 8 and gated.shrink() is not None
    assert all(each <= 0.75 * (layer.stop - layer.start) for each, layer in zip(gone, groups.layers, strict=True))
    if normalization == "layer":
        assert gone == lost(groups, share_slowly(torch.ones(groups.total), torch.ones(groups.total).bool(), groups, 8))


def test_what_a_layer_may_lose():
    groups = GatedNetwork(make("vgg_tiny", 8, channels=1), (1, 8, 8)).groups  # 16 16 32 32 64 64
    check_reachable(groups, 0.75, 1, 1, 0.75)
    with pytest.raises(
        UserError, match=r"1 channel\(s\) and 0\.25 of all kept .* at most 0\.75 of 224 .*max_layer_ratio"
    ):
        check_reachable(groups, 0.76, 1, 1, 0.75)
    scores = torch.arange(groups.total).double()  # the first layers would go whole
    after = select(scores, torch.ones(groups.total, dtype=torch.bool), groups, 100, max_layer_ratio=0.75)
    assert lost(groups, after) == [12, 12, 24, 24, 28, 0]
    assert lost(groups, select(scores, after, groups, 224, max_layer_ratio=0.75)) == [12, 12, 24, 24, 48, 48]
    rounded = select(scores, torch.ones(groups.total, dtype=torch.bool), groups, 224, round_to=3, max_layer_ratio=0.75)
    assert lost(groups, rounded) == [10, 10, 23, 23, 46, 46]  # 6 of 16, 9 of 32, 18 of 64: multiples of 3
    assert [least_width(size, 5, 4, 0.5) for size in (3, 9, 10, 32)] == [3, 8, 8, 16]
    check_reachable(groups, 158 / 224, 1, 3, 0.75)
    with pytest.raises(UserError, match="at most 0.705"):
        check_reachable(groups, 159 / 224, 1, 3, 0.75)


def test_one_meaning_has_one_name():
    assert as_chosen("flops") == as_chosen({"name": "flops", "power": 0.5}) == "flops"
    assert as_chosen({"name": "flops", "power": 1}) == Choice.of({"name": "flops", "power": 1.0})
    assert normalization_label({"name": "flops", "power": 0.25}) == "flops.power_0.25"
    assert normalization_label({"name": "layer"}) == "layer"
    named = plain(Walk(2.0, 5, 0.01))
    assert named == {
        "per_step": 2.0,
        "updates_between": 5,
        "lr": 0.01,
        "min_channels": 1,
        "round_to": 1,
        "normalize": "l2",
    }
    changed = plain(Walk(2.0, 5, 0.01, normalize=as_chosen({"name": "flops", "power": 1}), max_layer_ratio=0.9))
    assert changed["normalize"] == {"name": "flops", "power": 1.0} and changed["max_layer_ratio"] == 0.9
    for settings, words in (
        ("flop", "unknown normalization 'flop'; did you mean 'flops'"),
        ({"name": "l2", "power": 1}, "normalization l2: unknown option 'power'"),
        ({"name": "flops", "power": 0}, "power is 0; it must be a number above 0"),
    ):
        with pytest.raises(UserError, match=words):
            check_normalization(settings)


def test_a_layer_without_scores_is_no_nan():
    assert torch.equal(normalize(torch.zeros(4), layers_of(2, 2)), torch.zeros(4))
