"""A network of operations that qprune doesn't know, and the same one of operations that it does: once it is told what
the former are, it does with both the same."""

import math
import operator
import re

import pytest
import torch
from networks import Body, batch, warm_up
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

import qprune
from qprune.cost import count_cost
from qprune.data import Split
from qprune.networks import operations
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.registry.errors import UserError
from qprune.training import evaluate

GREY = (1, 8, 8)


class Ramp(nn.Module):
    """ReLU."""

    def forward(self, x):
        return torch.where(x >= 0, x, torch.zeros_like(x))


def largest_of_four(x):
    """2x2 max pooling."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))


def sum_of(x, y):
    """x + y."""
    return torch.stack((x, y)).nansum(0)


class Gain(nn.Module):
    """Each channel times a number of its own, as a product with a diagonal matrix."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, channels))

    def forward(self, x):
        return torch.einsum("nc,cd->nd", x, torch.diag(self.gain))


def products(node, shapes):
    """Multiply-accumulates of Gain."""
    return math.prod(shapes[node]) * shapes[node.args[0]][1]


class Made(nn.Module):
    """Two convolutions, the second with a residual sum, and a head of five classes."""

    def __init__(self, known, end):
        super().__init__()
        self.known = known
        self.stem, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.ramp, self.end, self.head = nn.ReLU() if known else Ramp(), end, nn.Linear(4, 5)

    def forward(self, x):
        x = self.ramp(self.bn1(self.stem(x)))
        x = F.max_pool2d(x, 2) if self.known else largest_of_four(x)
        y = self.bn2(self.conv(x))
        y = y + x if self.known else sum_of(y, x)
        return self.head(self.end(self.ramp(y).mean((2, 3))))


def made(known=False, end=None):
    torch.manual_seed(0)
    images, labels = batch(16, 8, 5, 1)
    network = with_normalize(Made(known, end or nn.Identity()), (0.5,), (0.25,))
    return warm_up(network, images, labels), images, labels


@pytest.fixture
def table(monkeypatch):
    """A table of operations that is afterwards as it was."""
    monkeypatch.setattr(operations, "_TABLE", dict(operations._TABLE))


@pytest.fixture
def registered(table):
    traits = {"exact": True, "keeps_width": True, "keeps_zero": True, "non_negative": True, "piecewise_linear": True}
    qprune.register_operation(Ramp, macs=0, **traits)
    qprune.register_operation(largest_of_four, macs=0, moves=True)
    qprune.register_operation(sum_of, macs=0, joins="add")
    qprune.register_operation(Gain, macs=products)


def test_torchvisions_layer_has_its_row_and_cant_have_another(table):
    """By its name, so that torchvision is imported only where a network is made of it."""
    assert operations.look_up(StochasticDepth).moves and operations.is_leaf(StochasticDepth(0.1, "row"))
    with pytest.raises(ValueError, match="registered twice"):
        qprune.register_operation(StochasticDepth, macs=0)


def test_what_is_unknown_is_named_until_it_is_registered(table):
    """Unregistered modules and functions are looked into; the remedy of each error is taken as it is written."""
    named = []
    while len(named) < 10:
        try:
            count_cost(made(end=Gain(4))[0], GREY)
            break
        except UserError as error:
            remedy = re.search(r"qprune\.register_operation\((.+), macs=0\)", str(error))
            named.append(remedy[1])
            eval(remedy[0], {"qprune": qprune, "torch": torch, "operator": operator})
    functions = ["operator.ge", "torch.zeros_like", "torch.where", "torch.functional.einsum", "torch.diag"]
    assert sorted(named) == sorted([*functions, '"unfold"', '"nansum"'])
    with pytest.raises(UserError, match=r"layer '1'.*register_operation\(torch.nn.modules.rnn.LSTM, macs=0\)"):
        count_cost(nn.Sequential(nn.Flatten(2), nn.LSTM(64, 4)), GREY)


@pytest.mark.parametrize("name", ["fp32", "fp16", "w4a4", "int8"])
def test_same_values_and_costs_at_each_precision(registered, name):
    (network, images, labels), (known, *_) = made(), made(known=True)
    precision = get_precision(name)
    trained, same = precision.prepare(network, images), precision.prepare(known, images)
    assert count_cost(trained, GREY).layers == count_cost(same, GREY).layers
    finished, same = precision.finish(trained), precision.finish(same)
    assert count_cost(finished, GREY).layers == count_cost(same, GREY).layers
    split = Split((images * 255).byte(), labels)
    found, expected = evaluate(finished, split), evaluate(same, split)
    if name == "int8":  # torch.ao fuses what it knows, and quantises elsewhere
        assert found.loss == pytest.approx(expected.loss, rel=0.01)
    else:
        assert len(trained.graph.nodes) == len(same.graph.nodes)
        assert count_cost(finished, GREY) == count_cost(same, GREY)
        assert torch.equal(finished(images), same(images))
        assert found.loss == expected.loss


def test_macs_of_ones_own(registered):
    network, images, _ = made(end=Gain(4))
    without = count_cost(made()[0], GREY)
    for name, bits in [("fp32", (32, 32)), ("fp16", (32, 16)), ("w4a4", (32, 32))]:
        cost = count_cost(get_precision(name).prepare(network, images), GREY)
        layer = next(layer for layer in cost.layers if layer.name == "end")
        assert (layer.type, layer.macs, (layer.w_bits, layer.a_bits)) == ("Gain", 16, bits)
        assert layer.bops_acc == 16 * (bits[0] * bits[1] + sum(bits) + 2)  # four products in a sum
        assert (cost.macs, cost.params) == (without.macs + 16, without.params + 4)
    assert count_cost(network, GREY).weight_bytes == without.weight_bytes + 4 * 4


def gates(gated):
    return [gate.args[0].name.replace("relu", "ramp") for gate in gated.network.graph.nodes if "gate" in gate.name]


def test_same_gates_scores_and_smaller_networks(registered):
    (network, images, labels), (known, *_) = made(), made(known=True)
    assert gates(GatedNetwork(network, GREY)) == gates(GatedNetwork(known, GREY)) == ["ramp", "bn2"]
    for criterion in ("taylor", "obd_lecun"):
        found, expected = (qprune.score(model.eval(), images, labels, criterion) for model in (network, known))
        assert found["stem"].min() > 0
        torch.testing.assert_close(found, expected)
    smaller, same = (qprune.prune(model, images, labels, 0.5, lr=0.001, updates=20) for model in (network, known))
    assert smaller.conv.out_channels == 2
    torch.testing.assert_close(smaller(images), same(images))


def test_what_is_no_operation_is_refused(registered):
    for form in (Ramp, sum_of, nn.ReLU, "relu"):
        with pytest.raises(ValueError, match="registered twice"):
            qprune.register_operation(form, macs=0)
    with pytest.raises(TypeError, match="no class of modules"):
        qprune.register_operation(Ramp(), macs=0)
    with pytest.raises(TypeError, match="keeps_sing"):
        qprune.register_operation("cumsum", macs=0, keeps_sing=True)
    with pytest.raises(TypeError, match="macs=None"):
        qprune.register_operation("cumsum", macs=None)
    with pytest.raises(ValueError, match="joins='sum'"):
        qprune.register_operation("cumsum", macs=0, joins="sum")
    assert "cumsum" not in operations._TABLE


# torch's own layers ---------------------------------------------------------------------------------------------------

LAYERS = {
    name: layer
    for name, layer in vars(nn).items()
    if isinstance(layer, type) and issubclass(layer, nn.Module) and layer.__name__ == name
}
NO_LAYERS = {
    "Module",
    "Container",
    "Sequential",
    "ModuleList",
    "ModuleDict",
    "ParameterList",
    "ParameterDict",
    "DataParallel",
}
UNKNOWN = {  # what would have to be guessed at
    *("Bilinear", "CosineSimilarity", "PairwiseDistance"),  # of two tensors
    *("RNNBase", "RNN", "LSTM", "GRU", "RNNCellBase", "RNNCell", "LSTMCell", "GRUCell", "Embedding", "EmbeddingBag"),
    *("MultiheadAttention", "Transformer", "TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoder"),
    *("TransformerDecoderLayer", "AdaptiveLogSoftmaxWithLoss"),
    *("FractionalMaxPool2d", "FractionalMaxPool3d"),  # whose windows are drawn anew for each batch
    *("MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "CrossMapLRN2d"),
    *("Fold", "Unfold", "GLU"),  # of channels that pruning couldn't follow
}


def test_each_of_torchs_layers_is_known_or_unknown_on_purpose():
    losses = {name for name, layer in LAYERS.items() if layer.__module__ == "torch.nn.modules.loss"}
    lazy = {name for name, layer in LAYERS.items() if issubclass(layer, nn.modules.lazy.LazyModuleMixin)}
    unknown = {name for name, layer in LAYERS.items() if operations.look_up(layer) is operations.UNKNOWN}
    assert len(LAYERS) > 150 and unknown - losses - lazy == NO_LAYERS | UNKNOWN


TRIED = {
    "GLU": lambda: nn.GLU(1), "Unfold": lambda: nn.Sequential(nn.Unfold(2), nn.Flatten(), nn.Unflatten(1, (4, 28, 7))),
    "CrossMapLRN2d": lambda: nn.CrossMapLRN2d(3), "FractionalMaxPool2d": lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5),
    "TransformerEncoderLayer": lambda: nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 1, 8), nn.Unflatten(2, (8, 8))),
}  # fmt: skip


@pytest.mark.parametrize("name", TRIED)
def test_an_unknown_layer_is_named_with_the_remedy(name):
    network = with_normalize(Body(TRIED[name](), 2 if name == "GLU" else 4), (0.5,), (0.25,))
    with pytest.raises(
        UserError, match=rf"^the cost of layer 'tried[.01]*' \({name}\) isn't known.*qprune.register_operation"
    ):
        count_cost(network, GREY)


ARGUMENTS = {
    "pool": (2,), "pad": (1,), "ConstantPad": (1, 0.3), "PixelShuffle": (2,), "PixelUnshuffle": (2,), "ChannelShuffle": (2,),
    "Threshold": (0.1, 0.2), "Unflatten": (1, (2, 2)), "Softmax": (1,), "Softmin": (1,), "LogSoftmax": (1,), "LPPool": (2, 2),
    "Norm": (4,), "LayerNorm": (8,), "RMSNorm": (8,), "GroupNorm": (2, 4), "LocalResponseNorm": (2,), "Upsampl": (None, 2), "Softmax2d": (),
}  # fmt: skip  # of the layers whose names have this in them; the last that fits


def without_weights() -> dict[str, nn.Module]:
    """A layer of each kind that the table has at no cost and that makes [2, 4, 8, 8] of something."""
    made = {}
    for name, layer in LAYERS.items():
        if operations.look_up(layer) is operations.UNKNOWN or operations.look_up(layer).macs != 0 or "Lazy" in name:
            continue
        given = [given for part, given in ARGUMENTS.items() if part.lower() in name.lower()]
        made[name] = layer(*(given[-1] if given else ())).eval()
    return made


WITHOUT_WEIGHTS = without_weights()


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_rows_traits_are_so(name):
    """On half-precision values, and on integers of two bits."""
    layer, operation = WITHOUT_WEIGHTS[name], operations.look_up(LAYERS[name])
    axes = 1 if "1d" in name else 3 if "3d" in name else 2
    values = torch.randn(2, 4, *(8,) * axes, generator=torch.Generator().manual_seed(0)).half().float()
    result = layer(values)
    positive = layer(values.abs())
    if operation.exact:
        assert torch.equal(result.half().float(), result)
    if operation.moves:
        assert set(result.unique().tolist()) <= set(values.unique().tolist())
    if operation.keeps_width:
        integers = values.mul(2).round().clamp(-2, 1)
        assert set(layer(integers).unique().tolist()) <= {-2, -1, 0, 1}
    if operation.keeps_sign:
        assert positive.min() >= 0
    if operation.non_negative:
        assert result.min() >= 0
    if operation.keeps_zero:
        assert torch.equal(layer(torch.zeros_like(values)), torch.zeros_like(values))
    if operation.piecewise_linear:  # the slope is the same a little further
        near = [torch.func.jvp(layer, (values + step,), (torch.ones_like(values),))[1] for step in (0.0, 1e-4)]
        assert torch.isclose(*near).float().mean() > 0.99
    if operation.averages:
        assert torch.allclose(result.mean(), values.mean(), atol=1e-6)
    claimed = [trait for trait in ("exact", "keeps_sign", "keeps_zero") if getattr(operation, trait)]
    assert claimed or not operation.moves
