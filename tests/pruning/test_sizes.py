"""MACs and parameters counted from groups and masks: those of the network that is really made smaller."""

import pytest
import torch
from networks import Depthwise, Plain, Residual, make, small

from qprune.cost import count_cost
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.shrink import shrink
from qprune.pruning.sizes import COUNTED, Sizes
from qprune.pruning.uniform import uniform_alive, uniform_share

NETWORKS = {
    "plain": (lambda: small(Plain)[0], (1, 8, 8), False),
    "plain_linear": (lambda: make("vgg_small", 8, channels=1), (1, 8, 8), True),
    "residual": (lambda: small(Residual)[0], (1, 8, 8), False),
    "depthwise": (lambda: small(Depthwise)[0], (1, 8, 8), False),
    "resnet20": (lambda: make("resnet20", 16), (3, 16, 16), False),
    "densenet": (lambda: make("densenet_small", 32), (3, 32, 32), False),
    "mobilenet": (lambda: make("mobilenet_v2", 32), (3, 32, 32), False),
}


def sizes_of(name):
    build, shape, linear = NETWORKS[name]
    gated = GatedNetwork(build(), shape, linear)
    return gated, Sizes.of(gated.network, gated.groups, shape), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_are_those_of_the_smaller_network(name):
    gated, sizes, shape = sizes_of(name)
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.1, 0.5, 0.8):
        alive = torch.rand(gated.groups.total, generator=generator) >= share
        for layer in gated.groups.layers:
            alive[layer.start] = True
        cost = count_cost(shrink(gated.network, gated.groups, alive), shape)
        assert sizes.left("macs", alive) == cost.macs and sizes.left("params", alive) == cost.params
        assert sizes.left("maps", alive) == int(alive.sum())
        assert sizes.lost("macs", alive) == pytest.approx(1 - cost.macs / sizes.macs, abs=1e-12)
    assert [sizes.lost(of, torch.ones(gated.groups.total, dtype=torch.bool)) for of in COUNTED] == [0, 0, 0]


def test_which_maps_of_a_layer_are_gone_changes_no_size():
    """What a report's widths alone tell."""
    gated, sizes, _ = sizes_of("densenet")
    alive = torch.rand(gated.groups.total, generator=torch.Generator().manual_seed(1)) >= 0.4
    first = torch.zeros_like(alive)
    for layer in gated.groups.layers:
        first[layer.start : layer.start + int(alive[layer.start : layer.stop].sum())] = True
    assert not torch.equal(first, alive)
    assert all(sizes.left(of, first) == sizes.left(of, alive) for of in COUNTED)


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("name", ["residual", "resnet20"])
def test_uniform_share_loses_as_much_and_no_map_more(name, of):
    gated, sizes, _ = sizes_of(name)
    total = gated.groups.total
    for ratio in (0.1, 0.5, 0.75):
        share = uniform_share(sizes, of, ratio)
        with_it, with_less = (uniform_alive(gated.groups, share - less / total) for less in (0, 1))
        assert sizes.lost(of, with_it) >= ratio > sizes.lost(of, with_less)
        assert share * total == pytest.approx(round(share * total)) and 0 < share < ratio
    assert uniform_share(sizes, "maps", 0.37) == 0.37 and uniform_share(sizes, of, 0) == 0
    assert uniform_share(sizes, of, 0.9, max_layer_ratio=0.1) == 1  # more than may go
