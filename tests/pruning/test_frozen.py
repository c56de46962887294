"""Frozen layers (requires_grad=False): pruned as others are, never trained, frozen in the network that is handed over."""

import copy

import pytest
import torch
from networks import Depthwise, Plain, Residual, batch, warm_up
from torch import nn
from torch.nn import functional as F

from qprune import library
from qprune.cost import count_cost
from qprune.data import Split
from qprune.networks.graph import trace, with_normalize
from qprune.precision import get_precision
from qprune.pruning.criteria import CRITERIA, get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.pruning.shrink import layer_widths, resize
from qprune.recipe import Recipe, constant
from qprune.registry.errors import UserError
from qprune.stages.narrow import narrowed
from qprune.training import train


def frozen(kind, *names):
    """(the network with those layers frozen, the same without, images, labels)."""
    torch.manual_seed(4)
    model, (images, labels) = kind(), batch(16, 8, 5, 1)
    free = warm_up(with_normalize(model, (0.5,), (0.25,)), images, labels)
    network = copy.deepcopy(free)
    for name in names:
        network.get_submodule(name).requires_grad_(False)
    return network, free, images, labels


def flags(network):
    return {name: parameter.requires_grad for name, parameter in network.named_parameters()}


KINDS = [(Plain, "conv1", "bn1"), (Residual, "stem", "bn", "a1"), (Depthwise, "expand", "depthwise"), (Plain, "conv2")]


@pytest.mark.parametrize("kind", KINDS)
def test_their_maps_are_pruned_as_others_are(kind):
    network, free, images, _ = frozen(*kind)
    gated, other = GatedNetwork(network, (1, 8, 8)), GatedNetwork(free, (1, 8, 8))
    assert gated.groups.layers == other.groups.layers and flags(gated.network) == flags(network)
    alive = torch.arange(gated.groups.total) % 3 != 0
    gated.mask(alive), other.mask(alive)
    smaller, same = gated.shrink(), other.shrink()
    assert count_cost(smaller, (1, 8, 8)) == count_cost(same, (1, 8, 8))
    assert torch.equal(smaller.eval()(images), same.eval()(images))
    assert flags(smaller) == flags(network) == flags(resize(network, layer_widths(smaller)))


@pytest.mark.parametrize("name", CRITERIA.names())
@pytest.mark.parametrize("kind", KINDS[:2])
def test_they_are_scored_as_others_are(kind, name):
    network, free, images, labels = frozen(*kind)
    found = []
    for each in (network, free):
        gated = GatedNetwork(each, (1, 8, 8))
        scorer, before = Scorer(gated.network, gated.groups, gated.gates, get_criterion(name)), flags(gated.network)
        gated.network.eval()
        for part in (slice(0, 8), slice(8, 16)):
            torch.manual_seed(1)
            gated.network.zero_grad()
            with scorer.minibatch():
                F.cross_entropy(gated.network(images[part]), labels[part]).backward()
        found.append(scorer.scores(torch.Generator().manual_seed(3)))
        assert flags(gated.network) == before
        assert all(p.grad is None for p in gated.network.parameters() if not p.requires_grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w4a4", "mixed4"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_no_phase_trains_them(kind, precision, optimizer):
    network, _, images, labels = frozen(*kind)
    split = Split((images * 255).to(torch.uint8), labels)
    recipe, still = Recipe(batch_size=8, optimizer=optimizer), {n for n, needed in flags(network).items() if not needed}
    number_format = get_precision(precision).choose(network, images)
    gated = QuantizedGatedNetwork(network, (1, 8, 8), number_format, images)
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion("taylor_2019"))
    train(gated.network, split, recipe, range(3), constant(0.1), 0, scorer=scorer)
    masters = gated.masters()
    assert all(torch.equal(masters[name], network.state_dict()[name]) for name in still)
    gated.mask(torch.arange(gated.groups.total) % 3 != 0)
    smaller = gated.shrink()
    assert {n for n, needed in flags(smaller).items() if not needed} == still
    prepared = number_format.prepare(smaller, images)
    train(prepared, split, recipe, range(3), constant(0.1), 0)
    after, before = number_format.masters(prepared, smaller), smaller.state_dict()
    moved = {name for name, _ in smaller.named_parameters() if not torch.equal(after[name], before[name])}
    assert moved and not moved & still
    handed = {id(p): needed for p, needed in zip(prepared.parameters(), flags(prepared).values(), strict=True)}
    kept = {name: tensor for name, tensor in number_format.masters(prepared, smaller).items() if name in still}
    assert len(kept) == len(still) and sum(not needed for needed in handed.values()) >= len(still)


def test_the_library_leaves_them_as_they_are():
    network, _, images, labels = frozen(Plain, "conv1", "bn1")
    before = network.conv1.weight.detach().clone()
    smaller = library.prune(network, images, labels, 0.4, updates=30, batch_size=8)
    assert not smaller.conv1.weight.requires_grad and smaller.conv2.weight.requires_grad
    rows = {tuple(row.flatten().tolist()) for row in before}
    assert len(smaller.conv1.weight) < 4 and all(tuple(row.flatten().tolist()) in rows for row in smaller.conv1.weight)
    quantised = library.quantize(smaller, images, labels, "w4a4", updates=3, teacher=network)
    assert torch.equal(quantised.conv1.weight, smaller.conv1.weight) and not quantised.conv1.weight.requires_grad


def test_a_narrower_network_keeps_the_values_of_frozen_layers():
    network, _, _, _ = frozen(Plain, "conv2")
    gated = GatedNetwork(network, (1, 8, 8))
    gated.mask(torch.arange(gated.groups.total) != 0)
    assert torch.equal(narrowed(gated).conv2.weight, network.conv2.weight[:, 1:])


class KeepsStill(Plain):
    """Batch normalisation that stays in evaluation, as in detectors."""

    def train(self, mode=True):
        super().train(mode)
        self.bn1.eval()
        return self


def test_batch_normalisation_that_train_leaves_in_evaluation_stays_so():
    torch.manual_seed(4)
    model, (images, labels) = KeepsStill(), batch(16, 8, 5, 1)
    model.bn1.running_mean.uniform_(), model.bn1.running_var.uniform_(0.5, 1)
    network = trace(model.train()).train()
    torch.testing.assert_close(network(images), model(images))
    statistics = model.bn1.running_mean.clone()
    smaller = library.prune(model, images, labels, 0.4, updates=30, batch_size=8)
    assert set(smaller.bn1.running_mean.tolist()) < set(statistics.tolist()) and not smaller.train().bn1.training
    assert not set(smaller.bn2.running_mean.tolist()) & set(model.bn2.running_mean.tolist())
    for precision in ("int8", "w8a8", "fp16"):
        finished = library.quantize(smaller, images, labels, precision, updates=2, lr=1e-6)
        torch.testing.assert_close(finished(images), smaller.eval()(images), atol=0.1, rtol=0)


def test_a_network_that_is_frozen_whole_cant_be_trained():
    network, _, images, labels = frozen(Plain, "")
    with pytest.raises(UserError, match="every parameter of the network is frozen"):
        library.quantize(nn.Sequential(network), images, labels, "int8", updates=1)
