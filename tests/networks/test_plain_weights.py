"""Layers whose weights are computed (weight_norm, spectral_norm) are plain layers of these weights in a traced network."""

import pytest
import torch
from networks import batch, warm_up
from torch import nn
from torch.nn import functional as F
from torch.nn import utils

import qprune
from qprune.cost import count_cost
from qprune.networks import load_checkpoint
from qprune.networks.graph import trace, with_normalize
from qprune.precision import get_precision

FORMS = {
    "weight_norm": utils.parametrizations.weight_norm,
    "weight_norm, older": utils.weight_norm,
    "weight_norm of a number": lambda layer: utils.parametrizations.weight_norm(layer, dim=None),
    "spectral_norm": utils.parametrizations.spectral_norm,
    "spectral_norm, older": utils.spectral_norm,
}
PARAMS = 4 * 9 + 4 + 6 * 4 * 9 + 6 + 6 * 5 + 5


class Normed(nn.Module):
    """3 x 3 to 4 maps, 3 x 3 to 6, the mean of each, linear; each layer's weight is computed."""

    def __init__(self, form: str):
        super().__init__()
        self.a, self.b = FORMS[form](nn.Conv2d(1, 4, 3, padding=1)), FORMS[form](nn.Conv2d(4, 6, 3))
        self.head = FORMS[form](nn.Linear(6, 5))

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


@pytest.fixture(params=FORMS)
def normed(request):
    torch.manual_seed(2)
    images, labels = batch(32, 8, 5, 1)
    return warm_up(Normed(request.param), images, labels).eval(), images, labels


def test_the_network_is_the_same_and_the_model_stays_as_it_is(normed):
    model, images, _ = normed
    state, expected = {name: t.clone() for name, t in model.state_dict().items()}, model(images)
    network = trace(model)
    assert torch.allclose(network(images), expected, atol=1e-6)
    assert {type(network.get_submodule(name)) for name in ("a", "b")} == {nn.Conv2d}
    assert sorted(name for name, _ in network.named_parameters()) == [
        "a.bias", "a.weight", "b.bias", "b.weight", "head.bias", "head.weight",
    ]  # fmt: skip
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(images), expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w4a4"])
def test_it_is_pruned_trained_and_quantised_and_counts_what_is_there(normed, precision):
    model, images, labels = normed
    network = with_normalize(model, (0.5,), (0.25,))
    prepared = get_precision(precision).prepare(network, images)
    F.cross_entropy(prepared.train()(images), labels).backward()
    finished = get_precision(precision).finish(prepared)
    expected = prepared.eval()(images)
    assert (finished(images) - expected).abs().max() <= 0.02 * (expected.max() - expected.min())
    cost = count_cost(finished, (1, 8, 8))
    bits = get_precision(precision).entry.bits[0]
    assert cost.params == PARAMS and cost.macs == 64 * 36 + 36 * 216 + 30
    assert cost.layers[1].w_bits == bits and cost.layers[1].weight_elements == 216


def test_half_of_its_maps_go(normed):
    model, images, labels = normed
    smaller = qprune.prune(model, images, labels, 0.5, updates=20, step=0.25)
    assert smaller.a.out_channels + smaller.b.out_channels == 5


@pytest.mark.parametrize("form", ["weight_norm", "weight_norm, older", "weight_norm of a number"])
def test_a_checkpoint_of_either_form(form, tmp_path):
    saved = warm_up(Normed(form), *batch(32, 8, 5, 1)).eval()
    torch.save(saved.state_dict(), tmp_path / "file.pt")
    network = with_normalize(Normed("weight_norm"), (0.0,), (1.0,)).eval()
    load_checkpoint(network, tmp_path / "file.pt")
    images, _ = batch(8, 8, 5, 1)
    assert torch.allclose(network(images), saved(images), atol=1e-6)


def test_frozen_stays_frozen():
    model = Normed("weight_norm")
    model.a.requires_grad_(False)
    network = trace(model)
    assert not network.a.weight.requires_grad and network.b.weight.requires_grad
