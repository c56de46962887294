"""INT8 of what torch.ao has no kernel for: rewritten, or left in float and counted so; converted as it was trained."""

import pytest
import torch
from networks import Body, batch, warm_up
from this_machine import INT8_ACTIVATIONS
from torch import nn
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.networks.graph import with_normalize
from qprune.networks.torch_ao import IntConv, IntLinear
from qprune.precision import get_precision

STEM, HEAD = 64 * 9 * 4, 6 * 5  # MACs: 3 x 3 of 1 -> 4 maps on 8 x 8; linear, 6 -> 5


class Flat(nn.Module):
    """A convolution, flattened by `view` in one of the ways in which it is written."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 5)

    def forward(self, x):
        x = F.relu(self.conv(x))
        if self.how == "size":
            return self.head(x.view(x.size(0), -1))
        if self.how == "shape":
            return self.head(x.view(x.shape[0], 4 * 8 * 8))
        return self.head(x.permute(0, 2, 3, 1).contiguous().view(-1, 256))


class Functional(nn.Module):
    """A convolution of the module's own weight by F.conv2d. how: "centred" computes the weight."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.weight, self.bias = nn.Parameter(torch.randn(4, 2, 3, 3) * 0.2), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        if self.how == "centred":
            return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, 1, 1, groups=2)
        return F.relu(F.conv2d(x, self.weight, self.bias, padding="same", groups=2))


class Blur(nn.Module):
    """F.conv2d of a fixed kernel, as in anti-aliased networks."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.ones(4, 1, 2, 2) / 4)

    def forward(self, x):
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class Dense(nn.Module):
    """F.linear at the end."""

    def __init__(self):
        super().__init__()
        self.conv, self.weight = nn.Conv2d(1, 4, 3, padding=1), nn.Parameter(torch.randn(5, 4) * 0.3)

    def forward(self, x):
        return F.linear(F.relu(self.conv(x)).mean((2, 3)), self.weight)


class Twice(nn.Module):
    """One circular convolution that runs twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")

    def forward(self, x):
        return self.conv(F.relu(self.conv(x)))


def conv(**how):
    return nn.Conv2d(4, 4, 3, **how)


def body(macs_of_tried: int, pixels: int = 64) -> int:
    return STEM + macs_of_tried + pixels * 4 * 6 + HEAD


WHOLE = body(64 * 9 * 16)  # with a 3 x 3 convolution of 4 -> 4 maps on 8 x 8 between
CASES = {  # the network and its MACs, by hand
    "view, size": (lambda: Flat("size"), STEM + 256 * 5),
    "view, shape": (lambda: Flat("shape"), STEM + 256 * 5),
    "view of a permutation": (lambda: Flat("permute"), STEM + 256 * 5),
    "PReLU": (lambda: Body(nn.PReLU(4)), body(0)),
    "PReLU, one slope": (lambda: Body(nn.Sequential(conv(padding=1), nn.PReLU())), WHOLE),
    "transposed": (lambda: Body(nn.ConvTranspose2d(4, 4, 2, stride=2)), body(64 * 4 * 4 * 4, 256)),
    "transposed, grouped": (lambda: Body(nn.ConvTranspose2d(4, 4, 2, 2, groups=2)), body(64 * 4 * 4 * 2, 256)),
    "transposed, BN": (
        lambda: Body(nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2), nn.BatchNorm2d(4), nn.ReLU())), body(64 * 64, 256),
    ),
    "circular": (lambda: Body(conv(padding=1, padding_mode="circular")), WHOLE),
    "circular, uneven": (lambda: Body(conv(padding=(2, 1), padding_mode="circular")), body(80 * 9 * 16, 80)),
    "replicate, BN": (
        lambda: Body(nn.Sequential(conv(padding=1, padding_mode="replicate"), nn.BatchNorm2d(4), nn.ReLU())), WHOLE,
    ),
    "same": (lambda: Body(conv(padding="same")), WHOLE),
    "same, even kernel": (lambda: Body(nn.Conv2d(4, 4, 2, padding="same")), body(64 * 4 * 16)),
    "same, reflected": (lambda: Body(conv(padding="same", padding_mode="reflect")), WHOLE),
    "valid": (lambda: Body(conv(padding="valid")), body(36 * 9 * 16, 36)),
    "twice": (lambda: Body(Twice()), body(2 * 64 * 9 * 16)),
    "F.conv2d": (lambda: Body(Functional("parameter")), body(64 * 9 * 2 * 4)),
    "F.conv2d, fixed": (lambda: Body(Blur()), body(16 * 4 * 4, 16)),
    "F.linear": (lambda: Dense(), STEM + 20),
    "batch statistics": (
        lambda: Body(nn.Sequential(conv(padding=1), nn.BatchNorm2d(4, track_running_stats=False))), WHOLE,
    ),
}  # fmt: skip


def warm(make):
    torch.manual_seed(1)
    images, labels = batch(32, 8, 5, 1)
    return warm_up(with_normalize(make(), (0.5,), (0.25,)), images, labels), images, labels


def apart(found, expected):
    """The largest difference as a share of the range. Where there are 7 bits half the mean: a step is twice as large, and
    beyond 127, where training clamps, torch.ao's integers go on to 255."""
    difference = (found - expected).abs()
    return (difference.max() if INT8_ACTIVATIONS == 8 else difference.mean() / 2) / (expected.max() - expected.min())


def train(network, images, labels, steps: int = 3):
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(images), labels).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("name", CASES)
def test_converted_it_is_what_was_trained(name):
    """Prepared, trained, saved, loaded, converted and counted: every layer on integer kernels."""
    make, macs = CASES[name]
    network, images, labels = warm(make)
    int8 = get_precision("int8")
    before = network.state_dict()
    prepared = int8.prepare(network, images)
    masters = int8.masters(prepared, network)
    assert all(torch.equal(masters[key], tensor) for key, tensor in before.items())
    train(prepared, images, labels)
    again = int8.prepare(network, None)
    again.load_state_dict(prepared.state_dict(), strict=True)
    expected = prepared(images)
    assert torch.equal(again.eval()(images), expected)
    converted = int8.finish(prepared)
    found = converted(images)
    assert apart(found, expected) <= 0.01
    for form in (prepared, converted):
        cost = count_cost(form, (1, 8, 8))
        assert cost.macs == macs and {(layer.w_bits, layer.a_bits) for layer in cost.layers} == {(8, INT8_ACTIVATIONS)}
    layers = [m for m in converted.modules() if hasattr(m, "weight") and not isinstance(m, (nn.PReLU, nn.BatchNorm2d))]
    assert not any(isinstance(m, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)) for m in converted.modules())
    assert len([m for m in layers if isinstance(m, (IntConv, IntLinear))]) == len(cost.layers) - (name == "twice")


@pytest.mark.parametrize("name", CASES)
def test_the_rewritten_network_is_the_same(name):
    """In float, before anything is rounded."""
    from qprune.precision import equal_forms as forms

    network, images, _ = warm(CASES[name][0])
    expected = network.eval()(images)
    forms.functions_as_layers(network)
    forms.views_as_reshapes(network)
    forms.pad_before_convolutions(network)
    forms.keep_in_float(network)
    network.recompile()
    assert torch.allclose(network(images), expected, atol=1e-6)


IN_FLOAT = {
    "a weight that is computed": (lambda: Body(Functional("centred")), 64 * 9 * 2 * 4),
    "output padding": (lambda: Body(nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1)), 64 * 9 * 4 * 4),
}


@pytest.mark.parametrize("name", IN_FLOAT)
def test_what_has_no_kernel_stays_in_float_and_is_counted_so(name):
    make, macs = IN_FLOAT[name]
    network, images, labels = warm(make)
    prepared = train(get_precision("int8").prepare(network, images), images, labels)
    converted = get_precision("int8").finish(prepared)
    assert (converted(images) - prepared(images)).abs().max() < 0.02
    for form in (prepared, converted):
        cost = count_cost(form, (1, 8, 8))
        assert [layer.w_bits for layer in cost.layers] == [8, 32, 8, 8] and cost.layers[1].macs == macs
        assert cost.bops == sum(layer.macs * layer.w_bits * layer.a_bits for layer in cost.layers)


def test_one_scale_for_all_weights_of_a_transposed_convolution():
    network, images, labels = warm(CASES["transposed"][0])
    converted = get_precision("int8").finish(train(get_precision("int8").prepare(network, images), images, labels))
    weight, _ = converted.get_submodule("tried")._weight_bias()
    assert weight.qscheme() == torch.per_tensor_affine and int(weight.int_repr().abs().max()) == 127


class Runs(nn.Module):
    """A layer that runs twice, with something between its runs and after them."""

    def __init__(self, layer, between=None, after=None):
        super().__init__()
        self.layer, self.between, self.after = layer, between or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.layer(self.between(self.layer(x))))


class Applied(nn.Module):
    """A function of a tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def times(number):
    return Applied(lambda x: x.mul(number))


ALIKE = {  # that torch.ao trains, or converts, as another network
    "times 8": lambda: Applied(lambda x: 8 * x),
    "times -2": lambda: Applied(lambda x: torch.mul(x, -2)),
    "plus 1": lambda: Applied(lambda x: F.relu(x + 1)),
    "alpha": lambda: Applied(lambda x: torch.add(F.max_pool2d(x, 3, 1, 1), x, alpha=2)),
    "expand_as": lambda: Applied(lambda x: x * torch.sigmoid(x.mean((2, 3), True)).expand_as(x)),
    "F.elu": lambda: Applied(lambda x: F.elu(x - 1)),
    "F.layer_norm": lambda: Applied(lambda x: F.layer_norm(x, [4, 8, 8])),
    "F.instance_norm": lambda: Applied(F.instance_norm),
    "BN without gain": lambda: nn.BatchNorm2d(4, affine=False),
    "convolution, BN without gain": lambda: nn.Sequential(conv(padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
    "linear, BN without gain": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Unflatten(1, (4, 1, 1))
    ),
    "small groups": lambda: nn.Sequential(nn.MaxPool2d(4), nn.GroupNorm(2, 4), nn.ReLU()),
    "small maps": lambda: nn.Sequential(nn.MaxPool2d(4), nn.InstanceNorm2d(4), nn.ReLU()),
    "convolution twice": lambda: Runs(conv(padding=1), times(0.1)),
    "convolution twice, larger": lambda: Runs(conv(padding=1), times(8)),
    "ReLU behind its second run": lambda: Runs(conv(padding=1), times(8), nn.ReLU()),
    "ReLU behind its first run": lambda: Runs(conv(padding=1), nn.ReLU()),
    "BN behind its first run": lambda: Runs(conv(padding=1), nn.BatchNorm2d(4)),
    "two BNs": lambda: Runs(conv(padding=1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), times(8)), nn.BatchNorm2d(4)),
    "block twice": lambda: Runs(nn.Sequential(conv(padding=1), nn.BatchNorm2d(4)), times(8), nn.ReLU()),
    "BN twice": lambda: Runs(nn.BatchNorm2d(4), nn.ReLU()),
    "LeakyReLU twice": lambda: Runs(nn.LeakyReLU(), times(8)),
    "Hardswish twice": lambda: Runs(nn.Hardswish(), times(0.1), times(8)),
    "group normalisation twice": lambda: Runs(nn.GroupNorm(2, 4), times(8)),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_in_integers_it_is_the_network_that_it_was(name):
    """Calibrated: close to the float network; trained and converted: to what was trained, and the same at every run."""
    network, images, labels = warm(lambda: Body(ALIKE[name]()))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # running statistics of these images
    network.train()(images)
    expected = network.eval()(images)
    prepared = get_precision("int8").prepare(network, images)
    assert apart(prepared(images), expected) <= 0.05
    expected = train(prepared, images, labels)(images)
    converted = get_precision("int8").finish(prepared)
    found = converted(images)
    assert apart(found, expected) <= 0.02
    assert torch.equal(converted(images), found)
    assert count_cost(converted, (1, 8, 8)).macs == count_cost(network, (1, 8, 8)).macs


def test_a_range_holds_the_results_of_all_runs():
    network, images, _ = warm(lambda: Body(Runs(conv(padding=1), times(8))))
    prepared = get_precision("int8").prepare(network, images)
    runs = [node for node in prepared.graph.nodes if node.target == "tried.layer"]
    first, second = (prepared.get_submodule(user.target) for node in runs for user in node.users)
    assert first is second
    least, largest = first.activation_post_process.min_val.item(), first.activation_post_process.max_val.item()
    results = []
    hook = network.tried.layer.register_forward_hook(lambda *given: results.append(given[2]))
    network.eval()(images), hook.remove()
    assert least == pytest.approx(min(each.min().item() for each in results), rel=0.1)
    assert largest == pytest.approx(max(each.max().item() for each in results), rel=0.1)
