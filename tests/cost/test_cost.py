import math

import pytest
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from networks import Depthwise, Plain, Residual, small
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from qprune.cost import Cost, LayerCost, count_cost
from qprune.cost.widths import width_of_range
from qprune.networks.graph import with_normalize
from qprune.precision import get_precision
from qprune.registry.errors import UserError

GREY = (1, 8, 8)
HAND = {  # macs of each layer on an 8x8 image
    Plain: {"conv1": 9 * 1 * 4 * 64, "conv2": 9 * 4 * 6 * 16, "fc": 96 * 5},
    Residual: {
        "stem": 9 * 1 * 4 * 64, "a1": 9 * 4 * 3 * 64, "a2": 9 * 3 * 4 * 64, "b1": 9 * 4 * 5 * 64, "b2": 9 * 5 * 4 * 64,
        "fc": 4 * 5,
    },
    Depthwise: {
        "stem": 9 * 1 * 4 * 64, "expand": 4 * 8 * 64, "depthwise": 9 * 8 * 64, "project": 8 * 4 * 64, "fc": 4 * 5,
    },
}  # fmt: skip


def prepared(kind, name, **options):
    network, images, _ = small(kind)
    return get_precision(name, **options).prepare(network, images)


def macs(cost):
    return {layer.name: layer.macs for layer in cost.layers}


def widths(cost):
    return {layer.name: (layer.w_bits, layer.a_bits) for layer in cost.layers}


@pytest.mark.parametrize("kind", HAND)
@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "w4a4", "w8a8"])
def test_macs_by_hand_in_every_form(kind, name):
    network, images, _ = small(kind)
    precision = get_precision(name)
    form = precision.prepare(network, images)
    cost = count_cost(form, GREY)
    assert macs(cost) == HAND[kind]
    assert cost.macs == sum(HAND[kind].values())
    assert cost.params == sum(p.numel() for p in network.parameters())
    assert macs(count_cost(precision.finish(form), GREY)) == HAND[kind]
    assert macs(count_cost(kind(), GREY)) == HAND[kind]  # a plain module is traced


def test_values_per_weight_by_hand():
    """Those of Depthwise's four convolutions, whose weights are 36, 32, 72 and 32, on 64 pixels; the linear layer has no part in it."""
    assert count_cost(Depthwise(), GREY).values_per_weight == 64 * (4 + 8 + 8 + 4) / (36 + 32 + 72 + 32)
    assert count_cost(prepared(Depthwise, "w4a4"), GREY).values_per_weight == 64 * 24 / 172
    assert count_cost(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), GREY).values_per_weight == 0


def test_shapes_of_layers():
    layers = {layer.name: layer for layer in count_cost(prepared(Depthwise, "fp32"), GREY).layers}
    assert layers["depthwise"] == LayerCost("depthwise", "Conv2d", 4608, 32, 32, 72, 8, 8, (3, 3), 8)
    assert layers["fc"] == LayerCost("fc", "Linear", 20, 32, 32, 20, 4, 5, (), 1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "alexnet", "vgg11_bn"])
def test_torchvision_against_two_other_counters(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=10).eval()
    images = torch.rand(1, 3, 64, 64)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(images)
    other = FlopCountAnalysis(model, images).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    fvcore = sum(count for op, count in other.by_operator().items() if op in ("conv", "linear", "addmm", "matmul"))
    cost = count_cost(with_normalize(model, (0.5,) * 3, (0.5,) * 3), (3, 64, 64))
    assert cost.macs == flops.get_total_flops() / 2 == fvcore
    assert cost.gflops == cost.bit_gflops == cost.linear_gflops == 2 * cost.macs / 1e9
    assert cost.params == sum(p.numel() for p in model.parameters())


# --- widths


def test_widths_in_each_form():
    assert set(widths(count_cost(prepared(Depthwise, "fp32"), GREY)).values()) == {(32, 32)}
    assert set(widths(count_cost(prepared(Depthwise, "fp16"), GREY)).values()) == {(16, 16)}
    ends = {"stem": (8, 8), "fc": (8, 8)}
    between = {"expand": (3, 5), "depthwise": (3, 5), "project": (3, 5)}
    assert widths(count_cost(prepared(Depthwise, "w3a5"), GREY)) == ends | between
    everywhere = count_cost(prepared(Depthwise, "w3a5", first_last_bits=None), GREY)
    assert set(widths(everywhere).values()) == {(3, 5)}


@pytest.mark.parametrize("vnni, bits", [(True, 8), (False, 7)])
def test_torch_ao_widths_come_from_the_range_not_the_dtype(vnni, bits, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("not an x86 build of torch")
    form = prepared(Residual, "int8")
    assert set(widths(count_cost(form, GREY)).values()) == {(8, bits)}
    assert set(widths(count_cost(get_precision("int8").finish(form), GREY)).values()) == {(8, bits)}


def test_fake_quantisers_of_torch_ao_own_default():
    """x86's default QAT configuration: 0..127, so 7 bits."""
    from torch.ao.quantization import get_default_qat_qconfig
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten()).train()
    qconfig = {"": get_default_qat_qconfig("x86")}
    form = prepare_qat_fx(model, qconfig, (torch.zeros(1, 1, 8, 8),))
    before = {key: tensor.clone() for key, tensor in form.state_dict().items()}
    assert set(widths(count_cost(form, GREY)).values()) == {(8, 7)}
    assert all(torch.equal(tensor, before[key]) for key, tensor in form.state_dict().items())  # it saw no zeros


def test_brevitas_own_quantisers():
    """A narrow range has one level less; a layer's own input quantiser counts; a ReLU's output quantiser too."""
    from brevitas import nn as qnn
    from brevitas.quant import Int8ActPerTensorFloat

    model = nn.Sequential(
        qnn.QuantConv2d(1, 2, 3, weight_bit_width=4, input_quant=Int8ActPerTensorFloat, input_bit_width=6),
        qnn.QuantReLU(bit_width=5),
        nn.MaxPool2d(2),
        qnn.QuantConv2d(2, 2, 3, weight_bit_width=3),
        nn.Flatten(),
        qnn.QuantLinear(2, 3, bias=False, weight_quant=None),
    )
    found = widths(count_cost(model, GREY))
    assert found["0"] == (pytest.approx(math.log2(15)), 6)
    assert found["3"] == (pytest.approx(math.log2(7)), 5)
    assert found["5"] == (32, 32)


def test_an_operation_between_quantiser_and_layer_is_counted_as_float():
    """Average pooling computes: what arrives is no 16-bit or 4-bit tensor any more unless it is rounded again."""
    network = with_normalize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3)), (0.5,), (0.5,))
    form = get_precision("w4a4").prepare(network, None)
    assert widths(count_cost(form, GREY))["2"] == (8, 8)
    pool = nn.AvgPool2d(3, stride=1, padding=1)
    form.add_submodule("pool", pool)
    last = [node for node in form.graph.nodes if node.target == "2"][0]
    with form.graph.inserting_before(last):
        last.args = (form.graph.call_module("pool", last.args),)
    form.recompile()
    assert widths(count_cost(form, GREY))["2"] == (8, 32)


def test_width_of_range():
    assert [width_of_range(*r) for r in ((0, 255), (-128, 127), (0, 127), (-2, 1), (0, 1))] == [8, 8, 7, 2, 1]
    assert width_of_range(-127, 127) == pytest.approx(7.9944, abs=1e-4)


# --- operations


class Functions(nn.Module):
    """Every functional layer, on [1, 2, 8, 8]: convolution, linear, products of activations."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3))
        self.matrix = nn.Parameter(torch.randn(5, 8))
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)

    def forward(self, x):
        x = F.conv2d(x, weight=self.kernel, padding=1, groups=2)  # [1, 4, 8, 8]: 256 x 9
        y = self.up(x)  # [1, 6, 16, 16]: 256 inputs x 3 outputs x 4
        x = F.linear(x, self.matrix)  # [1, 4, 8, 5]: 160 x 8
        x = x.transpose(2, 3) @ x  # [1, 4, 5, 5]: 100 x 8
        x = torch.bmm(x.flatten(0, 1), x.flatten(0, 1))  # [4, 5, 5]: 100 x 5
        x = torch.addmm(x[0], x[1], x[2])  # [5, 5]: 25 x 5
        return F.linear(x, self.matrix.transpose(0, 1)).sum() + y.mean()  # [5, 8]: 40 x 5


def test_functional_layers():
    cost = count_cost(Functions(), (2, 8, 8))
    assert [layer.macs for layer in cost.layers] == [256 * 9, 256 * 12, 160 * 8, 100 * 8, 100 * 5, 25 * 5, 40 * 5]
    kinds = ["Conv2d", "ConvTranspose2d", "Linear", "matmul", "matmul", "matmul", "Linear"]
    assert [layer.type for layer in cost.layers] == kinds
    assert [layer.weight_elements for layer in cost.layers] == [36, 4 * 3 * 4, 40, 0, 0, 0, 0]
    assert (cost.layers[0].groups, cost.layers[0].channels_in, cost.layers[0].kernel) == (2, 2, (3, 3))
    with FlopCounterMode(display=False) as flops:
        Functions()(torch.rand(1, 2, 8, 8))
    assert cost.macs == flops.get_total_flops() / 2


def test_a_layer_that_runs_twice_keeps_its_weights_once():
    shared = nn.Conv2d(2, 2, 3, padding=1)
    cost = count_cost(nn.Sequential(shared, nn.ReLU(), shared), (2, 8, 8))
    assert [layer.macs for layer in cost.layers] == [2304, 2304]
    assert [layer.weight_elements for layer in cost.layers] == [36, 0]
    assert cost.weight_bytes == 36 * 4 + 2 * 4


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "model, named",
    [
        (nn.Sequential(nn.Flatten(2), nn.LSTM(64, 4)), "layer '1' (LSTM)"),
        (Calls(lambda x: torch.einsum("nchw,nchv->nwv", x, x)), "einsum"),
        (Calls(lambda x: F.scaled_dot_product_attention(x, x, x)), "scaled_dot_product_attention"),
        (Calls(lambda x: x.cumsum(1)), "cumsum"),
    ],
)
def test_unknown_operations_are_named(model, named):
    with pytest.raises(UserError, match="isn't known") as caught:
        count_cost(model, GREY)
    assert named in str(caught.value)


def test_wrong_image_shape():
    with pytest.raises(UserError, match=r"shape \[3, 8, 8\]"):
        count_cost(prepared(Plain, "fp32"), (3, 8, 8))


# --- totals


def test_formulas_by_hand():
    layers = (
        LayerCost("a", "Conv2d", 1000, 4, 8, 288, 16, 8, (3, 3), 4),
        LayerCost("b", "Linear", 500, 32, 16, 50, 10, 5),
    )
    cost = Cost(layers, params=400, float_bytes=52, peak_activation_bytes=0)
    assert (cost.macs, cost.bops) == (1500, 1000 * 32 + 500 * 512)
    assert cost.gflops == pytest.approx(3e-6)
    assert cost.gbops == pytest.approx(288e-6)
    assert cost.bit_gflops == pytest.approx((2000 * 32 / 1024 + 1000 * 512 / 1024) / 1e9)
    assert cost.linear_gflops == pytest.approx((2000 * 8 / 32 + 1000 * 32 / 32) / 1e9)
    acc = 1000 * (32 + 12 + math.log2(9 * 16 / 4)) + 500 * (512 + 48 + math.log2(10))
    assert cost.gbops_acc == pytest.approx(acc / 1e9)
    assert cost.weight_bytes == 288 / 2 + 50 * 4 + 52
    assert Cost(layers[:1], 0, 0, 0).relative_to(cost) == pytest.approx(32000 / 288000)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "w2a3", "w4a4", "w8a8"])
def test_relations_between_the_measures(name):
    dense = count_cost(prepared(Residual, "fp32"), GREY)
    cost = count_cost(prepared(Residual, name, first_last_bits=None), GREY)
    weight, act = {"fp32": (32, 32), "fp16": (16, 16), "int8": (8, cost.layers[0].a_bits)}.get(
        name, tuple(map(int, name[1:].split("a"))) if name[0] == "w" else None
    )
    assert cost.bit_gflops == cost.gbops / 512
    assert cost.relative_to(dense) == weight * act / 1024
    assert cost.linear_gflops == pytest.approx(dense.gflops * max(weight, act) / 32)
    assert cost.gflops == dense.gflops == dense.bit_gflops


def test_weight_bytes_by_hand():
    """Plain: 36 + 216 + 480 weights, 4 + 6 + 5 biases, BN over 10 channels, mean and std of the input."""
    weights, biases, norm, constants = 732, 15, 4 * 10, 2
    assert count_cost(prepared(Plain, "fp32"), GREY).weight_bytes == 4 * (weights + biases + norm + constants)
    assert count_cost(prepared(Plain, "fp16"), GREY).weight_bytes == 2 * (weights + biases) + 4 * (norm + constants)
    scales = 3 + 4 + 6 + 5  # of the three tensors that arrive, and per channel
    quantised = 36 + 216 / 2 + 480  # w4, first and last at 8 bits
    assert count_cost(prepared(Plain, "w4a4"), GREY).weight_bytes == quantised + 4 * (
        biases + norm + constants + scales
    )
    int8 = count_cost(prepared(Plain, "int8"), GREY)  # BN folded into the biases; a scale and zero point each, 5 bytes
    tensors = 5  # the input, two ReLUs, max pooling and fc
    shared = int8.weight_bytes - (weights + 4 * (biases + constants) + 5 * (4 + 6 + 5)) - 5 * tensors
    assert shared == -5  # torch.ao lets max pooling share the quantiser of its input
    converted = count_cost(get_precision("int8").finish(prepared(Plain, "int8")), GREY)
    assert abs(converted.weight_bytes - int8.weight_bytes) <= 10


@pytest.mark.parametrize(
    "precision, width",
    [("w2a8", 4), ("w3a3", 4), ("w4a4", 4), ("w5a5", 8), ("w8a8", 8), ("int8", 8), ("fp16", 16), ("fp32", 32)],
)
def test_stored_bytes_by_hand(precision, width):
    """Weights of all layers but the first and the last, which have 8 bits beside Brevitas' narrower ones, at a file's width."""
    counted = count_cost(prepared(Plain, precision), GREY)
    elements = [layer.weight_elements for layer in counted.layers]
    ends = 8 if precision.startswith("w") else width
    stored = (elements[0] + elements[-1]) * ends + sum(elements[1:-1]) * width
    assert counted.stored_bytes == stored / 8 + counted.float_bytes >= counted.weight_bytes
    assert counted.weight_bits_bytes == counted.weight_bytes - counted.float_bytes
