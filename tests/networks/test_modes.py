"""One traced network is what the model is in plain torch, in training and in evaluation, or is refused."""

import copy

import pytest
import torch
from networks import batch, warm_up
from torch import nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from qprune import library
from qprune.cost import count_cost
from qprune.networks.graph import trace, with_normalize
from qprune.networks.tracing import OnlyInTraining
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.registry.errors import UserError

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.drop = nn.Dropout(0.5)

    def body(self, x):
        return F.relu(self.bn(self.conv(x)))

    def head(self, x):
        return self.fc(x.mean((2, 3)))


def made(forward, *names, **more):
    """A network with that forward."""
    model = type("Made", (Base,), {"forward": forward, **more})()
    for name in names:
        setattr(model, name, nn.Conv2d(4, 4, 3, padding=1))
    return model


def same_in_both_modes(model):
    """The traced network, after the same random numbers have given it and the model the same outputs in each mode."""
    network = trace(copy.deepcopy(model))
    for training in (True, False):
        model.train(training), network.train(training)
        for _ in range(2):
            torch.manual_seed(7)
            wanted = model(IMAGES)
            torch.manual_seed(7)
            torch.testing.assert_close(network(IMAGES), wanted)
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if name in state)
    return network


class DropPath(nn.Module):
    """As in timm."""

    def forward(self, x):
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
        return x * kept.div_(0.5)


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.Hardswish(inplace=True)

    def forward(self, x):
        torch._assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        batch = self.running_mean is None if not self.training else True
        stats = (self.running_mean, self.running_var) if not self.training or self.track_running_stats else (None, None)
        x = F.batch_norm(x, *stats, self.weight, self.bias, batch, self.momentum, self.eps)
        return self.act(self.drop(x))


def guarded(self, x):
    x = self.body(x)
    if self.training:
        x = self.drop(x)
    return self.head(x)


ALLOWED = {
    "module": lambda self, x: self.head(self.drop(self.body(x))),
    "functional": lambda self, x: self.head(F.dropout(self.body(x), 0.3, self.training)),
    "off": lambda self, x: self.head(F.dropout(self.body(x), 0.3, training=False)),
    "of maps": lambda self, x: self.head(F.dropout2d(self.body(x), training=self.training)),
    "guarded": guarded,
    "stochastic depth": lambda self, x: self.head(stochastic_depth(self.body(x), 0.5, "row", self.training)),
    "default": lambda self, x, mask=None: self.head(self.body(x) if mask is None else self.body(x) * mask),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_follows_training_does_so_when_traced(name):
    torch.manual_seed(1)
    same_in_both_modes(made(ALLOWED[name]))


def test_a_drop_path_of_ones_own_is_off_in_evaluation():
    model = made(lambda self, x: self.head((y := self.body(x)) + self.path(y)))
    model.path = DropPath()
    network = same_in_both_modes(model)
    assert isinstance(network.path, OnlyInTraining)
    gated = GatedNetwork(network, (1, 8, 8))
    gated.mask(torch.tensor([True, False, True, True]))
    assert gated.shrink().conv.out_channels == 3


def test_timms_batch_normalisation_is_torchs():
    torch.manual_seed(1)
    model = made(lambda self, x: self.head(self.norm(self.conv(x))))
    model.norm = NormAct(4)
    warm_up(model, *batch(8, 8, 5, 1))
    network = same_in_both_modes(model)
    assert type(network.norm) is nn.BatchNorm2d
    fine = GatedNetwork(network, (1, 8, 8))
    fine.mask(torch.tensor([True, False, True, True]))
    smaller = fine.shrink()
    assert smaller.norm.num_features == 3
    for precision in ("int8", "w8a8"):
        number_format = get_precision(precision)
        finished = number_format.finish(number_format.prepare(network.eval(), IMAGES))
        torch.testing.assert_close(finished(IMAGES), network(IMAGES), atol=0.05, rtol=0)
    assert "bn" not in str(finished.graph) and count_cost(network, (1, 8, 8)).params == 4 * 9 + 4 + 8 + 25


def test_a_functional_norm_of_running_statistics_stays_as_it_is():
    model = made(
        lambda self, x: self.head(F.batch_norm(self.conv(x), self.mean, self.var, self.bn.weight, self.bn.bias))
    )
    model.register_buffer("mean", torch.rand(4)), model.register_buffer("var", torch.rand(4) + 0.5)
    network = trace(model)
    for training in (True, False):
        model.train(training), network.train(training)
        torch.testing.assert_close(network(IMAGES), model(IMAGES))
    assert GatedNetwork(network, (1, 8, 8)).groups.total == 4


def two_exits(self, x):
    a = self.head(self.body(x))
    b = self.fc(self.one(self.body(x)).mean((2, 3)))
    return a if self.training else a + b


def auxiliary(self, x):
    logits = self.head(self.body(x))
    return (logits, self.fc(self.body(x).mean((2, 3)))) if self.training else logits


REFUSED = {
    "two exits": (two_exits, "depends on self.training: where training goes on with its output, evaluation goes on with layer conv"),
    "auxiliary exit": (auxiliary, "in training, forward gives a tuple, and the logits alone are wanted"),
    "tuple": (lambda self, x: (self.head(self.body(x)), x), "forward gives a tuple"),
    "dict": (lambda self, x: {"logits": self.head(self.body(x))}, "forward gives a dict"),
    "second input": (lambda self, x, y: self.head(self.body(x + y)), r"takes 2 inputs \(x, y\)"),
    "always on": (lambda self, x: self.head(F.dropout(self.body(x), 0.3)), "on in evaluation too.*self.training"),
    "scale": (lambda self, x: self.head(self.body(x) * (1 if self.training else 2)), "goes on with operation mul"),
    "other layer": (
        lambda self, x: self.head((self.one if self.training else self.two)(self.body(x))),
        "training goes on with layer one, evaluation goes on with layer two",
    ),
    "constant": (
        lambda self, x: self.head(self.body(x) + torch.tensor(1.0 if self.training else 2.0)),
        "goes on with operation add",
    ),
    "norm": (
        lambda self, x: self.head(F.instance_norm(self.body(x), use_input_stats=self.training)),
        "goes on with operation instance_norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", ["trace", "library"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_another_network_in_training_is_refused(name, call):
    forward, message = REFUSED[name]
    model = made(forward, "one", "two")
    labels = torch.zeros(6, dtype=torch.int64)
    calls = {
        "trace": lambda: trace(model),
        "library": lambda: library.quantize(model, IMAGES, labels, "w4a4", updates=1),
    }
    for training in (True, False):
        with pytest.raises(UserError, match=message):
            calls[call]() if model.train(training) is model else None
        assert model.training is training


def test_dropout_that_eval_leaves_on_is_refused():
    model = made(ALLOWED["module"], train=lambda self, mode=True: (nn.Module.train(self, mode), self.drop.train())[0])
    with pytest.raises(UserError, match="drop stays in training mode after eval"):
        trace(model)


def test_logits_that_are_none_are_refused():
    labels = torch.zeros(6, dtype=torch.int64)
    for forward, message in (
        (lambda self, x: self.one(self.body(x)), r"gives \[2, 4, 8, 8\] for 2 images"),
        (lambda self, x: self.head(self.body(x)).max(1), "gives a max for 2 images"),
    ):
        for call in (library.prune, library.score):
            with pytest.raises(UserError, match=message):
                call(made(forward, "one"), IMAGES, labels, **({"ratio": 0.5} if call is library.prune else {}))


# In place ---------------------------------------------------------------------------------------------------------------


def lost(self, x):
    x = self.conv(x)
    F.relu(x, inplace=True)
    return self.head(x)


def lost_method(self, x):
    x = self.conv(x)
    x.mul_(2).clamp_min_(0.1)
    return self.head(x)


def activated(self, x):
    x = self.conv(x)
    y = self.one(self.act(x))
    return self.head(x + y)


def added(self, x):
    x = self.conv(x)
    y = x
    x += 1
    return self.head(self.one(x) * y)


def dropped(self, x):
    return self.act(F.dropout(self.head(self.conv(x)).flatten(1), 0.5, self.training, inplace=True)) * 2


@pytest.mark.parametrize("forward", [lost, lost_method, activated, added, dropped])
def test_what_changes_its_operand_has_changed_it(forward):
    torch.manual_seed(1)
    model = made(forward, "one").eval()
    model.act = nn.ReLU(inplace=True)
    torch.testing.assert_close(trace(copy.deepcopy(model))(IMAGES), model(IMAGES))


def viewed(self, x):
    x = self.conv(x)
    y = x.flatten(2)
    x.relu_()
    return self.fc(y.mean(2))


def test_a_view_of_what_is_changed_is_refused():
    with pytest.raises(UserError, match="changes conv in place, and mean reads a view of it"):
        trace(made(viewed))


def test_tracing_changes_nothing_in_the_model():
    model = made(lambda self, x: self.head(self.norm(self.conv(x)) + torch.tensor(2.0)))
    model.norm = NormAct(4)
    before, names = copy.deepcopy(model.state_dict()), set(vars(model))
    model.bn.eval()
    with_normalize(model, (0.5,), (0.5,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(vars(model)) == names and model.training and not model.bn.training
