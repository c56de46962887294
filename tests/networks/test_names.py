"""Modules that qprune adds take names that the network's own haven't."""

import pytest
import torch
from networks import batch, warm_up
from torch import nn
from torch.nn import functional as F

from qprune.deploy.half import native_half, stored_half
from qprune.networks import load_checkpoint, load_pretrained
from qprune.networks.graph import trace, with_normalize
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.registry.errors import UserError


class Taken(nn.Module):
    """A network whose layers are called as what qprune and torch.ao add."""

    def __init__(self):
        super().__init__()
        self.normalize = nn.BatchNorm2d(1)
        self.gate_0, self.gate_1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.quant_0, self.round_half_0 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.activation_post_process_0 = nn.Conv2d(6, 6, 1)
        self.dropout, self.to_float = nn.Linear(6, 7), nn.Linear(7, 5)

    def forward(self, x):
        x = F.relu(self.gate_1(self.gate_0(self.normalize(x))))
        x = F.relu(self.activation_post_process_0(F.relu(self.round_half_0(self.quant_0(x)))))
        x = F.dropout(x.mean((2, 3)), 0.1, self.training)
        return self.to_float(F.relu(self.dropout(x)))


@pytest.fixture
def taken():
    """(the network in plain torch, traced behind a normalisation, images)."""
    torch.manual_seed(5)
    model, (images, labels) = Taken(), batch(16, 8, 5, 1)
    warm_up(model, images, labels)
    return model.eval(), with_normalize(model, (0.5,), (0.25,)).eval(), images


def test_no_layer_is_replaced(taken):
    model, network, images = taken
    assert torch.allclose(network(images), model((images - 0.5) / 0.25), atol=1e-6)
    own = {name: type(module) for name, module in model.named_modules() if name}
    assert {name: type(network.get_submodule(name)) for name in own} == own
    assert set(model.state_dict()) < set(network.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w8a8"])
def test_it_is_pruned_and_quantised(taken, precision):
    _, network, images = taken
    number_format = get_precision(precision, 8)
    gated = GatedNetwork(network, (1, 8, 8), linear=True)
    assert [layer.name for layer in gated.groups.layers] == [
        "gate_0",
        "quant_0",
        "activation_post_process_0",
        "dropout",
    ]
    assert torch.equal(gated.network.eval()(images), network(images))
    prepared = QuantizedGatedNetwork(network, (1, 8, 8), number_format, images, linear=True)
    assert torch.allclose(prepared.network.eval()(images), network(images), atol=0.1)
    gated.mask(torch.arange(gated.groups.total) % 4 != 0)
    smaller = gated.shrink()
    finished = number_format.finish(number_format.prepare(smaller, images))
    assert torch.allclose(finished(images), smaller.eval()(images), atol=0.1)
    if precision == "fp16":
        assert torch.equal(stored_half(finished)(images), finished(images))
        assert torch.allclose(native_half(finished)(images), finished(images), atol=0.05)


def test_an_own_normalize_is_loaded_from_pretraining_and_checkpoints(taken, tmp_path):
    model, network, images = taken
    fresh = with_normalize(Taken(), (0.5,), (0.25,)).eval()
    load_pretrained(fresh, network.state_dict(), "the pretraining")
    assert torch.equal(fresh.normalize.running_mean, model.normalize.running_mean)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    fresh = with_normalize(Taken(), (0.5,), (0.25,)).eval()
    load_checkpoint(fresh, tmp_path / "own.pt")
    assert torch.equal(fresh(images), network(images))


@pytest.mark.parametrize("name", ["graph", "code", "meta"])
def test_a_layer_with_a_name_of_torch_fx_is_refused(name):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, name, nn.Conv2d(1, 2, 3))

        def forward(self, x):
            return getattr(self, name)(x).mean((2, 3))

    with pytest.raises(UserError, match=f"Named.*'{name}'.*another name"):
        trace(Named())
