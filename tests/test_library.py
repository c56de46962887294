"""prune, quantize, score and count_cost on a user's own model, without a sweep file."""

import copy

import pytest
import torch
from networks import Depthwise, Plain, Residual
from small_training import images_and_labels
from this_machine import INT8_ACTIVATIONS
from torch import nn
from torch.nn import functional as F

import qprune
from qprune.registry.errors import UserError

KINDS = [Plain, Residual, Depthwise]
PRUNABLE = {Plain: 4 + 6, Residual: 4 + 3 + 5, Depthwise: 4 + 8}  # maps; coupled ones count once


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def trained(request):
    """A user's model as it comes out of the user's own loop, on images divided by 255."""
    torch.manual_seed(1)
    model, (images, labels) = request.param(), images_and_labels()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(images.float() / 255), labels).backward()
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    images, labels = images_and_labels(200)
    with torch.no_grad():
        return (model(images.float() / 255).argmax(1) == labels).double().mean().item()


def unchanged(model: nn.Module, before: dict) -> bool:
    return all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_prune_gives_a_smaller_working_copy(trained):
    before = copy.deepcopy(trained.state_dict())
    images, labels = images_and_labels()
    smaller = qprune.prune(trained, images, labels, 0.5, lr=0.05, step=0.1, updates=60, batch_size=16)
    total = PRUNABLE[type(trained)]
    costs = [qprune.count_cost(network, (1, 8, 8)) for network in (trained, smaller)]
    removed = [
        dense.channels_out - small.channels_out for dense, small in zip(costs[0].layers, costs[1].layers, strict=True)
    ]
    assert -(-total // 2) == distinct_removed(type(trained), removed)
    assert costs[1].macs < costs[0].macs and not smaller.training
    assert unchanged(trained, before) and not trained.training
    if type(trained) is Plain:  # the other two have too few maps to lose half of them
        assert accuracy(smaller) > 0.9


def distinct_removed(kind: type, removed: list[int]) -> int:
    """Maps that are gone, a coupled one once; removed: channels out per layer, in the order of forward."""
    if kind is Plain:
        return sum(removed)
    if kind is Residual:
        stem, a1, a2, b1, b2, _ = removed
        assert stem == a2 == b2
        return stem + a1 + b1
    stem, expand, depthwise, project, _ = removed
    assert stem == project and expand == depthwise
    return stem + expand


@pytest.mark.parametrize("of", ["macs", "params"])
def test_a_ratio_of_macs_or_parameters(of):
    """So much is gone, and with the last step less it was not."""
    torch.manual_seed(1)
    images, labels = images_and_labels()
    before = qprune.count_cost(Plain(), (1, 8, 8))
    smaller = qprune.prune(Plain(), images, labels, 0.4, of=of, step=0.1, updates=40, batch_size=16)
    after = qprune.count_cost(smaller, (1, 8, 8))
    lost = 1 - getattr(after, of) / getattr(before, of)
    assert 0.4 <= lost < 0.65  # a step is one of 10 maps


def test_prune_recovers_what_its_path_has_lost():
    """The rest of the updates is one more decay: the same path alone loses more."""
    torch.manual_seed(1)
    model, (images, labels) = Plain(), images_and_labels()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(images.float() / 255), labels).backward()
        optimizer.step()
    long, short = (
        qprune.prune(model.eval(), images, labels, 0.5, lr=0.05, step=0.1, updates=updates, batch_size=16)
        for updates in (120, 6)
    )
    losses = [F.cross_entropy(network(images.float() / 255), labels).item() for network in (long, short)]
    assert losses[0] < losses[1] / 2 and accuracy(long) > 0.9


def test_prune_is_reproducible_and_takes_float_images(trained):
    images, labels = images_and_labels()
    settings = {"lr": 0.05, "step": 0.2, "updates": 20, "batch_size": 16}
    first = qprune.prune(trained, images, labels, 0.4, **settings)
    again = qprune.prune(trained, images.float() / 255, labels, 0.4, **settings)
    other = qprune.prune(trained, images, labels, 0.4, criterion="random", seed=3, **settings)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    shapes = [[p.shape for p in network.parameters()] for network in (first, other)]
    assert shapes[0] != shapes[1] or not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4", "w3a5"])
def test_quantize_then_count_cost(trained, precision):
    before = copy.deepcopy(trained.state_dict())
    images, labels = images_and_labels()
    network = qprune.quantize(trained, images, labels, precision, updates=15, lr=0.02, batch_size=16)
    first, inner, last = {
        "fp16": (16 * 16, 16 * 16, 16 * 16),
        "int8": (8 * INT8_ACTIVATIONS,) * 3,
        "int4": (8 * 8, 4 * 4, 8 * 8),
        "w3a5": (8 * 8, 3 * 5, 8 * 8),
    }[precision]
    dense = qprune.count_cost(trained, (1, 8, 8))
    macs = [layer.macs for layer in dense.layers]
    assert dense.gbops == pytest.approx(sum(macs) * 32 * 32 / 1e9)
    expected = macs[0] * first + sum(macs[1:-1]) * inner + macs[-1] * last
    assert qprune.count_cost(network, (1, 8, 8)).gbops == pytest.approx(expected / 1e9)
    if type(trained) is Plain:
        assert accuracy(network) > 0.9
    assert unchanged(trained, before) and not trained.training


@pytest.mark.parametrize(
    "criterion", ["taylor", "taylor_signed", "taylor_element", "activation", "weight_norm", "random"]
)
def test_scores_of_each_layer_have_norm_1(trained, criterion):
    before = copy.deepcopy(trained.state_dict())
    images, labels = images_and_labels()
    scores = qprune.score(trained, images, labels, criterion, batch_size=20)
    assert sum(len(layer) for layer in scores.values()) == PRUNABLE[type(trained)]
    for layer, values in scores.items():
        assert values.norm().item() == pytest.approx(1, abs=1e-5), layer
        assert trained.get_submodule(layer) is not None
    assert unchanged(trained, before)
    if criterion != "random":
        other_batches = qprune.score(trained, images, labels, criterion, batch_size=64)
        if criterion in ("taylor", "activation", "weight_norm"):  # means over examples: but 64 = 3 x 20 + 4
            for layer in scores:
                assert torch.allclose(scores[layer], other_batches[layer], atol=0.2)


def test_what_cannot_be_asked_for(trained):
    images, labels = images_and_labels()
    with pytest.raises(UserError, match="can't be reached"):
        qprune.prune(trained, images, labels, 0.95)
    with pytest.raises(UserError, match="3 updates are too few for the .* steps of the path"):
        qprune.prune(trained, images, labels, 0.5, updates=3)
    with pytest.raises(UserError, match="of is 'mac'; it must be one of maps, macs, params"):
        qprune.prune(trained, images, labels, 0.5, of="mac")
    with pytest.raises(UserError, match=r"'int4'|'int8'"):
        qprune.quantize(trained, images, labels, "in4")
    with pytest.raises(UserError, match="'taylor'"):
        qprune.score(trained, images, labels, "tailor")
