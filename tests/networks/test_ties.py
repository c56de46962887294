"""Layers that share a tensor are refused wherever a network comes in; a layer that runs twice is counted once."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qprune
from qprune.cost import count_cost
from qprune.networks.graph import trace
from qprune.registry.errors import UserError


class Tied(nn.Module):
    """Two convolutions of 8 maps, of 3 x 3; how: what ties them."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)
        if how == "weight":
            self.b.weight = self.a.weight
        elif how == "bias":
            self.b.bias = self.a.bias
        elif how == "view":
            self.b.weight = nn.Parameter(self.a.weight.transpose(2, 3))
        elif how == "statistics":
            self.other.running_mean = self.norm.running_mean
        elif how == "one layer":
            self.b = self.a

    def forward(self, x):
        x = self.norm(self.a(F.relu(self.first(x))))
        x = F.conv2d(x, self.a.weight, padding=1) if self.how == "borrowed" else self.b(x)
        x = F.relu(self.other(x)).mean((2, 3))
        return self.head(x.to(self.head.weight.dtype))


@pytest.mark.parametrize("how, names", [
    ("weight", ["a.weight", "b.weight"]), ("bias", ["a.bias", "b.bias"]), ("view", ["a.weight", "b.weight"]),
    ("statistics", ["norm.running_mean", "other.running_mean"]), ("borrowed", ["a.weight", "conv2d"]),
])  # fmt: skip
def test_a_tie_is_refused_and_both_are_named(how, names):
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    ways = [trace, lambda model: count_cost(model, (1, 8, 8)),
            lambda model: qprune.prune(model, images, labels, 0.5, updates=20),
            lambda model: qprune.quantize(model, images, labels, "w4a4", updates=1),
            lambda model: qprune.score(model, images, labels)]  # fmt: skip
    for way in ways:
        with pytest.raises(UserError, match="share one tensor") as error:
            way(Tied(how))
        assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize("how", ["", "one layer"])
def test_one_layer_twice_is_no_tie(how):
    """72 + 8 + (1 or 2) x (576 + 8) + 2 x 16 + 90."""
    assert count_cost(Tied(how), (1, 8, 8)).params == 202 + 584 * (1 if how else 2)
