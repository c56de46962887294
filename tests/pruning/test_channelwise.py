"""Layers that treat each channel by itself are cut with the maps that they carry: masked = shrunk, counted, rebuilt, quantised."""

import pytest
import torch
from networks import batch, warm_up
from torch import nn
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.shrink import layer_widths, resize
from qprune.pruning.sizes import Sizes

LAYERS = {
    "slopes": lambda: nn.PReLU(8),
    "one slope": nn.PReLU,
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(8), nn.ReLU()),
    "affine": lambda: nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.ReLU()),
    "statistics": lambda: nn.Sequential(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU()),
}


def network_of(kind: str):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), LAYERS[kind](), nn.Conv2d(8, 8, 3, padding=1), LAYERS[kind]()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    network = with_normalize(model, (0.5,), (0.25,))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return warm_up(network, *batch(8, 8, 5, 1)).eval()


@pytest.mark.parametrize("kind", LAYERS)
def test_cut_with_their_maps(kind):
    network, (images, _) = network_of(kind), batch(8, 8, 5, 1)
    gated = GatedNetwork(network, (1, 8, 8))
    alive = torch.tensor([1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0], dtype=torch.bool)  # 4 and 3 live on
    sizes = Sizes.of(gated.network, gated.groups, gated.image_shape)
    gated.mask(alive)
    smaller = gated.shrink().eval()
    masked, shrunk = gated.network.eval()(images), smaller(images)
    assert (masked - shrunk).abs().max() <= 1e-5 * masked.abs().max() and masked.abs().max() > 0
    own = {"slopes": 7, "one slope": 2, "instance norm": 0, "affine": 14, "statistics": 14}[kind]
    params = (4 * 9 + 4) + (3 * 4 * 9 + 3) + (3 * 4 * 5 + 5) + own
    assert count_cost(smaller, (1, 8, 8)).params == params == sizes.left("params", alive)
    rebuilt = resize(network, layer_widths(smaller)).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(images), smaller(images))


@pytest.mark.parametrize("precision", ["fp16", "int8", "w4a4"])
@pytest.mark.parametrize("kind", LAYERS)
def test_at_every_precision(kind, precision):
    network, (images, _) = network_of(kind), batch(8, 8, 5, 1)
    number_format = get_precision(precision)
    trained = number_format.prepare(network, images).eval()
    finished = number_format.finish(trained).eval()
    assert (finished(images).argmax(1) == trained(images).argmax(1)).double().mean() >= 0.75
    assert count_cost(finished, (1, 8, 8)).macs == count_cost(network, (1, 8, 8)).macs


@pytest.mark.parametrize("layer", [nn.GroupNorm(1, 8), nn.LayerNorm([8, 8, 8]), nn.LocalResponseNorm(3)])
def test_maps_whose_statistics_run_over_channels_stay_and_are_named(layer):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), layer, nn.Conv2d(8, 6, 3, padding=1), nn.Flatten(), nn.Linear(384, 5)
    )
    groups = GatedNetwork(with_normalize(model, (0.5,), (0.25,)), (1, 8, 8)).groups
    assert [(each.name, each.start, each.stop) for each in groups.layers] == [("2", 0, 6)]
    (left,) = groups.left_out
    assert (left.layer, left.maps) == ("0", 8) and left.why.startswith("1")


class ByName(nn.Module):
    """What is named where others give it by place."""

    def __init__(self, named: bool):
        super().__init__()
        self.named = named
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        if not self.named:
            x = F.relu(self.a(x))
            x = torch.cat([x, torch.add(F.relu(self.b(x)), x)], 1)
            return self.head(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.c(x)), 1), 1))
        x = F.relu(input=self.a(input=x))
        x = torch.cat(tensors=[x, torch.add(input=F.relu(self.b(input=x)), other=x)], dim=1)
        x = F.adaptive_avg_pool2d(input=F.relu(self.c(input=x)), output_size=1)
        return self.head(input=torch.flatten(input=x, start_dim=1))


def test_arguments_by_name_are_those_by_place():
    torch.manual_seed(0)
    model, images = ByName(True), torch.rand(4, 1, 8, 8)
    expected = model.eval()(images)
    named = with_normalize(model, (0.0,), (1.0,)).eval()
    model.named = False
    placed = with_normalize(model, (0.0,), (1.0,)).eval()
    assert torch.equal(named(images), expected)
    assert count_cost(named, (1, 8, 8)).macs == count_cost(placed, (1, 8, 8)).macs
    gated = [GatedNetwork(network, (1, 8, 8)) for network in (named, placed)]
    assert gated[0].groups.layers == gated[1].groups.layers
    gated[0].mask(torch.arange(gated[0].groups.total) % 2 == 0)
    masked, shrunk = gated[0].network.eval()(images), gated[0].shrink().eval()(images)
    assert (masked - shrunk).abs().max() <= 1e-5 * masked.abs().max()
    for precision in ("fp16", "int8", "w4a4"):
        trained = get_precision(precision).prepare(named, images).eval()
        assert count_cost(get_precision(precision).finish(trained), (1, 8, 8)).macs > 0
