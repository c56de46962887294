"""Channels are followed through whatever a network does with them: masked = shrunk, counted, rebuilt; what can't be, stays."""

import copy

import pytest
import torch
from networks import OWN, make
from torch import nn
from torch.nn import functional as F
from torch_pruning.dependency import DependencyGraph

import qprune
from qprune import library
from qprune.cost import count_cost
from qprune.networks.free_sizes import free_sizes
from qprune.networks.graph import with_normalize
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.groups import find_groups
from qprune.pruning.maps import left_out_lines
from qprune.pruning.path import select
from qprune.pruning.scoring import Scorer
from qprune.pruning.shrink import layer_widths, resize
from qprune.pruning.sizes import Sizes

SHAPE = (1, 4, 4)


def conv(channels_in, channels_out, kernel=3, groups=1):
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups)


class Net(nn.Module):
    """Layers to make forwards of: what each does with the 8 maps of `a` and `b` is `tried`."""

    def __init__(self, tried):
        super().__init__()
        self.tried = tried
        self.a, self.b, self.c = conv(1, 8), conv(8, 8), conv(8, 8)
        self.quarter, self.join, self.joined, self.back_in = (
            conv(4, 4),
            conv(16, 8, 1),
            conv(8, 16, groups=8),
            conv(8, 8, 1),
        )
        self.g2, self.g4 = conv(8, 8, groups=2), conv(8, 8, groups=4)
        self.norm, self.over = nn.GroupNorm(4, 8), nn.LayerNorm([8, 4, 4])
        self.shuffle, self.pixels, self.after = nn.ChannelShuffle(2), nn.PixelShuffle(2), conv(2, 8, 1)
        self.apart, self.up, self.back = (
            nn.Unflatten(1, (2, 4)),
            nn.Upsample(scale_factor=2),
            nn.ConvTranspose2d(8, 8, 2, 2),
        )
        self.scale, self.spot = nn.Parameter(torch.ones(8, 1, 1)), conv(2, 1)
        self.wide, self.thin, self.flat = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(128, 8)
        self.head, self.odd, self.around = nn.Linear(8, 5), Sorted(), nn.ConstantPad2d(1, 0.5)

    def forward(self, x):
        x = self.tried(self, F.relu(self.b(F.relu(self.a(x)))))
        return self.head(x if self.tried in FLAT else x.mean((2, 3)))


def chunk(net, x):  # as YOLO's C2f does it
    parts = list(x.chunk(2, 1))
    parts.append(F.relu(net.quarter(parts[-1])))
    parts.append(net.quarter(parts[-1]))
    return net.join(torch.cat(parts, 1))


def split(net, x):
    one, other = torch.split(x, 4, 1)
    return net.c(torch.cat([net.quarter(one), other], 1))


def split_list(net, x):
    one, other = x.split([4, 4], dim=1)
    return net.c(torch.cat([other, one], 1))


def split_apart(net, x):
    one, other = torch.split(x, [2, 6], 1)
    return net.c(torch.cat([other, one], 1))


def channel_shuffle(net, x):  # as torchvision's ShuffleNet does it
    n, channels, h, w = x.size()
    return net.g2(net.g2(x).view(n, 2, channels // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w))


def shuffle_by_number(net, x):
    return net.g2(net.g2(x).reshape(-1, 2, 4, 4, 4).permute(0, 2, 1, 3, 4).reshape(-1, 8, 4, 4))


def padded_shortcut(net, x):
    return net.join(net.joined(x) + F.pad(x, (0, 0, 0, 0, 4, 4)))


def non_local(net, x):  # Wang et al., CVPR 2018
    theta, g = net.c(x).flatten(2), net.g2(x).flatten(2)
    weights = torch.softmax(torch.matmul(theta.transpose(1, 2), g), -1)
    y = torch.matmul(weights, g.transpose(1, 2)).transpose(1, 2).reshape(x.size(0), 8, x.size(2), x.size(3))
    return x + net.back_in(y)


def fixed_view(net, x):
    return net.flat(x.view(-1, 128))


def view_of_the_batch(net, x):
    return net.flat(x.view(x.size(0), 128))


def view_of_maps(net, x):
    return x.view(x.size(0), 8, -1).mean(2)


class Sorted(nn.Module):
    """Moves values, but can't take any that aren't its own kind."""

    def forward(self, x):
        return x.float() if x.dtype == torch.float32 else F.linear(x, torch.eye(4))


qprune.register_operation(Sorted, macs=0, moves=True)

FLAT = (fixed_view, view_of_the_batch, view_of_maps)  # these give [batch, 8]


def squeeze_excite(net, x):
    n, channels = x.size(0), x.size(1)
    weights = torch.sigmoid(net.thin(F.relu(net.wide(x.mean((2, 3)).view(n, channels)))))
    return net.c(x * weights.view(n, channels, 1, 1).expand_as(x))


def spatial_attention(net, x):  # Woo et al., ECCV 2018
    spots = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return net.c(x * torch.sigmoid(net.spot(spots)))


def last_axis(net, x):
    x = x.permute(0, 2, 3, 1)
    return (x + net.thin(F.gelu(net.wide(x)))).permute(0, 3, 1, 2)


# What is done with the maps of b -> the maps that can be pruned, by layer, and those that stay.
FOLLOWED = {
    "chunk": (chunk, {"a": 8, "b": 4, "join": 8}, {}),
    "split": (split, {"a": 8, "b": 4, "quarter": 4, "c": 8}, {}),
    "split_list": (split_list, {"a": 8, "b": 4, "c": 8}, {}),
    "split_apart": (split_apart, {"a": 8, "c": 8}, {"b": 8}),
    "fixed_view": (fixed_view, {"a": 8, "b": 8}, {}),
    "view_of_the_batch": (view_of_the_batch, {"a": 8, "b": 8}, {}),
    "view_of_maps": (view_of_maps, {"a": 8, "b": 8}, {}),
    "channel_shuffle": (channel_shuffle, {"a": 8, "b": 2}, {}),
    "shuffle_by_number": (shuffle_by_number, {"a": 8, "b": 2}, {}),
    "shuffle_module": (lambda net, x: net.g2(net.shuffle(net.g4(x))), {"a": 8, "b": 1, "g2": 4}, {}),
    "same_of_each_group": (lambda net, x: net.c(net.g2(x)), {"a": 8, "b": 4, "g2": 4, "c": 8}, {}),
    "whole_groups": (lambda net, x: net.c(net.g4(x)), {"a": 8, "b": 4, "c": 8}, {}),
    "two_maps_each": (lambda net, x: net.join(net.joined(x)), {"a": 8, "b": 8, "join": 8}, {}),
    "group_norm": (lambda net, x: net.c(F.relu(net.norm(x))), {"a": 8, "b": 4, "c": 8}, {}),
    "layer_norm": (lambda net, x: net.c(F.relu(net.over(x))), {"a": 8, "c": 8}, {"b": 8}),
    "own_scale": (lambda net, x: net.c(net.scale * x), {"a": 8, "c": 8}, {"b": 8}),
    "pixel_shuffle": (lambda net, x: net.after(net.pixels(x)), {"a": 8, "b": 2, "after": 8}, {}),
    "unflatten": (lambda net, x: net.c(net.apart(x).flatten(1, 2)), {"a": 8, "b": 4, "c": 8}, {}),
    "upsample": (lambda net, x: net.c(net.up(x)), {"a": 8, "b": 8, "c": 8}, {}),
    "transposed": (lambda net, x: net.c(net.back(x)), {"a": 8, "c": 8}, {"b": 8}),
    "padded_with_ones": (lambda net, x: net.c(F.pad(x, (1, 1, 1, 1), value=1.0)), {"a": 8, "b": 8, "c": 8}, {}),
    "padded_by_a_layer": (lambda net, x: net.c(net.around(x)), {"a": 8, "b": 8, "c": 8}, {}),
    "reflected": (lambda net, x: net.c(F.pad(x, (1, 1, 1, 1), "reflect")), {"a": 8, "b": 8, "c": 8}, {}),
    "number_added": (lambda net, x: net.c(torch.clamp(x + 0.5, 0, 1)), {"a": 8, "b": 8, "c": 8}, {}),
    "padded_shortcut": (padded_shortcut, {"a": 8, "join": 8}, {"b": 8, "joined": 16}),
    "twice": (lambda net, x: net.c(F.relu(net.c(x))), {"a": 8, "b": 8}, {}),
    "non_local": (non_local, {"a": 8, "b": 4}, {"c": 8, "g2": 8}),
    "squeeze_excite": (squeeze_excite, {"a": 8, "b": 8, "c": 8}, {}),
    "spatial_attention": (spatial_attention, {"a": 8, "c": 8}, {"b": 8, "spot": 1}),
    "last_axis": (last_axis, {"a": 8, "b": 8}, {}),
    "positions": (lambda net, x: net.c(x[:, :, ::2, 1:]), {"a": 8, "b": 8, "c": 8}, {}),
    "slices": (lambda net, x: net.c(torch.cat([x[:, 4:], x[:, :4]], 1)), {"a": 8, "c": 8}, {"b": 8}),
    "stack": (lambda net, x: torch.stack([net.c(x), x], 1).mean(1), {"a": 8, "b": 8}, {}),
    "of_values_alone": (lambda net, x: net.c(net.odd(x)), {"a": 8, "c": 8}, {"b": 8}),
    "maximum": (lambda net, x: torch.maximum(net.c(x), x), {"a": 8, "b": 8}, {}),
}


def network_of(tried):
    torch.manual_seed(0)
    network = with_normalize(Net(tried), (0.5,), (0.25,))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return network


def widths_of(groups):
    return {layer.name: layer.stop - layer.start for layer in groups.layers}


@pytest.mark.parametrize("name", FOLLOWED)
def test_masked_equals_shrunk_counted_and_rebuilt(name):
    tried, able, staying = FOLLOWED[name]
    network, images = network_of(tried), torch.rand(3, *SHAPE)
    gated = GatedNetwork(network, SHAPE)
    assert widths_of(gated.groups) == able
    assert {each.layer: each.maps for each in gated.groups.left_out} == staying
    sizes = Sizes.of(gated.network, gated.groups, SHAPE)
    network = copy.deepcopy(network)
    free_sizes(network, SHAPE)
    for ratio in (0.3, 0.6, 0.9):
        whole, removed = torch.ones(gated.groups.total, dtype=torch.bool), int(ratio * gated.groups.total)
        gated.mask(select(torch.rand(gated.groups.total), whole, gated.groups, removed))
        smaller = gated.shrink().eval()  # which compares with the masked one
        cost = count_cost(smaller, SHAPE)
        assert (cost.macs, cost.params) == (sizes.left("macs", gated.alive), sizes.left("params", gated.alive))
        rebuilt = resize(network, layer_widths(smaller)).eval()
        rebuilt.load_state_dict(smaller.state_dict())
        assert torch.equal(rebuilt(images), smaller(images))


@pytest.mark.parametrize("name", ["fixed_view", "shuffle_by_number", "split", "unflatten"])
def test_numbers_that_are_taken_from_the_tensor_change_nothing(name):
    network, images = network_of(FOLLOWED[name][0]).eval(), torch.rand(3, *SHAPE)
    freed = copy.deepcopy(network)
    free_sizes(freed, SHAPE)
    assert freed.code != network.code and torch.equal(freed(images), network(images))


@pytest.mark.parametrize("name", ["last_axis", "squeeze_excite"])
def test_hidden_units_are_maps_too(name):
    """Wherever their channels lie."""
    network = network_of(FOLLOWED[name][0])
    gated = GatedNetwork(network, SHAPE, linear=True)
    assert widths_of(gated.groups)["wide"] == 12
    gated.mask(torch.rand(gated.groups.total) > 0.5)
    gated.shrink()


def test_scores_at_a_gate_whose_channels_come_last():
    """Taylor's |mean over positions of z dC/dz|, against each unit's own derivative by a factor on it."""
    network, images = network_of(last_axis), torch.rand(1, *SHAPE)
    gated = GatedNetwork(network, SHAPE, linear=True)
    (layer,) = [layer for layer in gated.groups.layers if layer.name == "wide"]
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion("taylor"))
    gated.network.eval()
    with scorer.minibatch():
        F.cross_entropy(gated.network(images), torch.tensor([2])).backward()
    scores = scorer.scores(torch.Generator())[layer.start : layer.stop]
    (gate,) = [gate for gate in gated.gates if layer.start in gate.index]
    factors = torch.ones(12, requires_grad=True)
    handle = gate.register_forward_hook(lambda gate, args, z: z * factors)
    F.cross_entropy(gated.network(images), torch.tensor([2])).backward()
    handle.remove()
    assert torch.allclose(scores, factors.grad.abs() / 16, rtol=1e-4)  # 4 x 4 positions


def test_the_library_says_what_stays():
    with pytest.warns(UserWarning, match=r"8 maps of b can't be pruned: over \(LayerNorm\)"):
        library.prune(Net(FOLLOWED["layer_norm"][0]), torch.rand(32, *SHAPE), torch.arange(32) % 5, 0.25, updates=60)


def test_reasons_are_said_once():
    groups = find_groups(make("densenet_small"), (3, 32, 32))
    assert list(left_out_lines(groups)) == []
    (line,) = left_out_lines(find_groups(network_of(padded_shortcut), SHAPE))
    assert line == "24 maps of b, joined can't be pruned: channels of zeros are padded to it, a fixed number of them"


def partition(groups):
    """Each map as the channels of all layers that go with it."""
    maps: dict[int, set] = {}
    for member in groups.members:
        for position, number in zip(member.positions.tolist(), member.maps.tolist(), strict=True):
            maps.setdefault(number, set()).add((member.layer, member.side, position))
    return set(map(frozenset, maps.values()))


def theirs(network, shape):
    """Likewise by Torch-Pruning's dependency graph."""
    network.eval()
    graph = DependencyGraph().build_dependency(
        network, torch.rand(2, *shape), customized_pruners={}, unwrapped_parameters=[], ignored_params=[], verbose=False
    )
    names, kinds = {module: name for name, module in network.named_modules()}, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    last = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    maps: dict[tuple, set] = {}
    for number, group in enumerate(graph.get_all_groups(ignored_layers=[last], root_module_types=[nn.Conv2d])):
        for item in group.items:
            module = item.dep.target.module
            if not isinstance(module, kinds):
                continue
            out = graph.is_out_channel_pruning_fn(item.dep.handler)
            depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
            side = "out" if out or depthwise or isinstance(module, nn.BatchNorm2d) else "in"
            for position, root in zip(item.idxs, item.root_idxs, strict=True):
                maps.setdefault((number, root), set()).add((names[module], side, position))
    return set(map(frozenset, maps.values()))


@pytest.mark.parametrize(
    "name", [*OWN, "resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "densenet_small"]
)
def test_the_same_maps_as_torch_pruning(name):
    network, shape = make(name, 64), (3, 64, 64)
    assert partition(find_groups(network, shape)) == theirs(network, shape)


class Swish(nn.Module):
    """x sigmoid(slope x) + shift x, of two numbers without an axis."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("shift", torch.tensor(0.1))

    def forward(self, x):
        return x * torch.sigmoid(self.slope * x) + self.shift * x


def test_a_number_that_is_learnt_is_one_of_each_channel():
    network = nn.Sequential(conv(1, 8), Swish(), conv(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    groups = find_groups(with_normalize(network, (0.5,), (0.25,)), SHAPE)
    assert groups.total == 16 and not groups.left_out
