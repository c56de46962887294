"""peak_activation_bytes against sums made by hand: of each operation, what it reads and gives, and what is read later."""

import operator

import pytest
import torch
from networks import Plain, Residual, small
from torch import nn
from torch.nn import functional as F

import qprune
from qprune.cost import count_cost
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision
from qprune.registry.errors import UserError

IMAGE = (1, 8, 8)


def conv(c_in, c_out, **options):
    return nn.Conv2d(c_in, c_out, 3, padding=1, **options)


def peak(network, image=IMAGE):
    return count_cost(network, image).peak_activation_bytes


class Forward(nn.Module):
    """Two convolutions, 1 -> 4 -> 4 maps, and a forward of them and an image."""

    def __init__(self, forward):
        super().__init__()
        self.one, self.two, self.made = conv(1, 4), conv(4, 4), forward

    def forward(self, x):
        return self.made(self, x)


CASES = {  # in values of an 8x8 map, 64 each
    # one reads 1 and gives 4; two reads 4 and gives 4
    "chain": (lambda self, x: self.two(self.one(x)), 4 + 4),
    # the skip stays alive: two reads 4 and gives 4, the sum reads both and gives 4
    "residual": (lambda self, x: operator.add(y := self.one(x), self.two(y)), 4 + 4 + 4),
    # the sum's operands and the sum, while the image waits to be added
    "image kept": (lambda self, x: self.two(self.one(x)) + self.one(x) + x, 4 + 4 + 4 + 1),
    # the inputs of a concatenation and its output are alive together
    "dense": (lambda self, x: torch.cat([y := self.one(x), self.two(y)], 1), 4 + 4 + 8),
    # a ReLU writes over what it reads, whether it is said to or not
    "relu": (lambda self, x: self.two(F.relu(self.one(x))), 4 + 4),
    "relu in place": (lambda self, x: self.two(F.relu(self.one(x), inplace=True)), 4 + 4),
    # but not where that is read again: y, relu(y) while two reads one of them, and two's
    "relu of what is kept": (lambda self, x: operator.add(y := self.one(x), self.two(F.relu(y))), 4 + 4 + 4),
    # views take nothing, and keep what they are of alive
    "flatten": (lambda self, x: self.two(self.one(x)).flatten(1).view(-1, 4, 64), 4 + 4),
    "chunk": (lambda self, x: [y := self.one(x).chunk(2, 1), self.two(torch.cat([y[1], y[0]], 1))][1], 4 + 4),
    "slice": (lambda self, x: operator.add((y := self.one(x))[:, :1], self.two(y)[:, 1:2]), 4 + 4 + 1),
    # a copy does: what has been transposed and is made contiguous
    "contiguous": (lambda self, x: self.one(x).transpose(2, 3).contiguous(), 4 + 4),
    # pooling makes its own, a quarter as large
    "pool": (lambda self, x: F.max_pool2d(self.one(x), 2), 4 + 1),
}


@pytest.mark.parametrize("case", CASES)
def test_by_hand(case):
    forward, values = CASES[case]
    assert peak(Forward(forward)) == 4 * 64 * values


def test_normalised_images_are_written_over():
    assert peak(with_normalize(Forward(CASES["chain"][0]), (0.5,), (0.5,))) == 4 * 64 * 8
    wide = nn.Sequential(conv(1, 1), nn.Flatten(), nn.Linear(64, 2))
    assert peak(with_normalize(wide, (0.5,), (0.5,))) == 4 * (64 + 64)  # the convolution's


def prepared(kind, name):
    network, images, _ = small(kind)
    precision = get_precision(name)
    form = precision.prepare(network, images)
    return form, precision.finish(form)


# Plain: the first convolution reads 64 values of the image and gives 4 maps. Residual: its last convolution reads 5 maps
# and gives 4 while 4 wait to be added. In w4a4 the image has 8 bits and maps have 4, also before they are pooled; but
# nothing quantises what is added there, nor the last sum: a branch and the sum are floats, what waits has 4 bits.
@pytest.mark.parametrize(
    "name, plain, residual",
    [
        ("fp32", 4 * (64 + 256), 4 * 64 * (5 + 4 + 4)),
        ("fp16", 2 * (64 + 256), 2 * 64 * (5 + 4 + 4)),
        ("int8", 64 + 256, 64 * (5 + 4 + 4)),
        ("w4a4", 64 + 256 // 2, 64 * (4 * 4 + 4 * 4 + 4 // 2)),
    ],
)
def test_in_each_form(name, plain, residual):
    for kind, expected in ((Plain, plain), (Residual, residual)):
        assert [peak(form) for form in prepared(kind, name)] == [expected] * 2  # as trained, and as handed over


def test_a_pruned_network_has_less():
    network, images, labels = small(Plain)
    half = qprune.prune(network, images, labels, 0.5, updates=40)
    kept = half.conv1.out_channels
    assert peak(half) == 4 * max(64 * (1 + kept), 64 * kept + 16 * kept) < peak(network)


def test_what_gives_no_known_tensors_is_refused():
    class Hidden:
        pass

    class Odd(nn.Module):
        def forward(self, x):
            return Hidden()

    qprune.register_operation(Odd, macs=0)
    with pytest.raises(UserError, match="gives a Hidden"):
        peak(nn.Sequential(conv(1, 2), Odd()))
