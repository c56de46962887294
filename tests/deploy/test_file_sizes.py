"""A file weighs what cost promised: stored_bytes and the graph without its weights, within 10%; and is what was evaluated."""

import pytest
import torch
from file_sizes import FILES, PRECISIONS, measured, untrained
from networks import Depthwise, Plain, Residual, small
from torch import nn

from qprune.deploy.check import REQUIRED_AGREEMENT
from qprune.deploy.formats import FORMATS
from qprune.deploy.stored import Stored, restore, store
from qprune.networks.graph import with_normalize
from qprune.precision import PRECISIONS as ENTRIES
from qprune.precision import get_precision
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec

SMALL = {"name": "vgg_tiny", "width": 0.25}
BIGGER = {"name": "resnet20", "width": 0.5}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_weighs_what_was_promised(tmp_path, precision):
    cell = untrained(SMALL, precision)
    for format in FILES:
        if FORMATS.get(format).can_hold(ENTRIES.get(precision).name):
            row = measured(cell, format, tmp_path)
            assert -0.1 <= row["above_promise"] <= 0.1, row
            assert format == "onnx" or row["largest_difference"] == 0


@pytest.mark.parametrize("precision", ["int8", "w3a8", "fp16"])
def test_and_so_does_a_bigger_one(tmp_path, precision):
    cell = untrained(BIGGER, precision, 3, 16)
    for format in ("onnx", "torch"):
        row = measured(cell, format, tmp_path)
        assert -0.1 <= row["above_promise"] <= 0.1, row
        assert row["agreement"] >= REQUIRED_AGREEMENT or precision != "fp16"


# Format torch: bit for bit ----------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """What torch.ao converts otherwise than a plain convolution: transposed, normalised in groups, ELU, a sum, a sigmoid."""

    def __init__(self):
        super().__init__()
        self.a, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm, self.elu, self.gate = nn.GroupNorm(2, 4), nn.ELU(), nn.Sigmoid()
        self.hidden, self.bn, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5, bias=False)

    def forward(self, images):
        maps = self.up(self.elu(self.norm(self.a(images))))
        maps = maps + self.gate(maps)
        return self.head(torch.relu(self.bn(self.hidden(maps.mean((2, 3))))))


def made(kind: type, precision: str):
    """(spec, the network that is built by it, evaluated network, its trained tensors, images)"""
    if kind is Odd:
        torch.manual_seed(0)
        network, images = with_normalize(Odd(), (0.45,), (0.25,)), torch.rand(16, 1, 8, 8)
    else:
        network, images, _ = small(kind)

    class Spec(NetworkSpec):
        def build(self, pretrained: bool = False):
            torch.manual_seed(1)  # other weights
            return with_normalize(kind(), (0.45,), (0.25,))

    number_format = get_precision(precision).choose(network, images)
    trained = number_format.prepare(network, images)
    spec = Spec(
        {"name": "own"}, 1, 8, 5, (0.45,), (0.25,), precision=number_format.name, layer_bits=number_format.layer_bits
    )
    return spec, number_format.finish(trained).eval(), trained.state_dict(), images


EVERY = [
    (kind, one) for kind in (Plain, Residual, Depthwise) for one in ("fp32", "fp16", "int8", "w2a8", "w4a4", "mixed3")
]


@pytest.mark.parametrize("kind, precision", [*EVERY, (Odd, "int8"), (Odd, "fp16")])
def test_what_is_stored_is_the_evaluated_network(kind, precision):
    spec, network, trained, images = made(kind, precision)
    tensors, stored = store(network, trained)
    again = restore(spec, tensors, Stored.from_json(stored.to_json()))
    with torch.no_grad():
        assert torch.equal(again(images), network(images))
    if ENTRIES.get(spec.precision).weights == "integer":
        weights = {name: one for name, one in tensors.items() if name.endswith("weight") and one.dim() in (2, 4)}
        assert {one.dtype for one in weights.values()} <= {torch.int8}
        assert bool(stored.packed) == (spec.precision != "int8")


def test_a_file_without_a_tensor_is_told():
    spec, network, trained, _ = made(Plain, "int8")
    tensors, stored = store(network, trained)
    name = next(name for name in tensors if name.endswith("weight_scale"))
    del tensors[name]
    with pytest.raises(UserError, match=f"not those of its network: {name}"):
        restore(spec, tensors, stored)
