"""Masks equal removal, scores equal a slow oracle, selection obeys its bounds."""

import pytest
import torch
from networks import Depthwise, Plain, Residual, batch, make, small, warm_up
from torch.nn import functional as F

from qprune.networks.graph import trace, with_normalize
from qprune.precision import get_precision
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import select
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.pruning.schedule import PathSchedule, check_reachable
from qprune.pruning.scoring import Scorer
from qprune.pruning.shrink import layer_widths, resize
from qprune.registry.errors import UserError

SIZES = {"densenet121": 64, "alexnet": 64, "vgg11_bn": 32, "resnet18": 64, "mobilenet_v2": 64}


def random_alive(groups, ratio, seed=0):
    """That share of every layer's maps gone."""
    generator = torch.Generator().manual_seed(seed)
    alive = torch.ones(groups.total, dtype=torch.bool)
    for layer in groups.layers:
        width = layer.stop - layer.start
        alive[layer.start + torch.randperm(width, generator=generator)[: int(ratio * width)]] = False
    return alive


@pytest.mark.parametrize(
    "name",
    [
        "vgg7",
        "resnet20",
        "resnet18",
        "mobilenet_v2",
        pytest.param("densenet121", marks=pytest.mark.long),
        "alexnet",
        pytest.param("vgg11_bn", marks=pytest.mark.long),
        "efficientnet_b0",
    ],
)
def test_masked_equals_shrunk(name):
    size = SIZES.get(name, 32)
    images, labels = batch(8, size)
    network = warm_up(make(name, size), images, labels)
    gated = GatedNetwork(network, (3, size, size))
    gated.network.eval()
    with torch.no_grad():
        dense = gated.network(images)
        for ratio in (0.25, 0.5, 0.75):
            gated.mask(random_alive(gated.groups, ratio))
            smaller = gated.shrink()
            masked, shrunk = gated.network(images), smaller.eval()(images)
            assert (masked - shrunk).abs().max() <= 1e-4 * masked.abs().max()
            assert (masked - dense).abs().max() > 1e-3 * dense.abs().max()  # the mask does something
            assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


def test_shrunk_network_is_rebuilt_from_its_widths():
    images, labels = batch(8)
    network = warm_up(make("resnet20"), images, labels)
    gated = GatedNetwork(network, (3, 32, 32))
    gated.mask(random_alive(gated.groups, 0.5))
    smaller = gated.shrink().eval()
    rebuilt = resize(make("resnet20"), layer_widths(smaller)).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(images), smaller(images))


def test_maps_are_counted_once():
    assert GatedNetwork(make("alexnet", 64), (3, 64, 64)).groups.total == 1152
    assert GatedNetwork(make("alexnet", 64), (3, 64, 64), linear=True).groups.total == 1152 + 8192
    residual, images, _ = small(Residual)
    groups = GatedNetwork(residual, (1, 8, 8)).groups
    assert [(layer.name, layer.stop - layer.start) for layer in groups.layers] == [("stem", 4), ("a1", 3), ("b1", 5)]
    depthwise, *_ = small(Depthwise)
    groups = GatedNetwork(depthwise, (1, 8, 8)).groups
    assert [(layer.name, layer.stop - layer.start) for layer in groups.layers] == [("stem", 4), ("expand", 8)]


def gate_places(network, shape=(1, 8, 8)):
    gated = GatedNetwork(network, shape)
    return [node.args[0].name for node in gated.network.graph.nodes if str(node.target).startswith("gate_")]


def test_gates_sit_on_the_smallest_set():
    assert gate_places(small(Plain)[0]) == ["relu", "relu_1"]  # after the activation, before pooling
    # every branch into the adds, and the inner maps of the blocks
    assert gate_places(small(Residual)[0]) == ["relu", "relu_1", "an2", "relu_3", "bn2"]
    # one gate at the end of the depthwise chain, not two
    assert gate_places(small(Depthwise)[0]) == ["relu6", "relu6_2", "bn3"]


def oracle(gated, images, labels, train_mode, kind):
    """Per map, from autograd on explicit multipliers: slow and obvious.

    In eval mode one example at a time; in train mode the gradient of the batch's summed loss.
    """
    total = gated.groups.total
    network = gated.network.train(train_mode)
    captured = []  # (gate, tensor)

    def watch(gate, z):
        z.retain_grad()
        captured.append((gate, z))

    for gate in gated.gates:
        gate.watcher = watch
    per_example = torch.zeros(len(images), total, dtype=torch.float64)
    positions = torch.zeros(total, dtype=torch.float64)
    batches = [range(len(images))] if train_mode else [[i] for i in range(len(images))]
    for number, members in enumerate(batches):
        captured.clear()
        members = list(members)
        F.cross_entropy(network(images[members]), labels[members], reduction="sum").backward()
        for gate, z in captured:
            for channel, map_number in enumerate(gate.index.tolist()):
                if map_number < 0:
                    continue
                for row, example in enumerate(members):
                    products = (z[row, channel] * z.grad[row, channel]).detach().double()
                    value = {"taylor": products.sum(), "taylor_element": products.abs().sum()}[kind]
                    per_example[example, map_number] += value
                if number == 0:
                    positions[map_number] += z[0, channel].numel()
    for gate in gated.gates:
        gate.watcher = None
    return per_example / positions


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
@pytest.mark.parametrize("train_mode", [False, True])
def test_taylor_equals_the_slow_oracle(kind, train_mode):
    network, images, labels = small(kind)
    gated = GatedNetwork(network, (1, 8, 8))
    gated.mask(torch.arange(gated.groups.total) != 1)  # one map is gone already
    expected = oracle(gated, images, labels, train_mode, "taylor")
    element = oracle(gated, images, labels, train_mode, "taylor_element")
    truths = {
        "taylor": expected.abs().mean(0),
        "taylor_signed": expected.mean(0).abs(),
        "taylor_element": element.mean(0),
    }
    for name, truth in truths.items():
        scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(name))
        gated.network.train(train_mode)
        with scorer.minibatch():
            F.cross_entropy(gated.network(images), labels).backward()
        scores = scorer.scores(torch.Generator()).double()
        assert scores[1] == 0
        assert (scores - truth).abs().max() <= 1e-5 * truth.max()
        assert truth.max() > 0


def test_first_order_change_of_the_loss():
    """The signed sum is the derivative of the loss along switching the map off: against finite differences."""
    for kind in (Plain, Residual, Depthwise):
        network, images, labels = small(kind)
        gated = GatedNetwork(network, (1, 8, 8))
        gated.network.double().eval()
        signed = oracle(gated, images.double(), labels, False, "taylor").sum(0)
        positions = torch.zeros(gated.groups.total, dtype=torch.float64)
        for gate in gated.gates:
            gate.masked = True
            gate.mask = gate.mask.double()

        def loss():
            with torch.no_grad():
                return F.cross_entropy(gated.network(images.double()), labels, reduction="sum")

        sizes = {}
        for gate in gated.gates:
            gate.watcher = lambda g, z: sizes.__setitem__(g, z[0, 0].numel())
        loss()
        for gate in gated.gates:
            gate.watcher = None
            carried = gate.index >= 0
            positions.index_add_(0, gate.index[carried], torch.full((int(carried.sum()),), float(sizes[gate])).double())
        step = 1e-6
        for number in range(gated.groups.total):
            values = []
            for sign in (1, -1):
                for gate in gated.gates:
                    gate.mask[gate.index == number] = 1 + sign * step
                values.append(loss())
            for gate in gated.gates:
                gate.mask[gate.index == number] = 1.0
            slope = (values[0] - values[1]) / (2 * step)
            assert slope == pytest.approx((signed * positions)[number].item(), abs=1e-5), (kind, number)


def test_weight_norm_by_hand():
    network, *_ = small(Residual)
    gated = GatedNetwork(network, (1, 8, 8))
    scores = get_criterion("weight_norm").scores(gated.network, gated.groups, gated.alive, torch.Generator())
    for channel in range(4):  # the stem's maps are coupled with a2's and b2's
        weights = torch.cat([getattr(network, name).weight[channel].flatten() for name in ("stem", "a2", "b2")])
        assert scores[channel].item() == pytest.approx(weights.square().mean().item(), rel=1e-5)


def select_slowly(scores, alive, layers, removed, min_channels):
    """One map at a time."""
    alive = alive.clone()
    while (~alive).sum() < removed:
        allowed = torch.zeros_like(alive)
        for layer in layers:
            part = slice(layer.start, layer.stop)
            if alive[part].sum() > min_channels:
                allowed[part] = alive[part]
        if not allowed.any():
            break
        alive[torch.where(allowed, scores, torch.inf).argmin()] = False
    return alive


def test_selection_equals_one_map_at_a_time():
    network, *_ = small(Residual)
    groups = GatedNetwork(network, (1, 8, 8)).groups
    for seed in range(20):
        scores = torch.rand(groups.total, generator=torch.Generator().manual_seed(seed))
        alive = torch.ones(groups.total, dtype=torch.bool)
        for removed in (2, 5, 7, 9, 12):
            slow = select_slowly(scores, alive, groups.layers, removed, min_channels=1)
            fast = select(scores, alive, groups, removed, min_channels=1)
            assert torch.equal(fast, slow)
            alive = fast
        assert all(alive[layer.start : layer.stop].any() for layer in groups.layers)


def test_round_to_gives_multiples():
    network = make("vgg_tiny", 8, channels=1)
    groups = GatedNetwork(network, (1, 8, 8)).groups
    scores = torch.rand(groups.total, generator=torch.Generator().manual_seed(0))
    alive = torch.ones(groups.total, dtype=torch.bool)
    for removed in range(10, 180, 10):
        alive = select(scores, alive, groups, removed, round_to=8)
        widths = [int(alive[layer.start : layer.stop].sum()) for layer in groups.layers]
        assert all(width % 8 == 0 and width >= 8 for width in widths)
        assert removed - 8 < int((~alive).sum()) <= removed


def test_schedule_by_hand():
    percent = PathSchedule(total=224, per_step=2.24, updates_between=5)
    assert [percent.removed_after(steps) for steps in (0, 1, 2, 3, 25)] == [0, 2, 4, 7, 56]
    assert [percent.steps_to(ratio) for ratio in (0, 0.25, 0.5, 0.9)] == [0, 25, 50, 90]
    assert percent.updates_to(0.9) == 450 and percent.removed_after(90) == 202
    count = PathSchedule(total=10, per_step=3, updates_between=1)
    assert [count.steps_to(ratio) for ratio in (0.1, 0.3, 0.4, 0.9)] == [1, 1, 2, 3]
    for total in (7, 100, 312):
        for per_step in (1.0, 1.7, total / 100 if total >= 100 else 1.0):
            schedule = PathSchedule(total, per_step, 1)
            for ratio in (0.0, 0.2, 1 / 3, 0.5, 0.9, 0.99):
                wanted = int(ratio * total + 0.5)
                slow = next(steps for steps in range(1000) if schedule.removed_after(steps) >= wanted)
                assert schedule.steps_to(ratio) == slow


def test_unreachable_ratio_and_unknown_layer():
    groups = GatedNetwork(make("vgg_tiny", 8, channels=1), (1, 8, 8)).groups
    check_reachable(groups, 0.9, 1)
    with pytest.raises(UserError, match="at most 0.785 of 224 maps"):
        check_reachable(groups, 0.9, 8)
    with pytest.raises(UserError, match="no layer 'convv'"):
        GatedNetwork(make("vgg_tiny", 8, channels=1), (1, 8, 8), ignore=("convv",))


def test_ignored_layers_keep_their_maps():
    network, *_ = small(Plain)
    assert [layer.name for layer in GatedNetwork(network, (1, 8, 8), ignore=("conv1",)).groups.layers] == ["conv2"]


class Branching(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class ByNumber(torch.nn.Module):
    """Counts on the number of its channels, in code that no one follows."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 5, 6)

    def forward(self, x):
        return self.last(self.conv(x) * ((self.conv(x).size(1) - 3) * 1.0)).flatten(1)


def test_what_cannot_work_says_so():
    with pytest.raises(UserError, match="torch.fx can't trace Branching"):
        trace(Branching())
    gated = GatedNetwork(with_normalize(ByNumber(), (0.5,), (0.5,)), (1, 8, 8))
    gated.mask(torch.tensor([True, False, True, True]))
    with pytest.raises(UserError, match="removing channels changes the outputs"):
        gated.shrink()


# Under quantisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["w2a2", "w4a8"])
@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
def test_a_rebuilt_network_computes_what_the_masked_one_did(kind, precision):
    """With the scales that training has learned, even where scales fitted anew would be others."""
    network, images, labels = small(kind)
    gated = QuantizedGatedNetwork(network, (1, 8, 8), get_precision(precision, 8), images)
    warm_up(gated.network, images, labels)
    with torch.no_grad():
        for name, parameter in gated.network.named_parameters():
            if name.endswith("tensor_quant.scale"):
                parameter.mul_(0.3)  # as if much were clamped
    gated.mask(~torch.isin(torch.arange(gated.groups.total), torch.tensor([1, 5])))
    smaller = gated.shrink()
    rebuilt = gated.rebuild(smaller, images).eval()
    fitted = get_precision(precision, 8).prepare(smaller, images).eval()
    with torch.no_grad():
        masked = gated.network.eval()(images)
        assert torch.allclose(rebuilt(images), masked, atol=1e-4 * masked.abs().max().item())
        assert not torch.allclose(fitted(images), masked, atol=1e-2 * masked.abs().max().item())
