import copy
import subprocess
import sys

import pytest
import torch
from networks import Depthwise, Plain, Residual, batch, make, small, warm_up
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from qprune.data import load_data
from qprune.networks.graph import with_normalize
from qprune.precision import PRECISIONS, PrecisionEntry, get_precision
from qprune.registry.errors import UserError

OF_BREVITAS = ("w2a3", "w4a4", "w8a8", "mixed2.5")  # of the 60 that differ by their widths alone
NAMES = [e.name for e in PRECISIONS.entries() if e.layers != "brevitas" or e.name in OF_BREVITAS]
KINDS = (Plain, Residual, Depthwise)


def trained(network, name, images, labels, steps=4, lr=0.02, **options):
    """A network prepared for a format and trained in it for a few updates."""
    prepared = get_precision(name, **options).choose(network, images).prepare(network, images)
    prepared.train()
    optimizer = torch.optim.SGD((p for p in prepared.parameters() if p.requires_grad), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(prepared(images), labels).backward()
        optimizer.step()
    return prepared.eval()


# --- names


def test_names_are_checked_without_importing_torch():
    code = "import sys; from qprune.precision import get_precision as g; g('int4'); g('int8'); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_canonical_names():
    assert get_precision("int4").name == PRECISIONS.get("int4").name == "w4a4"
    assert len(PRECISIONS.names()) == 3 + 49 + 11 == len(set(PRECISIONS.names()))
    assert all(PRECISIONS.get(name).name == name for name in PRECISIONS.names())


def test_what_others_ask_of_a_format():
    bits = {"mixed2.5": (2.5, 2.5), "fp32": (32, 32), "fp16": (16, 16), "int8": (8, 8), "int4": (4, 4), "w3a8": (3, 8)}
    assert {name: PRECISIONS.get(name).bits for name in bits} == bits
    entries = PRECISIONS.entries()
    assert [entry.name for entry in entries if entry.layers != "brevitas"] == ["fp32", "fp16", "int8"]
    assert [entry.name for entry in entries if entry.cpu_only] == ["int8"]
    assert {entry.name: entry.timed for entry in entries if entry.timed} == {"fp32": "FP32", "int8": "integer"}
    assert {entry.name: entry.weights for entry in entries[:4]} == {
        "fp32": "float", "fp16": "half", "int8": "integer", "w2a2": "integer",
    }  # fmt: skip
    mixed = [entry.name for entry in entries if entry.mixed]
    assert len(mixed) == 11 and all(name.startswith("mixed") for name in mixed)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("itn8", "int8"),
        ("fp61", "fp16"),
        ("FP32", "fp32"),
        ("w4a9", "2 to 8 bits"),
        ("w1a4", "2 to 8 bits"),
        ("w10a10", "2 to 8"),
        ("mixed2", "in halves"),
        ("mixed8", "in halves"),
        ("mixed4.25", "in halves"),
        ("mixed", "mixed2.5"),
    ],
)
def test_unknown_name(name, expected):
    with pytest.raises(UserError, match=expected) as caught:
        get_precision(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("bits", [1, 9, 4.5, True, "8"])
def test_first_last_bits_out_of_range(bits):
    with pytest.raises(UserError, match="first_last_bits"):
        get_precision("w4a4", first_last_bits=bits)


@pytest.mark.parametrize("name", ["fp16", "int4", "w4a4", "mixed4"])
def test_registering_twice(name):
    with pytest.raises(ValueError, match="twice"):
        PRECISIONS.add(PrecisionEntry(name, "qprune.precision.fp32", bits=(32, 32)))


# --- what every format must do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_conformance(name, kind, tmp_path):
    check_conformance(name, *small(kind), tmp_path)


def test_a_format_of_ones_own_conforms(tmp_path):
    with PRECISIONS.temporarily(PrecisionEntry("own", "qprune.precision.fp32", bits=(32, 32), timed="FP32")):
        check_conformance("own", *small(Residual), tmp_path)
    with pytest.raises(UserError, match="unknown precision 'own'"):
        get_precision("own")


@pytest.mark.parametrize("model", ["resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.long), "densenet_small"])
@pytest.mark.parametrize("name", ["fp16", "int8", "w4a4"])
def test_conformance_torchvision(name, model, tmp_path):
    images, labels = batch(16)  # BN of the last 1x1 maps sees 16 values: of 4, rounded, all may be equal
    network = make(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics that fit after a few steps
    check_conformance(name, warm_up(network, images, labels), images, labels, tmp_path)


def check_conformance(name, network, images, labels, folder):
    precision = get_precision(name).choose(network, images)
    before = copy.deepcopy(network.state_dict())
    prepared = trained(network, name, images, labels)
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in before.items())
    changed = [not torch.equal(p, before[key]) for key, p in prepared.named_parameters() if key in before]
    assert any(changed) and all(p.isfinite().all() for p in prepared.parameters())

    state = prepared.state_dict()
    save_file({key: tensor.clone() for key, tensor in state.items()}, folder / "network.safetensors")
    again = precision.prepare(network, None)
    again.load_state_dict(load_file(folder / "network.safetensors"), strict=True)
    outputs = prepared(images)
    assert outputs.isfinite().all()
    assert torch.equal(again.eval()(images), outputs)
    assert all(torch.equal(tensor, prepared.state_dict()[key]) for key, tensor in again.state_dict().items())

    finished = precision.finish(prepared)
    assert not any(module.training for module in finished.modules())
    if len(list(network.modules())) < 20:  # torch.ao takes seconds to convert a larger one
        assert torch.equal(finished(images), precision.finish(again)(images))
    assert all(torch.equal(tensor, prepared.state_dict()[key]) for key, tensor in state.items())
    if precision.entry.layers != "torch.ao":  # whose layers are converted
        assert torch.equal(finished(images), outputs)


@pytest.mark.parametrize("name", ["fp16", "int8", "w2a2"])
def test_training_goes_on(name):
    network, images, labels = small(Residual)
    first = F.cross_entropy(trained(network, name, images, labels, steps=0)(images), labels)
    last = F.cross_entropy(trained(network, name, images, labels, steps=40)(images), labels)
    assert last < 0.9 * first


# --- fp16


def is_half(values):
    return torch.equal(values, values.half().float())


def test_fp16_operands_and_results_are_half():
    network, images, labels = small(Residual)
    prepared = trained(network, "fp16", images, labels)
    checked = []
    for name, module in prepared.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            module.register_forward_pre_hook(lambda m, args, name=name: checked.append((name, is_half(args[0]))))
    assert is_half(prepared(images))
    assert len(checked) == 11 and all(half for _, half in checked)
    assert not is_half(prepared.stem.weight)  # the master
    rounded = F.conv2d(network.normalize(images).half().float(), prepared.stem.weight.half().float(), padding=1)
    assert torch.equal(prepared.stem(network.normalize(images).half().float()), rounded)


def test_round_half_overflows_and_passes_gradients():
    from qprune.precision.fp16 import round_half

    values = torch.tensor([1e5, -1e5, 65504.0, 1 + 2.0**-11, 1e-9], requires_grad=True)
    rounded = round_half(values)
    assert rounded.tolist() == [float("inf"), -float("inf"), 65504.0, 1.0, 0.0]
    (gradient,) = torch.autograd.grad(rounded, values, torch.tensor([1e-9, 2.0, 3.0, 4.0, 5.0]))
    assert gradient.tolist() == pytest.approx([1e-9, 2, 3, 4, 5])


# --- learned scales


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits, signed", [(2, True), (4, False), (4, True), (8, True)])
def test_fused_quantiser_against_autograd(bits, signed, per_channel):
    """The formula written out with a straight-through rounding, in float64."""
    from qprune.precision.lsq import _Quantize, int_range

    torch.manual_seed(0)
    low, high = int_range(bits, signed)
    values = torch.randn(6, 5, 3, 3, dtype=torch.double, requires_grad=True)
    scale = torch.full((6, 1, 1, 1) if per_channel else (), 1.7 / high, dtype=torch.double, requires_grad=True)
    if per_channel:
        scale.data.mul_(torch.rand(6, 1, 1, 1) + 0.5)
    upstream = torch.randn_like(values)
    fused, step = _Quantize.apply(values, scale, low, high, 1e-6)  # below where gradients are clamped
    steps = values / scale
    rounded = steps + (steps.round() - steps).detach()
    slow = torch.where(rounded < low, low, torch.where(rounded > high, high, rounded)) * scale
    assert torch.allclose(fused, slow) and torch.equal(step, scale)
    expected = torch.autograd.grad(slow, (values, scale), upstream)
    found = torch.autograd.grad(fused, (values, scale), upstream)
    assert torch.allclose(found[0], expected[0])
    assert torch.allclose(found[1], expected[1] * 1e-6, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_scale_gradients_are_bounded_and_negative_scales_reflected(sign):
    from qprune.precision.lsq import _Quantize

    values = torch.randn(4, 10)
    scale = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    found = []
    for factor in (1, sign):
        leaf = (scale * factor).requires_grad_()
        quantized, step = _Quantize.apply(values, leaf, -8, 7, 1.0)
        quantized.backward(100 * torch.ones_like(values))
        assert torch.equal(step, scale) and (leaf.grad.abs() <= 1.0001 * scale).all() and (leaf.grad != 0).all()
        found.append((quantized.detach(), leaf.grad * factor))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_quantiser_against_brevitas():
    """Brevitas' own integer quantiser, given the same scale, gives the same values."""
    from brevitas.core.bit_width import BitWidthConst
    from brevitas.core.function_wrapper import Identity, RoundSte
    from brevitas.core.quant import IntQuant

    from qprune.precision.lsq import LearnedScaleQuant

    values = torch.randn(8, 4, 6, 6)
    for bits, signed in ((2, True), (3, False), (8, True)):
        ours = LearnedScaleQuant(bits, signed, (), per_example=True, learned=True)
        ours.start_from(values)
        quantized, scale, zero_point, width = ours(values)
        theirs = IntQuant(signed=signed, narrow_range=False, float_to_int_impl=RoundSte(), input_view_impl=Identity())
        assert torch.equal(quantized, theirs(scale, zero_point, BitWidthConst(bits)(), values))
        assert width == bits


def test_mse_scale_is_the_best_of_many():
    from qprune.precision.lsq import mse_scale, quantize

    rows = torch.randn(3, 500) ** 3
    found = mse_scale(rows, -8, 7)
    for row, scale in zip(rows, found, strict=True):
        errors = [
            (quantize(row, s, -8, 7) - row).square().sum() for s in torch.linspace(0.005, 1, 400) * row.abs().max() / 7
        ]
        assert (quantize(row, scale, -8, 7) - row).square().sum() <= 1.05 * min(errors)
    assert mse_scale(torch.zeros(2, 5), -8, 7).tolist() == pytest.approx([1 / 7] * 2)


# --- Brevitas


def quantizers(network):
    from brevitas import nn as qnn

    return {name: module for name, module in network.named_modules() if isinstance(module, qnn.QuantIdentity)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_last", [8, None])
def test_brevitas_operands_are_integers(kind, first_last):
    """What really arrives at each layer, and its weights, divided by their scales: whole numbers in the range."""
    from qprune.precision.brevitas_qat import quantizer_of, weight_layers

    network, images, labels = small(kind)
    prepared = trained(network, "w4a3", images, labels, first_last_bits=first_last)
    layers = weight_layers(prepared)
    source = {node.target: node.args[0].target for node in layers}
    arrived = {}
    for name in source:
        prepared.get_submodule(name).register_forward_pre_hook(
            lambda m, args, name=name: arrived.update({name: args[0]})
        )
    prepared(images)
    for index, name in enumerate(source):
        end = first_last is not None and index in (0, len(source) - 1)
        layer, quant = prepared.get_submodule(name), quantizer_of(prepared.get_submodule(source[name]))
        signed = index == 0 or (kind is Depthwise and name == "fc")  # no activation before it
        for values, scale, bits, sign in (
            (arrived[name], quant.scale, first_last if end else 3, signed),
            (layer.weight_quant(layer.weight), layer.weight_quant.tensor_quant.scale, first_last if end else 4, True),
        ):
            steps = values / scale
            assert torch.allclose(steps, steps.round(), atol=1e-3)
            assert steps.min() >= (-(2 ** (bits - 1)) if sign else 0) - 0.01
            assert steps.max() <= (2 ** (bits - 1) if sign else 2**bits) - 0.99
        assert quant.signed == signed


def test_brevitas_quantises_a_tensor_once():
    network, images, _ = small(Residual)
    prepared = get_precision("w4a4").prepare(network, images)
    assert len(quantizers(prepared)) == 6  # the input, four convolutions' inputs (two of them also added), fc's
    added = [node for node in prepared.graph.nodes if "add" in node.name]
    assert len(added) == 2 and all(any(a.target in quantizers(prepared) for a in node.args) for node in added)


def test_brevitas_input_scale_is_fixed_and_others_learn():
    network, images, labels = small(Plain)
    start = get_precision("w4a4").prepare(network, images).state_dict()
    end = trained(network, "w4a4", images, labels).state_dict()
    scales = [key for key in start if key.endswith(".scale")]
    same = [key for key in scales if torch.equal(start[key], end[key])]
    assert len(scales) == 6 and same == ["quant_0.act_quant.fused_activation_quant_proxy.tensor_quant.scale"]


@pytest.mark.parametrize("name", ["fp16", "int8", "w2a2", "w4a4"])
def test_dead_channels(name):
    """A channel of zero weights, one whose ReLU is always 0, one with gamma 0: finite outputs and gradients."""
    network, images, labels = small(Plain)
    with torch.no_grad():
        network.conv1.weight[0] = 0
        network.bn1.bias.fill_(-100)  # nothing passes the first ReLU: a tensor of zeros
        network.bn2.weight[1] = 0
        network.bn2.bias[1] = 0
    prepared = get_precision(name).prepare(network, images).train()
    F.cross_entropy(prepared(images), labels).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in prepared.parameters())
    assert get_precision(name).finish(prepared)(images).isfinite().all()


def test_brevitas_refuses_what_it_cannot_quantise():
    network = with_normalize(
        nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.Flatten(), nn.Linear(200, 2)), (0.5,), (0.5,)
    )
    with pytest.raises(UserError, match="layer 0: ConvTranspose2d"):
        get_precision("w4a4").prepare(network, None)


# --- int8


@pytest.fixture(scope="module")
def digits():
    data = load_data({"name": "digits"})
    return data.train.images / 255, data.train.labels, data.test.images / 255


@pytest.mark.parametrize("kind", [Residual, Depthwise])
def test_int8_is_converted_and_agrees_with_qat(kind, digits):
    """On real images: nothing saturates, so the integer network decides as the fake-quantised one."""
    from torch.ao.nn import quantized as nnq

    images, labels, test = digits
    torch.manual_seed(0)
    model = kind()
    model.fc = nn.Linear(4, 10)
    network = with_normalize(model, (0.3,), (0.38,)).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(150):
        chosen = torch.arange(step * 64, step * 64 + 64) % len(labels)
        optimizer.zero_grad()
        F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    prepared = trained(network, "int8", images[:256], labels[:256], steps=10, lr=0.002)
    converted = get_precision("int8").finish(prepared)
    kinds = [type(module) for module in converted.modules()]
    assert not any(isinstance(module, (nn.Conv2d, nn.Linear)) for module in converted.modules())
    assert sum(issubclass(k, nnq.Conv2d) for k in kinds) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert sum(issubclass(k, nnq.Linear) for k in kinds) == 1
    expected, found = prepared(test), converted(test)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.99
    assert (found - expected).abs().mean() < 0.001 * (expected.max() - expected.min())  # a quarter of an 8-bit step


def test_int8_does_not_saturate_in_wide_depthwise_convolutions():
    """torch's x86 engine runs more than 100 groups in fbgemm, where large operands saturate in 16 bits."""
    layer = nn.Conv2d(128, 128, 3, padding=1, groups=128)
    nn.init.uniform_(layer.weight, 0.9, 1.0)
    model = nn.Sequential(nn.Conv2d(1, 128, 1), nn.ReLU(), layer)
    nn.init.ones_(model[0].weight)
    network = with_normalize(model, (0.0,), (1.0,)).eval()
    images = torch.rand(4, 1, 8, 8) * 0.1 + 0.9
    prepared = get_precision("int8").prepare(network, images).eval()
    expected, found = prepared(images), get_precision("int8").finish(prepared)(images)
    assert (found - expected).abs().max() <= 1.01 * expected.max() / 127  # one step of at least 7 bits


def test_lean_convolution_against_torch_ao():
    """The same outputs and gradients as torch.ao's fused convolution, whose divisions are of the activations."""
    from qprune.precision.torch_ao import _FULL, LeanConvBn2d

    network, images, _ = small(Residual)
    prepared = get_precision("int8").prepare(network, images).train()
    slow = copy.deepcopy(prepared)
    swapped = [module for module in slow.modules() if type(module) in _FULL]
    assert any(type(module) is LeanConvBn2d for module in swapped)
    for module in swapped:
        module.__class__ = _FULL[type(module)]
    for net in (prepared, slow):
        net(images).square().sum().backward()
    assert torch.allclose(prepared(images), slow(images), rtol=1e-3, atol=1e-3)
    for (name, fast), other in zip(prepared.named_parameters(), slow.parameters(), strict=True):
        if name.endswith("weight") and fast.dim() > 1:
            assert torch.allclose(fast.grad, other.grad, rtol=0.02, atol=0.02 * float(other.grad.abs().max())), name


def test_lean_fake_quantiser_against_torch():
    """torch's own fake-quantise kernel and observer, on a range with a zero point that isn't 0."""
    from torch.ao.quantization import FakeQuantize, MinMaxObserver

    from qprune.precision.torch_ao import ActivationFakeQuantize

    torch.manual_seed(0)
    settings = {"observer": MinMaxObserver, "dtype": torch.quint8, "quant_min": 0, "quant_max": 255}
    lean, plain = ActivationFakeQuantize(**settings), FakeQuantize(**settings)
    values = (torch.randn(4, 3, 8, 8) + 0.7).requires_grad_()
    expected, found = plain(values), lean(values)
    assert int(lean.zero_point) == int(plain.zero_point) > 0
    assert torch.allclose(lean.scale, plain.scale)
    assert torch.allclose(found, expected, atol=1e-5)
    wider = (values * 2).detach().requires_grad_()  # some of it clamped, in eval mode, where the range stays
    upstream = torch.randn_like(values)
    plain.disable_observer()
    (slow,) = torch.autograd.grad(plain(wider), wider, upstream)
    (fast,) = torch.autograd.grad(lean.eval()(wider), wider, upstream)
    assert torch.equal(fast, slow) and (slow == 0).any()
    assert torch.allclose(lean.scale, plain.scale)


@pytest.mark.parametrize("mean", [0.3, 0.5])
def test_int8_rounds_ties_as_the_kernels_do(mean):
    """At these means every black pixel lies half-way between two integers."""
    network = with_normalize(nn.Conv2d(1, 3, 3), (mean,), (0.38,)).eval()
    images = torch.rand(8, 1, 8, 8).round()
    prepared = get_precision("int8").prepare(network, images).eval()
    assert torch.equal(get_precision("int8").finish(prepared)(images), prepared(images))


def without_vnni(monkeypatch):
    from qprune.precision import torch_ao

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    here = torch_ao.kernels()
    if here.engine == "qnnpack":
        pytest.skip("ARM's kernels bear the full range")
    assert here.activations == (0, 127)


def test_int8_without_vnni_uses_seven_bits(monkeypatch):
    without_vnni(monkeypatch)
    network, images, labels = small(Depthwise)
    prepared = trained(network, "int8", images, labels)
    steps = []
    for module in prepared.modules():
        if hasattr(module, "integers"):
            module.register_forward_hook(lambda m, args, out: steps.append(out / m.scale))
    expected = prepared(images)
    assert len(steps) > 5 and all(len(step.unique()) <= 128 for step in steps)
    found = get_precision("int8").finish(prepared)(images)
    # not equal: beyond 127, where training clamps, torch.ao's integers go on to 255
    assert (found - expected).abs().mean() < 0.01 * (expected.max() - expected.min())


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="needs VNNI to train at full range")
def test_int8_trained_at_full_range_is_refused_where_it_saturates(monkeypatch):
    network, images, labels = small(Plain)
    prepared = trained(network, "int8", images, labels)
    without_vnni(monkeypatch)
    elsewhere = get_precision("int8").prepare(network, None)
    elsewhere.load_state_dict(prepared.state_dict())
    assert torch.equal(elsewhere.eval()(images), prepared(images))  # the range belongs to the state
    with pytest.raises(UserError, match="VNNI"):
        get_precision("int8").finish(elsewhere)
