"""Every criterion: the shared conformance test, and each fast routine against a slow, obvious one."""

import subprocess
import sys

import pytest
import torch
from networks import Depthwise, Plain, Residual, batch, small, warm_up
from torch import nn
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.networks.gate import Gate
from qprune.networks.graph import module_of, with_normalize
from qprune.precision import get_precision
from qprune.pruning.competition import normalize
from qprune.pruning.criteria import CRITERIA, CriterionEntry, check_criterion, criterion_label, get_criterion
from qprune.pruning.criteria.base import StaticCriterion
from qprune.pruning.flops import layer_costs, map_flops, relative_flops
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.registry.errors import UserError
from qprune.registry.options import Option, as_float, is_number

KINDS = [Plain, Residual, Depthwise]
EVERY = [
    *({"name": name} for name in CRITERIA.names()),
    *({"name": name, "estimator": e} for name in ("obd_gate", "obd_element") for e in ("exact", "hutchinson")),
    {"name": "taylor", "flops_lambda": 0.1},
]
# what is no mean over examples of something that is each example's own, or is drawn
DEPENDS_ON_SPLIT = {
    "taylor_signed", "taylor_2019", "gradient_variance", "low_variance_low_activation", "obd_gate", "obd_element",
    "obd_gate.estimator_hutchinson", "obd_element.estimator_hutchinson",
}  # fmt: skip


def scored(gated, criterion, images, labels, size=4, train_mode=False, seed=0):
    """A scorer that has seen the images in minibatches of a size."""
    criterion = get_criterion(criterion)
    scorer = Scorer(gated.network, gated.groups, gated.gates, criterion)
    gated.network.train(train_mode)
    for part in range(0, len(images), size):
        torch.manual_seed(seed + part)
        gated.network.zero_grad()
        with scorer.minibatch():
            F.cross_entropy(gated.network(images[part : part + size]), labels[part : part + size]).backward()
    return scorer


def scores_of(*args, **options):
    return scored(*args, **options).scores(torch.Generator().manual_seed(5))


class Own(StaticCriterion):
    """How far a map stands from the end, times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def scores(self, network, groups, alive, generator):
        return self.factor * torch.arange(groups.total, 0, -1.0) * alive


def test_a_criterion_of_ones_own_conforms():
    options = {"factor": Option(2.0, is_number, "a number", as_float)}
    with CRITERIA.temporarily(CriterionEntry("own", f"{__name__}:Own", options=options)):
        assert criterion_label({"name": "own", "factor": 3}) == "own.factor_3"
        for settings in ({"name": "own"}, {"name": "own", "factor": 3}):
            check_conformance(Residual, settings)
    with pytest.raises(UserError, match="unknown criterion 'own'"):
        get_criterion("own")


def test_what_others_ask_of_a_criterion():
    entries = CRITERIA.entries()
    several = ["gradient_variance", "low_variance_low_activation"]
    assert [entry.name for entry in entries if entry.several_minibatches] == several
    assert [entry.name for entry in entries if not entry.quantized] == ["obd_lecun"]


@pytest.mark.parametrize("settings", EVERY, ids=criterion_label)
@pytest.mark.parametrize("kind", KINDS)
def test_every_criterion_conforms(kind, settings):
    check_conformance(kind, settings)


def check_conformance(kind, settings):
    network, images, labels = small(kind)
    results = {}
    for size, train_mode in ((4, False), (8, False), (4, True)):
        for _ in range(2):
            gated = GatedNetwork(network, (1, 8, 8))
            gated.mask(torch.arange(gated.groups.total) != 1)  # one map is gone already
            scorer = scored(gated, settings, images, labels, size, train_mode)
            generators = [torch.Generator().manual_seed(5) for _ in range(3)]
            scores, raw = scorer.scores(generators[0]), scorer.ranking(generators[1], "none")
            ranking = scorer.ranking(generators[2])
            for values in (scores, raw, ranking):
                assert values.shape == (gated.groups.total,) and values.isfinite().all() and not values.requires_grad
            results.setdefault((size, train_mode), []).append(scores)
            if "flops_lambda" in settings:
                continue
            assert torch.equal(raw, scores)
            if settings["name"] == "taylor_activation":
                continue  # a sum of two normalised vectors, below
            assert torch.equal(ranking, normalize(scores, gated.groups))
            for layer in gated.groups.layers:
                assert ranking[layer.start : layer.stop].norm().item() == pytest.approx(1, abs=1e-5)
        assert torch.equal(*results[size, train_mode])  # deterministic
        assert scores.max() > 0
        if settings.get("estimator") != "hutchinson":  # whose error has both signs
            assert (scores >= 0).all()
        assert scores[1] == 0
    same = torch.allclose(results[4, False][0], results[8, False][0], rtol=1e-4, atol=1e-9)
    assert same == (criterion_label(settings) not in DEPENDS_ON_SPLIT)


@pytest.mark.parametrize("settings", EVERY, ids=criterion_label)
@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_network_ranks_as_the_smaller_one(kind, settings):
    """What is switched off has no part in what its neighbours are worth."""
    draws = settings["name"] == "random" or (settings["name"].startswith("obd_") and settings["name"] != "obd_lecun")
    if draws and settings.get("estimator") != "exact":
        pytest.skip("what is drawn depends on the number of maps")
    network, images, labels = small(kind)
    masked = GatedNetwork(network, (1, 8, 8))
    masked.mask(~torch.isin(torch.arange(masked.groups.total), torch.tensor([1, 5])))
    smaller = GatedNetwork(masked.shrink(), (1, 8, 8))
    ours, theirs = (
        scored(gated, settings, images, labels).ranking(torch.Generator().manual_seed(5)) for gated in (masked, smaller)
    )
    assert torch.allclose(ours[masked.alive], theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", EVERY, ids=criterion_label)
def test_scoring_leaves_the_training_update_as_it_is(settings):
    network, images, labels = small(Residual)
    network.add_submodule("dropout", nn.Dropout(0.3))
    with network.graph.inserting_after(next(node for node in network.graph.nodes if node.name == "bn1")):
        node = network.graph.call_module("dropout", ())
    bn1 = node.prev
    bn1.replace_all_uses_with(node)
    node.args = (bn1,)
    network.recompile()
    states = []
    for criterion in (settings, "weight_norm"):  # weight_norm makes no pass and watches nothing
        gated = GatedNetwork(network, (1, 8, 8))
        gated.network.train()
        gated.network.bn.eval()  # a layer that its owner has frozen stays so
        scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(criterion))
        optimizer = torch.optim.SGD(gated.network.parameters(), lr=0.1)
        torch.manual_seed(7)
        for _ in range(3):
            optimizer.zero_grad()
            with scorer.minibatch():
                F.cross_entropy(gated.network(images), labels).backward()
            optimizer.step()
        assert gated.network.an1.training and not gated.network.bn.training
        assert not any(gate.watcher or gate._forward_hooks for gate in gated.gates)
        assert not gated.network._forward_pre_hooks
        states.append([*gated.network.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def at_gates(gated, images, labels):
    """Each map's z and dC/dz of one example's own loss, all positions and gates of it: [examples, positions] each,
    one example at a time in eval mode."""
    gated.network.eval()
    rows = []
    for image, label in zip(images, labels, strict=True):
        tensors = []
        for gate in gated.gates:
            gate.watcher = lambda gate, z, tensors=tensors: (z.retain_grad(), tensors.append((gate, z)))
        F.cross_entropy(gated.network(image[None]), label[None]).backward()
        maps = [([], []) for _ in range(gated.groups.total)]
        for gate, z in tensors:
            for channel, number in enumerate(gate.index.tolist()):
                if number >= 0:
                    maps[number][0].append(z[0, channel].detach().flatten())
                    maps[number][1].append(z.grad[0, channel].flatten())
        rows.append([[torch.cat(side).double() for side in one] for one in maps])
    for gate in gated.gates:
        gate.watcher = None
    return [[torch.stack([row[number][side] for row in rows]) for side in (0, 1)] for number in range(len(maps))]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_maps_and_gradients_against_slow_ones(kind):
    network, images, labels = small(kind)
    gated = GatedNetwork(network, (1, 8, 8))
    maps = at_gates(gated, images, labels)
    means = torch.tensor([[dz[part : part + 4].mean().item() for part in (0, 4, 8, 12)] for _, dz in maps]).double()
    slow = {
        "activation": [z.abs().mean() for z, _ in maps],
        "activation_std": [z.std(correction=0) for z, _ in maps],
        "apoz": [1 - (z <= 0).double().mean() for z, _ in maps],
        "gradient_variance": means.var(1, correction=0),
        "low_variance_low_activation": [
            s * z.abs().mean() for s, (z, _) in zip(means.std(1, correction=0), maps, strict=True)
        ],
    }
    for name, expected in slow.items():
        scores = scores_of(gated, name, images, labels).double()
        expected = torch.as_tensor(expected).double()
        assert (scores - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_gradient_variance_needs_two_minibatches():
    network, images, labels = small(Plain)
    gated = GatedNetwork(network, (1, 8, 8))
    for name in ("gradient_variance", "low_variance_low_activation"):
        with pytest.raises(UserError, match="at least 2 of them, and 1 was seen; raise prune.updates_between"):
            scores_of(gated, name, images, labels, size=16)
    with pytest.raises(RuntimeError, match="no minibatch"):
        Scorer(gated.network, gated.groups, gated.gates, get_criterion("taylor")).scores(torch.Generator())


def test_taylor_2019_by_hand():
    network, images, labels = small(Residual)
    gated = GatedNetwork(network, (1, 8, 8))
    expected = torch.zeros(gated.groups.total)
    makers = {0: [("stem", "bn"), ("a2", "an2"), ("b2", "bn2")], 4: [("a1", "an1")], 7: [("b1", "bn1")]}
    for part in range(0, 16, 4):
        network.eval().zero_grad()
        F.cross_entropy(network(images[part : part + 4]), labels[part : part + 4]).backward()
        for first, pairs in makers.items():
            for channel in range(network.get_submodule(pairs[0][0]).out_channels):
                for name in (name for pair in pairs for name in pair):
                    for parameter in network.get_submodule(name).parameters():
                        products = parameter[channel] * parameter.grad[channel]
                        expected[first + channel] += products.abs().sum().item() / 4
    assert torch.allclose(scores_of(gated, "taylor_2019", images, labels), expected, rtol=1e-4)
    # gradients that pile up from minibatch to minibatch are told apart
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion("taylor_2019"))
    gated.network.zero_grad()
    for part in range(0, 16, 4):
        with scorer.minibatch():
            F.cross_entropy(gated.network(images[part : part + 4]), labels[part : part + 4]).backward()
    assert torch.allclose(scorer.scores(torch.Generator()), expected, rtol=1e-4)


class WithoutBn(nn.Module):
    """conv-BN-ReLU, conv-ReLU, sigmoid, linear."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.squash, self.fc = nn.Conv2d(4, 3, 3), nn.Sigmoid(), nn.Linear(3, 5)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(self.squash(x.mean((2, 3))))


def test_bn_gamma_by_hand():
    network, images, labels = small(Residual)
    scores = scores_of(GatedNetwork(network, (1, 8, 8)), "bn_gamma", images, labels)
    gammas = {name: network.get_submodule(name).weight.detach().abs() for name in ("bn", "an1", "an2", "bn1", "bn2")}
    assert torch.allclose(scores[:4], (gammas["bn"] + gammas["an2"] + gammas["bn2"]) / 3)
    assert torch.equal(scores[4:7], gammas["an1"]) and torch.equal(scores[7:], gammas["bn1"])


def test_networks_that_a_criterion_cannot_take():
    gated = GatedNetwork(with_normalize(WithoutBn(), (0.5,), (0.25,)), (1, 8, 8))
    with pytest.raises(UserError, match="bn_gamma: no batch normalisation .* follows layer 'conv2'"):
        Scorer(gated.network, gated.groups, gated.gates, get_criterion("bn_gamma"))
    with pytest.raises(UserError, match=r"obd_lecun: no rule for 'squash' \(Sigmoid\)"):
        Scorer(gated.network, gated.groups, gated.gates, get_criterion("obd_lecun"))


# Optimal brain damage -------------------------------------------------------------------------------------------------


def logits_of_factors(gated, image, by_element):
    """(f, ones): f maps factors on the maps [maps], or on all elements of the gates' tensors [elements], to one
    image's logits [classes]; and the maps of the elements."""
    gated.network.eval()
    sizes, maps = [], []
    for gate in gated.gates:
        gate.watcher = lambda gate, z: sizes.append(z.shape[1:])
    with torch.no_grad():
        gated.network(image[None])
    for gate in gated.gates:
        gate.watcher = None
    for gate, size in zip(gated.gates, sizes, strict=True):
        maps.append(gate.index.view(-1, *[1] * (len(size) - 1)).expand(size).flatten())
    maps = torch.cat(maps)

    def run(factors):
        start, handles = 0, []
        for gate, size in zip(gated.gates, sizes, strict=True):
            if by_element:
                mine = factors[start : start + size.numel()].view(size)
                start += size.numel()
            else:
                mine = factors[gate.index].view(-1, *[1] * (len(size) - 1))
            handles.append(gate.register_forward_hook(lambda gate, args, z, mine=mine: z * mine))
        try:
            return gated.network(image[None])[0]
        finally:
            for handle in handles:
                handle.remove()

    return run, torch.ones(len(maps) if by_element else gated.groups.total), maps


def slow_obd(gated, images, labels, by_element, gauss_newton):
    """Mean over examples of half the second derivatives, by double backward on each example's own loss, or by the
    full Jacobian of the logits and the full softmax Hessian: float64 [maps]."""
    total = torch.zeros(gated.groups.total, dtype=torch.float64)
    for image, label in zip(images, labels, strict=True):
        run, ones, maps = logits_of_factors(gated, image, by_element)
        if gauss_newton:
            jacobian = torch.autograd.functional.jacobian(run, ones)  # [classes, factors]
            p = run(ones).softmax(0).detach()
            diagonal = torch.einsum("ci,cd,di->i", jacobian, p.diag() - torch.outer(p, p), jacobian)
        else:
            diagonal = torch.autograd.functional.hessian(
                lambda factors: F.cross_entropy(run(factors)[None], label[None]), ones
            ).diagonal()
        maps = maps if by_element else torch.arange(len(ones))
        total.index_add_(0, maps, 0.5 * diagonal.double() / len(images))
    return total


@pytest.mark.parametrize("name", ["obd_gate", "obd_element"])
@pytest.mark.parametrize("kind", KINDS)
def test_obd_equals_exact_second_derivatives(kind, name):
    network, images, labels = small(kind)
    images, labels = images[:4], labels[:4]
    gated = GatedNetwork(network, (1, 8, 8))
    scores = scores_of(gated, {"name": name, "estimator": "exact"}, images, labels)
    by_element = name == "obd_element"
    expected = slow_obd(gated, images, labels, by_element, gauss_newton=True)
    assert (scores - expected).abs().max() <= 1e-4 * expected.max()
    # The Hessian's own diagonal, with the labels. A coupled map (here the first layer's) multiplies itself where its
    # gates follow each other: there Gauss-Newton leaves something out.
    hessian = slow_obd(gated, images, labels, by_element, gauss_newton=False)
    exact = slice(0, None) if kind is Plain or by_element else slice(4, None)
    assert (scores - hessian)[exact].abs().max() <= 1e-4 * hessian.max()
    assert expected[exact].max() > 0


@pytest.mark.parametrize("estimator", ["mc", "hutchinson"])
@pytest.mark.parametrize("name", ["obd_gate", "obd_element"])
def test_estimators_converge_to_the_exact_curvature(name, estimator):
    network, images, labels = small(Plain)
    gated = GatedNetwork(network, (1, 8, 8))
    exact = scores_of(gated, {"name": name, "estimator": "exact"}, images, labels)

    def error(samples, seed):
        """Relative to the exact scores, all maps together."""
        settings = {"name": name, "estimator": estimator, "samples": samples}
        scores = scores_of(gated, settings, images, labels, seed=seed)
        return ((scores - exact).norm() / exact.norm()).item()

    few, many = (
        sum(error(samples, 100 * seed) ** 2 for seed in range(repeats)) ** 0.5 / repeats**0.5
        for samples, repeats in ((4, 40), (64, 10))
    )
    assert 2.5 < few / many < 6.4, (few, many)  # 16 times the samples: a quarter of the error
    assert error(1024, 0) < (0.02 if estimator == "mc" else 0.1)


@pytest.mark.parametrize(
    "settings, passes",
    [({"estimator": "exact"}, 5), ({"samples": 3}, 3), ({}, 1), ({"estimator": "hutchinson", "samples": 2}, 3)],
)
def test_backward_passes_are_as_many_as_said(monkeypatch, settings, passes):
    network, images, labels = small(Plain)
    gated = GatedNetwork(network, (1, 8, 8))
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: calls.append(1) or grad(*args, **options))
    scores_of(gated, {"name": "obd_gate", **settings}, images, labels, size=16)
    assert len(calls) == passes


class Pools(nn.Module):
    """Overlapping and uneven averages, a concatenation, a doubled tensor, a difference, a strided convolution."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 3, padding="same"), nn.Conv2d(3, 4, 3, padding=1)
        self.average, self.add = nn.AvgPool2d(3, 2, padding=1), nn.LeakyReLU(0.1)  # the name of an operation
        self.conv3, self.conv4 = nn.Conv2d(4, 2, 3, stride=2, padding=1), nn.Conv2d(4, 3, 4, stride=2, padding=1)
        self.conv5, self.fc = nn.Conv2d(5, 3, 1, padding=1), nn.Linear(3 * 4, 5)

    def forward(self, x):
        x = self.add(self.conv2(self.average(F.relu(self.conv1(x)))))
        x = x + x
        y = F.max_pool2d(torch.cat([self.conv3(x) - 0.1, F.relu(self.conv4(x))], 1), 2, 1)
        y = self.conv5(y)
        return self.fc(F.adaptive_avg_pool2d(y, 2).view(y.size(0), -1))


def slow_lecun(gated, image):
    """LeCun's diagonal of one image with the full Jacobian of every operation, squared by elements: double [maps]."""
    values, h, scores = {}, {}, torch.zeros(gated.groups.total, dtype=torch.float64)

    def call(node, replaced=None, by=None):
        if node.op == "placeholder":
            return image[None]
        fetch = lambda arg: by if arg is replaced else values[arg]  # noqa: E731
        args = torch.fx.node.map_arg(node.args, fetch)
        kwargs = torch.fx.node.map_arg(node.kwargs, fetch)
        if node.op == "call_module":
            return module_of(node)(*args, **kwargs)
        return getattr(args[0], node.target)(*args[1:]) if node.op == "call_method" else node.target(*args, **kwargs)

    nodes = [node for node in gated.network.eval().graph.nodes if node.op != "output"]
    with torch.no_grad():
        for node in nodes:
            values[node] = call(node)
    p = values[nodes[-1]].softmax(1)
    h[nodes[-1]] = p * (1 - p)
    for node in reversed(nodes):
        if node not in h:
            continue
        if isinstance(module_of(node), Gate):
            for channel, number in enumerate(module_of(node).index.tolist()):
                scores[number] += 0.5 * (h[node] * values[node].square())[0, channel].sum().double()
        for source in node.all_input_nodes:
            if isinstance(values[source], torch.Tensor) and source.op != "placeholder":
                jacobian = torch.autograd.functional.jacobian(lambda x: call(node, source, x), values[source])
                squares = jacobian.reshape(h[node].numel(), -1).square()
                h[source] = h.get(source, 0) + (h[node].flatten() @ squares).view_as(values[source])
    return scores


@pytest.mark.parametrize("kind", [*KINDS, Pools])
def test_lecun_equals_the_slow_diagonal(kind, capsys):
    torch.manual_seed(3)
    network, images, labels = small(kind) if kind is not Pools else (None, *small(Plain)[1:])
    if kind is Pools:
        network = warm_up(with_normalize(Pools(), (0.5,), (0.25,)), images, labels)
    gated = GatedNetwork(network, (1, 8, 8))
    images, labels = images[:3], labels[:3]
    scores = scores_of(gated, "obd_lecun", images, labels)
    expected = sum(slow_lecun(gated, image) for image in images) / 3
    assert (expected >= 0).all() and expected.median() > 0
    assert ((scores - expected).abs() <= 1e-4 * expected + 1e-6 * expected.max()).all()
    exact = scores_of(gated, {"name": "obd_gate", "estimator": "exact"}, images, labels)
    with capsys.disabled():
        ratio = (scores / exact)[exact > 1e-3 * exact.max()]
        print(
            f"\nobd_lecun / obd_gate, {kind.__name__}: median {ratio.median():.2f}, {ratio.min():.2f}..{ratio.max():.2f}"
        )


class Chains(nn.Module):
    """One map for each class, which reads nothing else: the Hessian has no off-diagonal terms that LeCun would drop,
    but those of the softmax, which don't reach a diagonal."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 5, 8), nn.BatchNorm2d(5)
        self.relu, self.fc = nn.ReLU(), nn.Linear(5, 5)
        self.fc.weight.data = torch.diag(torch.tensor([1.0, -0.7, 0.4, 1.3, 2.0]))

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.relu(self.bn(self.conv(x))), 1).flatten(1))


def test_lecun_is_exact_without_off_diagonal_terms():
    torch.manual_seed(0)
    _, images, labels = small(Plain)
    gated = GatedNetwork(with_normalize(Chains(), (0.5,), (0.25,)), (1, 8, 8))
    lecun, *exact = (
        scores_of(gated, settings, images, labels)
        for settings in (
            "obd_lecun", {"name": "obd_gate", "estimator": "exact"}, {"name": "obd_element", "estimator": "exact"},
        )
    )  # fmt: skip
    assert lecun.min() > 0
    for scores in exact:
        assert torch.allclose(lecun, scores, rtol=1e-4)


# Sums of terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ends_of_taylor_plus_activation(kind):
    network, images, labels = small(kind)
    gated = GatedNetwork(network, (1, 8, 8))

    def ranking(settings, normalize_kind="l2"):
        return scored(gated, settings, images, labels).ranking(torch.Generator(), normalize_kind)

    taylor, activation = ranking("taylor"), ranking("activation")
    assert torch.equal(ranking({"name": "taylor_activation", "lambda": 0}), taylor)
    assert torch.equal(ranking({"name": "taylor_activation", "lambda": 0}, "none"), ranking("taylor", "none"))
    huge = ranking({"name": "taylor_activation", "lambda": 1e9})
    assert torch.equal(huge.argsort(), activation.argsort())
    assert torch.allclose(ranking({"name": "taylor_activation", "lambda": 0.3}), taylor + 0.3 * activation)
    assert torch.allclose(ranking("taylor_activation"), taylor + activation)
    assert not torch.equal(taylor.argsort(), activation.argsort())


@pytest.mark.parametrize("kind", [*KINDS, Pools])
def test_flops_of_a_map_are_what_its_removal_saves(kind):
    torch.manual_seed(0)
    network = small(kind)[0] if kind is not Pools else with_normalize(Pools(), (0.5,), (0.25,))
    gated = GatedNetwork(network, (1, 8, 8))
    costs = scored(gated, {"name": "random", "flops_lambda": 1}, *batch(2, 8, 5, 1), train_mode=False).layer_costs
    for gone in ([], [1], [1, 5]):
        alive = torch.ones(gated.groups.total, dtype=torch.bool)
        alive[gone] = False
        gated.mask(alive)
        flops = map_flops(gated.network, gated.groups, alive, costs)
        before = 2 * count_cost(gated.shrink(), (1, 8, 8)).macs
        for number in range(gated.groups.total):
            without = alive.clone()
            without[number] = False
            if any(not without[layer.start : layer.stop].any() for layer in gated.groups.layers):
                continue  # a layer can't be emptied
            gated.mask(without)
            assert flops[number] == before - 2 * count_cost(gated.shrink(), (1, 8, 8)).macs
        gated.mask(alive)
        relative = relative_flops(gated.network, gated.groups, alive, costs)
        assert relative[alive].mean().item() == pytest.approx(1, abs=1e-5) and (relative[~alive] == 0).all()


@pytest.mark.parametrize("precision", ["fp16", "int8", "w4a4", "w2a2"])
@pytest.mark.parametrize("kind", [Plain, Residual])
def test_bit_weighted_flops_of_a_map_are_what_its_removal_saves(kind, precision):
    """Under quantisation: bit_gflops of the network prepared again at its smaller shape."""
    network, images, labels = small(kind)
    chosen = get_precision(precision, 8)
    gated = QuantizedGatedNetwork(network, (1, 8, 8), chosen, images)
    costs = scored(gated, {"name": "random", "flops_lambda": 1}, images, labels).layer_costs

    def bit_flops() -> float:
        return count_cost(chosen.prepare(gated.shrink(), images), (1, 8, 8)).bit_gflops * 1e9

    alive = torch.arange(gated.groups.total) != 1
    gated.mask(alive)
    flops, before = map_flops(gated.network, gated.groups, alive, costs), bit_flops()
    for number in [0, 2, gated.groups.total - 1]:
        gated.mask(alive & (torch.arange(gated.groups.total) != number))
        assert flops[number].item() == pytest.approx(before - bit_flops(), rel=1e-9)
    full = map_flops(
        network, GatedNetwork(network, (1, 8, 8)).groups, alive, layer_costs(network, gated.groups, (1, 8, 8))
    )
    assert (flops[alive] < full[alive]).all()


@pytest.mark.parametrize("settings", EVERY, ids=criterion_label)
def test_flops_term_is_taken_off_every_criterion(settings):
    network, images, labels = small(Residual)
    gated = GatedNetwork(network, (1, 8, 8))
    gated.mask(torch.arange(gated.groups.total) != 1)
    scorers = [scored(gated, {**settings, "flops_lambda": weight}, images, labels) for weight in (0, 0.25)]
    plain, with_flops = (scorer.ranking(torch.Generator().manual_seed(0)) for scorer in scorers)
    expected = plain - 0.25 * relative_flops(gated.network, gated.groups, gated.alive, scorers[1].layer_costs)
    assert torch.allclose(with_flops, expected) and not torch.allclose(with_flops, plain)


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, parts",
    [
        ({"name": "tailor"}, ["unknown criterion 'tailor'", "did you mean 'taylor'?"]),
        ({}, ["need a name"]),
        ({"name": ["taylor"]}, ["need a name"]),
        ({"name": "taylor", "lambda": 1}, ["taylor: unknown option 'lambda'", "flops_lambda"]),
        ({"name": "taylor_activation", "lamda": 1}, ["unknown option 'lamda'; did you mean 'lambda'?"]),
        ({"name": "taylor_activation", "lambda": -1}, ["lambda is -1", "a number from 0"]),
        ({"name": "taylor_activation", "lambda": True}, ["lambda is true"]),
        ({"name": "taylor_activation", "lambda": "vc"}, ["lambda is 'vc'", '"cv"']),
        ({"name": "taylor", "flops_lambda": float("nan")}, ["flops_lambda is nan"]),
        ({"name": "taylor", "flops_lambda": "cv"}, ["flops_lambda is 'cv'"]),
        ({"name": "obd_gate", "estimator": "montecarlo"}, ["estimator is 'montecarlo'", "mc, exact, hutchinson"]),
        ({"name": "obd_gate", "estimator": ["mc"]}, ["estimator is ['mc']"]),
        ({"name": "obd_gate", "samples": 0}, ["samples is 0", "whole number from 1"]),
        ({"name": "obd_gate", "samples": 2.0}, ["samples is 2.0"]),
        ({"name": "obd_element", "estimator": "exact", "samples": 4}, ["samples is 4", "leave samples out"]),
        ({"name": "obd_lecun", "estimator": "exact"}, ["unknown option 'estimator'"]),
    ],
)
def test_bad_settings_say_so(settings, parts):
    for function in (check_criterion, criterion_label, get_criterion):
        with pytest.raises(UserError) as error:
            function(settings)
        assert all(part in str(error.value) for part in parts), str(error.value)


def test_labels_are_one_to_one():
    labels = {
        "taylor": [{"name": "taylor"}, {"name": "taylor", "flops_lambda": 0}, {"name": "taylor", "flops_lambda": -0.0}],
        "taylor.flops_lambda_1e_05": [{"name": "taylor", "flops_lambda": 1e-5}],
        "taylor_activation": [{"name": "taylor_activation", "lambda": 1}, {"name": "taylor_activation"}],
        "taylor_activation.lambda_0.1": [{"name": "taylor_activation", "lambda": 0.1}],
        "taylor_activation.lambda_2": [
            {"name": "taylor_activation", "lambda": 2}, {"name": "taylor_activation", "lambda": 2.0},
        ],
        "taylor_activation.lambda_cv": [{"name": "taylor_activation", "lambda": "cv"}],
        "obd_gate": [{"name": "obd_gate", "samples": 1, "estimator": "mc"}],
        "obd_gate.estimator_hutchinson.samples_3": [{"samples": 3, "name": "obd_gate", "estimator": "hutchinson"}],
    }  # fmt: skip
    for label, choices in labels.items():
        assert [criterion_label(choice) for choice in choices] == [label] * len(choices)
        assert not set(label) - set("abcdefghijklmnopqrstuvwxyz0123456789_.")


def test_lambda_must_be_chosen_before_scoring():
    check_criterion({"name": "taylor_activation", "lambda": "cv"})
    with pytest.raises(UserError, match="lambda must be chosen first"):
        get_criterion({"name": "taylor_activation", "lambda": "cv"})


def test_settings_are_checked_without_torch():
    code = (
        "import sys; from qprune.pruning.criteria import *; check_criterion({'name': 'obd_gate', 'samples': 2}); "
        "criterion_label({'name': 'taylor'}); CRITERIA.names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
