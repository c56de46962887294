"""Layers that exporters lack or get wrong, and all others: the same answers in the file's own runtime."""

import re
from contextlib import nullcontext

import pytest
import torch
from networks import Body, batch, warm_up
from torch import nn
from torch.nn import functional as F

from qprune.cost import count_cost
from qprune.data import Split
from qprune.deploy import onnx_file, qonnx_file
from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import logits_of
from qprune.deploy.export import try_export
from qprune.deploy.export_forms import with_export_forms
from qprune.deploy.formats import FORMATS
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec


class AsFunctions(nn.Module):
    """Pooling called as functions."""

    def forward(self, x):
        x = F.avg_pool2d(x, 3, 2, ceil_mode=True)
        return F.adaptive_avg_pool2d(F.adaptive_max_pool2d(x, 3), (2, 3))


class OfFunctions(nn.Module):
    """Others called as functions."""

    def forward(self, x):
        x = F.threshold(F.channel_shuffle(x, 2), 0.1, 0.3)
        return F.pixel_shuffle(F.pixel_unshuffle(F.local_response_norm(x, 3), 2), 2)


class Flat(nn.Module):
    """A layer on the image's rows as one: [n, c, h * w] -> [n, c, length, 1]."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.flatten(2)).unsqueeze(-1)


class Excited(nn.Module):
    """Squeeze and excitation, spread by hand."""

    def forward(self, x):
        return x * torch.sigmoid(x.mean((2, 3), True)).expand_as(x)


class Permuted(nn.Module):
    """Channels last and back."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).permute(0, 3, 2, 1)


TRIED = {
    "adaptive average": lambda: nn.AdaptiveAvgPool2d(3),
    "adaptive average, uneven": lambda: nn.AdaptiveAvgPool2d((5, None)),
    "adaptive maximum": lambda: nn.AdaptiveMaxPool2d((3, 5)),
    "ceil_mode": lambda: nn.AvgPool2d(3, 2, ceil_mode=True),
    "ceil_mode, padded": lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
    "ceil_mode, padding not counted": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "ceil_mode, last window outside": lambda: nn.AvgPool2d(2, 3, padding=1, ceil_mode=True),
    "divisor_override": lambda: nn.AvgPool2d(2, divisor_override=3),
    "functions": AsFunctions,
    "channel shuffle": lambda: nn.ChannelShuffle(2),
    "adaptive average of rows": lambda: Flat(nn.AdaptiveAvgPool1d(5)),
    "adaptive maximum of rows": lambda: Flat(nn.AdaptiveMaxPool1d(8)),
    "ceil_mode of rows": lambda: Flat(nn.AvgPool1d(3, 2, padding=1, ceil_mode=True)),
    "threshold": lambda: nn.Threshold(0.2, 0.1),
    "pixel unshuffle": lambda: nn.PixelUnshuffle(2),
    "local response": lambda: nn.LocalResponseNorm(4, alpha=0.5, beta=0.6, k=1.5),
    "other functions": OfFunctions,
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "permute": Permuted,
    "reflect": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "zeros": lambda: nn.ZeroPad2d((1, 2, 0, 1)),
    "ELU": lambda: nn.ELU(0.7),
    "softmax": lambda: nn.Softmax(1),
    "batch normalisation": lambda: nn.BatchNorm2d(4),
    "batch normalisation, ReLU": lambda: nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()),
    "expand_as": Excited,
    "transposed, biased": lambda: nn.ConvTranspose2d(4, 4, (2, 3), stride=2, padding=(0, 1), groups=2),
}
FORMS = list(TRIED)[:17]  # those that are written in another form


def network_of(name: str):
    torch.manual_seed(4)
    channels = {"pixel shuffle": 1, "pixel unshuffle": 16}.get(name, 4)
    images, labels = batch(32, 8, 5, 1)
    return warm_up(with_normalize(Body(TRIED[name](), channels), (0.5,), (0.25,)), images, labels), images


def apart(name: str, precision: str, form, path) -> torch.Tensor:
    """How far each logit of 64 random images is from the evaluated network's: in shares of their range, or for int8 in
    steps of the logits."""
    network, images = network_of(name)
    number_format = get_precision(precision)
    trained = number_format.prepare(network, images)
    finished = number_format.finish(trained).eval()
    spec = NetworkSpec({"name": "own"}, 1, 8, 5, (0.5,), (0.25,), precision=number_format.name)
    test = Split((torch.rand(64, 1, 8, 8) * 255).byte(), torch.zeros(64).long())
    cell = DeployedCell("tried", {}, spec, trained.state_dict(), finished, test, tuple("abcde"))
    form.write(cell, path)
    found, expected = logits_of(form.load(path, cell), test), logits_of(finished, test)
    unit = finished.head.scale if precision == "int8" else expected.max() - expected.min()
    return (found - expected).abs() / unit


@pytest.mark.parametrize("name", TRIED)
def test_int8_in_onnx_runtime(name, tmp_path):
    """A sum that meets a tie may be rounded the other way: with zeros as padding too, 2 of these 320 are two steps off."""
    steps = apart(name, "int8", onnx_file, tmp_path / "file.onnx")
    assert (steps < 1.01).float().mean() >= 0.98 and steps.max() < 2.01


@pytest.mark.parametrize("name", FORMS)
def test_float_in_onnx_runtime(name, tmp_path):
    assert apart(name, "fp32", onnx_file, tmp_path / "file.onnx").max() < 1e-5


@pytest.mark.parametrize("name", [
    "adaptive average", "ceil_mode", "divisor_override", "reflect", "zeros", "functions", "other functions",
])  # fmt: skip
def test_qonnx_of_any_batch(name, tmp_path):
    """The check runs 64 images through a file that is written for one."""
    assert apart(name, "w4a4", qonnx_file, tmp_path / "file.onnx").max() < 1e-4


@pytest.mark.parametrize("name", FORMS)
def test_the_form_gives_the_same_and_leaves_the_network(name):
    network, images = network_of(name)
    expected = network.eval()(images)
    form = with_export_forms(network, (1, 8, 8))
    assert torch.allclose(form(images), expected, atol=1e-6)
    names = {node.name for node in form.graph.nodes if str(node.target).endswith("_export")}
    assert len(names) == {"functions": 3, "other functions": 4}.get(name, 1)
    assert torch.equal(network(images), expected)


def test_a_graph_that_cannot_be_exported_is_not_printed(tmp_path, capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(Exception, match="bessel"), onnx_file.quiet():
        torch.onnx.export(Odd(), (torch.rand(2, 3),), str(tmp_path / "file.onnx"), dynamo=False)
    assert "graph(" not in "".join(capfd.readouterr())


class OwnTensors(nn.Module):
    """A convolution, a product and a sum by functions of the module's own tensors."""

    def __init__(self):
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(4, 4, 3, 3) * 0.2), nn.Parameter(torch.randn(4) * 0.1)
        self.mix = nn.Parameter(torch.randn(8, 8) * 0.3)
        self.register_buffer("map", torch.rand(8, 8))

    def forward(self, x):
        x = F.conv2d(x, self.kernel, self.shift, padding=1)
        return F.linear(x, self.mix) * self.map + self.shift.view(-1, 1, 1)


LAYERS = {
    "padding": lambda: nn.Sequential(
        nn.ReflectionPad2d((1, 0, 2, 1)), nn.ReplicationPad2d(1), nn.CircularPad2d((0, 1, 1, 2)), nn.ZeroPad2d((1, 0, 0, 2)),
        nn.ConstantPad2d(1, 0.3),
    ),
    "activations": lambda: nn.Sequential(
        nn.SELU(), nn.CELU(0.7), nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Softsign(), nn.Tanhshrink(), nn.Hardtanh(-0.5, 0.6),
        nn.RReLU(), nn.LogSigmoid(), nn.Softmin(1), nn.Softmax2d(),
    ),
    "rows": lambda: Flat(
        nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveMaxPool1d(10),
        nn.AdaptiveAvgPool1d(4),
    ),
    "sizes": lambda: nn.Sequential(
        nn.UpsamplingNearest2d(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2), nn.LPPool2d(2, 2), nn.PixelUnshuffle(2),
        nn.PixelShuffle(2), nn.LocalResponseNorm(3),
    ),
    "tensors of its own": OwnTensors,
}  # fmt: skip
BRING_NO = {
    ("rows", "w4a4"): "layer tried.layers.0: Conv1d can't be quantised with Brevitas here: Conv2d and Linear can be."
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w4a4"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_at_each_precision_counted_and_in_each_format(name, precision):
    """What is counted is what is trained and what is finished; where a precision can't be had, a sentence says why."""
    torch.manual_seed(4)
    images, labels = batch(32, 8, 5, 1)
    network = warm_up(with_normalize(Body(LAYERS[name]()), (0.5,), (0.25,)), images, labels)
    number_format = get_precision(precision)
    if (name, precision) in BRING_NO:
        with pytest.raises(UserError, match=re.escape(BRING_NO[name, precision])):
            number_format.prepare(network, images)
        return
    trained = number_format.prepare(network, images).eval()
    finished = number_format.finish(trained).eval()
    costs = [count_cost(form, (1, 8, 8)) for form in (network, trained, finished)]
    assert len({cost.macs for cost in costs}) == 1
    assert [(layer.w_bits, layer.a_bits) for layer in costs[1].layers] == [
        (layer.w_bits, layer.a_bits) for layer in costs[2].layers
    ]
    spec = NetworkSpec({"name": "own"}, 1, 8, 5, (0.5,), (0.25,), precision=number_format.name)
    test = Split((torch.rand(16, 1, 8, 8) * 255).byte(), torch.zeros(16).long())
    made = DeployedCell("tried", {}, spec, trained.state_dict(), finished, test, tuple("abcde"))
    for form in FORMATS.entries():
        if form.can_hold(precision) and form.name != "torch":  # it rebuilds a network by its name
            try_export(made, form)


def test_what_normalises_by_the_batch_is_refused(tmp_path):
    network = with_normalize(Body(nn.BatchNorm2d(4, track_running_stats=False)), (0.5,), (0.25,)).eval()
    spec = NetworkSpec({"name": "own"}, 1, 8, 5, (0.5,), (0.25,))
    made = DeployedCell("tried", {}, spec, {}, network, Split(torch.zeros(4, 1, 8, 8).byte(), torch.zeros(4)), ())
    for form in (onnx_file, qonnx_file):
        with pytest.raises(
            UserError, match=r"^layer tried \(BatchNorm2d\) normalises by the batch at hand, which ONNX can't"
        ):
            form.write(made, tmp_path / "file.onnx")
    try_export(made, FORMATS.get("pt2"))


# What is no fault ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "jump, off, is_fault", [(0, 5e-4, False), (0, 0.01, True), (0.2, 0.3, False), (0.2, 0.5, True)]
)
def test_logits_that_rounding_decides_are_no_fault(jump, off, is_fault, monkeypatch):
    """Random weights put sums close to ties. jump, off: shares of the largest logit, by which the network's own logits change
    where pixels are moved at all, and by which the file's are off."""
    network = with_normalize(Body(nn.Identity()), (0.5,), (0.25,)).eval()
    spec = NetworkSpec({"name": "own"}, 1, 8, 5, (0.5,), (0.25,))
    images = torch.randint(0, 256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    largest = network(images / 255).abs().max().detach()

    def logits(x):
        moved = (x * 255 - (x * 255).round()).abs().flatten(1).amax(1) > 1e-3
        return network(x) + jump * largest * moved[:, None]

    monkeypatch.setattr(onnx_file, "write", lambda cell, path: None)
    monkeypatch.setattr(onnx_file, "load", lambda path, cell: lambda x: network(x) + off * largest)
    made = DeployedCell("tried", {}, spec, {}, logits, Split(images, torch.zeros(8)), tuple("abcde"))
    with pytest.raises(UserError, match="other logits") if is_fault else nullcontext():
        try_export(made, FORMATS.get("onnx"))
