"""weight_bytes against the tensors of the network that is handed over, each storage once."""

import pytest
import torch
from networks import Depthwise, Plain, Residual, batch, make
from stored_bytes import stored_bytes
from torch import nn
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision

GREY = (1, 8, 8)
POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Twice(nn.Module):
    """A convolution that runs twice, a sum that is normalised by itself, and a parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.gain, self.head = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(4, 5)

    def forward(self, x):
        x = self.a(x)
        x = F.relu(self.norm(self.b(self.b(x)) + x))
        return self.head((x * self.gain).mean((2, 3)))


def head(*layers, bias=True):
    """Linear and what follows it, behind a convolution of 4 maps."""
    ends = nn.Linear(4, 8, bias=bias), *layers, nn.Linear(8, 5, bias=bias)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=bias), nn.ReLU(), *POOL, *ends)


def body(*layers):
    """A convolution of 4 maps and what follows it."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, *POOL, nn.Linear(4, 5))


KINDS = {
    "plain": Plain,
    "residual": Residual,
    "depthwise": Depthwise,
    "twice": Twice,
    "linear_norm_relu": lambda: head(nn.BatchNorm1d(8), nn.ReLU()),
    "linear_norm": lambda: head(nn.BatchNorm1d(8)),
    "linear_norm_no_bias": lambda: head(nn.BatchNorm1d(8), nn.ReLU(), bias=False),
    "norm_first": lambda: nn.Sequential(nn.BatchNorm2d(1), body(nn.ReLU())),
    "norm_after_relu": lambda: body(nn.ReLU(), nn.BatchNorm2d(4)),
    "group_norm": lambda: body(nn.GroupNorm(2, 4), nn.ReLU()),
    "dropout": lambda: body(nn.ReLU(), nn.Dropout(0.5)),
    "leaky": lambda: body(nn.LeakyReLU()),
    "hardswish": lambda: body(nn.Hardswish()),
}
TRAINED_ALONE = {"depthwise", "twice", "dropout"}  # their int8 form has other quantisers than the trained one


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w4a4", "w3a8", "mixed2.5"])
@pytest.mark.parametrize("kind", KINDS)
def test_weight_bytes_are_those_of_the_tensors(kind, precision):
    torch.manual_seed(0)
    images, labels = batch(8, 8, 5, 1)
    network = with_normalize(KINDS[kind](), (0.45,), (0.25,))
    number_format = get_precision(precision).choose(network, images)
    trained = number_format.prepare(network, images).train()
    F.cross_entropy(trained(images), labels).backward()
    finished = number_format.finish(trained.eval())
    counted = count_cost(finished, GREY).weight_bytes
    assert counted == stored_bytes(finished)
    assert abs(count_cost(trained, GREY).weight_bytes - counted) <= (10 if kind in TRAINED_ALONE else 0)


def test_a_normalisation_behind_a_linear_layer_by_hand():
    """36 + 32 + 40 weights; biases 4, 8, 5, into which int8 folds BN; scale and zero point, 5 bytes, of 4 + 8 + 5 maps and 4 tensors."""
    network = with_normalize(head(nn.BatchNorm1d(8), nn.ReLU()), (0.45,), (0.25,))
    assert count_cost(network, GREY).weight_bytes == 4 * (108 + 17 + 4 * 8 + 2)
    trained = get_precision("int8").prepare(network, torch.rand(4, 1, 8, 8))
    assert count_cost(trained.eval(), GREY).weight_bytes == 108 + 4 * (17 + 2) + 5 * (17 + 5)


@pytest.mark.parametrize(
    ("precision", "size"), [("w8a8", 77_360), ("int8", 77_360), ("w4a8", 38_680), ("w2a8", 19_340)]
)
def test_the_weights_of_resnet8_weigh_what_papers_say(precision, size):
    """77.3, 38.8 and 19.4 kB in Motetti et al. (2024), whose first and last layers are as narrow as the others."""
    network = make("resnet8", 32)
    prepared = get_precision(precision, first_last_bits=None).prepare(network, torch.rand(4, 3, 32, 32))
    assert count_cost(prepared, (3, 32, 32)).weight_bits_bytes == size
