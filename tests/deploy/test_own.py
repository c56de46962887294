"""qprune.export: networks in memory, each precision, checked and described; what can't be meant is refused."""

import json

import numpy as np
import onnx
import pytest
import torch
from networks import Plain, Residual, small
from torch import nn

import qprune
from qprune.deploy import check_template
from qprune.deploy.check import Parity
from qprune.deploy.own import precision_of
from qprune.registry.errors import BadInput, UserError

NAMES = ("a", "ä, b", "c\nd", "e'\"", "\udce9")


@pytest.fixture(scope="module")
def given():
    """A residual network with its images, floats [16, 1, 8, 8] in 0..1, and labels."""
    return small(Residual)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "w8a8", "mixed3"])
def test_what_prune_and_quantize_give_is_exported(given, tmp_path, precision):
    network, images, labels = given
    smaller = network if precision == "w8a8" else qprune.prune(network, images, labels, 0.25, updates=40)
    made = smaller if precision == "fp32" else qprune.quantize(smaller, images, labels, precision, updates=3)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items() if isinstance(tensor, torch.Tensor)}
    exported = qprune.export(made, tmp_path / "own.onnx", images=images, labels=labels, class_names=NAMES)
    assert exported.path == tmp_path / "own.onnx" and exported.parity.agreement == 1 and exported.parity.images == 16
    told = json.loads((tmp_path / "own.json").read_text())
    assert told["class_names"] == list(NAMES) and told["preprocessing"]["kind"] == "tensors"
    expected = {"int4": "w4a4", "mixed3": precision_of(made)}.get(precision, precision)
    assert told["precision"] == precision_of(made) == expected
    assert told["files"]["own.onnx"]["check"]["accuracy"] == exported.parity.accuracy
    assert (tmp_path / "own_check.py").is_file() and told["metrics"] == {}
    pixels = (images * 255).round() / 255
    run = check_template.load(tmp_path / "own.onnx", "onnx")
    with torch.no_grad():
        assert np.array_equal(run(pixels.numpy()).argmax(1), made(pixels).argmax(1).numpy())
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_plain_model_and_images_that_are_not_square(tmp_path, form):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    images = torch.randint(0, 256, (20, 3, 9, 14), dtype=torch.uint8)
    exported = qprune.export(model.train(), tmp_path / "cell.r0.5", form, images=images)
    assert exported.parity == Parity(None, None, 1.0, exported.parity.largest, 20) and exported.parity.largest < 1e-5
    told = json.loads((tmp_path / "cell.r0.5.json").read_text())
    assert told["files"]["cell.r0.5"]["input"]["shape"] == ["batch", 3, 9, 14] and model.training
    assert (told["preprocessing"]["height"], told["preprocessing"]["width"]) == (9, 14)
    if form == "onnx":
        properties = {p.key: p.value for p in onnx.load(tmp_path / "cell.r0.5").metadata_props}
        assert json.loads(properties["qprune.sidecar"])["class_names"] == ["0", "1", "2"]


def test_qonnx_is_for_networks_of_brevitas(given, tmp_path):
    network, images, labels = given
    made = qprune.quantize(network, images, labels, "int4", updates=2)
    exported = qprune.export(made, tmp_path / "own.qonnx.onnx", "qonnx", images=images, labels=labels)
    assert exported.parity.holds and (tmp_path / "own.json").is_file() and not (tmp_path / "own_check.py").exists()
    with pytest.raises(UserError, match="format qonnx can't hold a network of fp32: .*; onnx can"):
        qprune.export(network, tmp_path / "other.onnx", "qonnx", images=images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": Plain}, "the class Plain was given; it must be an nn.Module; call it"),
        ({"format": "onx"}, "unknown format 'onx'; did you mean 'onnx'"),
        ({"format": "torch"}, r"torch.save\(network.state_dict\(\), path\)"),
        ({"images": torch.zeros(4, 8, 8)}, r"must be \[n, c, h, w\]"),
        ({"images": torch.zeros(4, 3, 8, 8)}, "the model can't take images of"),
        ({"labels": torch.full((16,), 7)}, "the model has 5 classes"),
        ({"class_names": ["a", "b"]}, "there are 2 class_names and 5 logits"),
        ({"path": "nowhere/at/all.onnx"}, "it must name a file ending in .onnx, in a folder that is there"),
        ({"path": "own.json"}, "it must name a file ending in .onnx"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    network, images, _ = given
    with pytest.raises(UserError, match=message):
        qprune.export(**{"network": network, "path": "own.onnx", "images": images, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_training_form_is_refused(given, tmp_path):
    network, images, _ = given
    prepared = qprune.get_precision("int8").prepare(network, images)
    with pytest.raises(UserError, match="is in training form, .*; export what qprune.quantize gives"):
        qprune.export(prepared, tmp_path / "own.onnx", images=images)


def test_an_operation_that_the_format_does_not_bear_names_the_layer(given, tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    qprune.register_operation(Odd, macs=0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), Odd(), nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(UserError, match="bear") as caught:
        qprune.export(model, tmp_path / "own.onnx", images=given[1])
    assert "--format" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_file_that_disagrees_is_left_unverified(given, tmp_path, monkeypatch):
    network, images, _ = given
    monkeypatch.setattr("qprune.deploy.export.compare", lambda *_: Parity(None, None, 0.5, 3.0, 16))
    with pytest.raises(UserError, match="on 50.00% of 16 images, less than 99%; don't use it"):
        qprune.export(network, tmp_path / "own.onnx", images=images)
    assert [file.name for file in tmp_path.iterdir()] == ["own.onnx.unverified"]


def test_it_is_an_argument_error_too(given):
    with pytest.raises(ValueError, match="path"):
        qprune.export(given[0], "own.json", images=given[1])
    assert issubclass(BadInput, ValueError)
