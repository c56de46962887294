"""Training in channels_last, and the layers that can't be trained so."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from qprune.data import Split
from qprune.networks import build_model
from qprune.networks.graph import with_normalize
from qprune.networks.memory_format import overruns, trained_as
from qprune.precision import get_precision
from qprune.recipe import Recipe, constant
from qprune.training import train


def narrow() -> fx.GraphModule:
    """A residual network whose shortcuts, 1x1 convolutions of stride 2, have 4 and 8 input channels."""
    torch.manual_seed(0)
    return with_normalize(build_model({"name": "resnet8", "width": 0.25}, 3, 10, 16), (0.5,) * 3, (0.3,) * 3)


def split() -> Split:
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(64) % 10)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w8a8"])
def test_narrow_strided_shortcuts_get_their_gradients(precision):
    """oneDNN's own in this format write past a workspace: other weights, or a crash. 40 updates, for a crash isn't certain."""
    trained = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        network = get_precision(precision).prepare(narrow(), split().images[:32].float() / 255)
        train(network, split(), Recipe(batch_size=16, channels_last=channels_last), range(3), constant(1e-3), 0)
        trained.append(copy.deepcopy(network.state_dict()))
        train(network, split(), Recipe(batch_size=16, channels_last=channels_last), range(40), constant(1e-3), 0)
    changed = [name for name, value in trained[0].items() if value.is_floating_point()]
    assert changed
    for name in changed:
        torch.testing.assert_close(trained[0][name], trained[1][name], atol=2e-3, rtol=2e-2, msg=name)


def test_which_layers_overrun():
    def weight(*shape):
        return torch.empty(shape)

    assert overruns(weight(8, 15, 1, 1), (2, 2)) and overruns(weight(8, 2, 1, 1), (1, 3))
    assert not overruns(weight(8, 16, 1, 1), (2, 2))  # as many as a block
    assert not overruns(weight(8, 2, 1, 1), (1, 1))
    assert not overruns(weight(8, 2, 3, 3), (2, 2))


def test_inside_and_after():
    network, seen = narrow(), {}

    def look(module, inputs, made):
        seen[type(module), module.stride] = inputs[0].stride(), module.weight.stride(), made.stride()

    network.conv1.register_forward_hook(look)
    network.get_submodule("block2.shortcut").register_forward_hook(look)
    with trained_as(network, True) as layout:
        assert layout is torch.channels_last
        network(torch.rand(2, 3, 16, 16).contiguous(memory_format=layout))
    (_, _, made), (images, weight, _) = seen.values()
    assert made == (16 * 16 * 4, 1, 16 * 4, 4)  # of conv1: [n, h, w, c] in memory
    assert images == (16 * 16 * 4, 16 * 16, 16, 1) and weight == (4, 1, 1, 1)  # of the shortcut
    assert all(p.stride() == torch.empty(p.shape).stride() for p in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())
    with trained_as(network, False) as layout:
        assert layout is torch.contiguous_format


class Functional(nn.Module):
    def __init__(self, **stride):
        super().__init__()
        self.weight, self.stride = nn.Parameter(torch.rand(8, 4, 1, 1)), stride

    def forward(self, x):
        return F.conv2d(x, self.weight, **self.stride)


@pytest.mark.parametrize(
    ("stride", "expected"),
    [({}, torch.channels_last), ({"stride": 1}, torch.channels_last), ({"stride": 2}, torch.contiguous_format)],
)
def test_strided_convolutions_as_functions_keep_the_network_contiguous(stride, expected):
    with trained_as(fx.symbolic_trace(Functional(**stride)), True) as layout:
        assert layout is expected
