"""Networks against hand counts, the door to torchvision, the user's own, weights files."""

import os
import pickle
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from qprune.cost import count_cost
from qprune.networks import (
    MODELS,
    build_model,
    check_model,
    load_checkpoint,
    load_pretrained,
    model_fingerprint,
)
from qprune.networks.graph import with_normalize
from qprune.networks.weights import head_name
from qprune.registry import Entry
from qprune.registry.errors import UserError
from qprune.registry.options import Option, is_whole

OWN = [
    ("vgg_tiny", 1, 8),
    ("vgg_small", 1, 28),
    ("vgg7", 3, 32),
    ("resnet8", 3, 32),
    ("resnet20", 3, 32),
    ("ds_cnn", 1, 28),
]


def conv_bn(in_channels: int, out_channels: int, k: int = 3) -> int:
    """Parameters of a convolution without bias and its BN."""
    return in_channels * out_channels * k * k + 2 * out_channels


def linear(in_features: int, out_features: int) -> int:
    return in_features * out_features + out_features


def chain(*channels: int) -> int:
    return sum(conv_bn(a, b) for a, b in pairwise(channels))


def block(in_channels: int, out_channels: int, shortcut: bool) -> int:
    return chain(in_channels, out_channels, out_channels) + (conv_bn(in_channels, out_channels, 1) if shortcut else 0)


PARAMETERS = {
    "vgg_tiny": chain(1, 16, 16, 32, 32, 64, 64) + linear(64, 10),
    "vgg_small": chain(1, 24, 48, 48, 96, 96) + linear(96, 10),
    "vgg7": chain(3, 128, 128, 256, 256, 512, 512) + linear(512 * 4 * 4, 1024) + linear(1024, 10),
    "resnet8": conv_bn(3, 16)
    + block(16, 16, False)
    + block(16, 32, False) + 16 * 32 + 32  # shortcuts without BN
    + block(32, 64, False) + 32 * 64 + 64
    + linear(64, 10),
    "resnet20": conv_bn(3, 16)
    + 3 * block(16, 16, False)
    + block(16, 32, True) + 2 * block(32, 32, False)
    + block(32, 64, True) + 2 * block(64, 64, False)
    + linear(64, 10),
    "ds_cnn": 40 * 64 + 128 + 4 * (9 * 64 + 128 + conv_bn(64, 64, 1)) + linear(64, 10),
}  # fmt: skip


def build(
    name: str, in_channels: int = 1, num_classes: int = 10, image_size: int = 8, seed: int = 0, **options
) -> nn.Module:
    torch.manual_seed(seed)
    return build_model({"name": name, **options}, in_channels, num_classes, image_size)


def same(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- qprune's own


@pytest.mark.parametrize(("name", "channels", "size"), OWN)
def test_parameters_are_as_counted_by_hand(name, channels, size):
    model = build(name, channels, 10, size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    module = sys.modules[f"qprune.networks.{name}"]
    assert f"{PARAMETERS[name]:,} parameters" in " ".join(module.__doc__.split())


@pytest.mark.parametrize(("name", "macs"), [
    ("vgg_tiny", 64 * 9 * (16 + 16 * 16) + 16 * 9 * (16 * 32 + 32 * 32) + 4 * 9 * (32 * 64 + 64 * 64) + 640),
    ("vgg_small", 784 * 9 * 24 + 196 * 9 * (24 * 48 + 48 * 48) + 49 * 9 * (48 * 96 + 96 * 96) + 960),
    ("vgg7", 1024 * 9 * (3 * 128 + 128 * 128) + 256 * 9 * (128 * 256 + 256 * 256) + 64 * 9 * (256 * 512 + 512 * 512)
     + 8192 * 1024 + 10240),
    ("resnet8", 1024 * 9 * (3 * 16 + 2 * 256) + 256 * (9 * (16 * 32 + 1024) + 16 * 32)
     + 64 * (9 * (32 * 64 + 4096) + 32 * 64) + 640),
    ("resnet20", 1024 * 9 * (3 * 16 + 6 * 256) + 256 * (9 * (16 * 32 + 5 * 1024) + 16 * 32)
     + 64 * (9 * (32 * 64 + 5 * 4096) + 32 * 64) + 640),
    ("ds_cnn", 15 * 14 * (40 * 64 + 4 * (9 * 64 + 64 * 64)) + 640),
])  # fmt: skip
def test_macs_are_as_counted_by_hand_and_as_the_docstring_says(name, macs):
    from torch.utils.flop_counter import FlopCounterMode

    _, channels, size = next(own for own in OWN if own[0] == name)
    model = build(name, channels, 10, size).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, channels, size, size))
    assert counter.get_total_flops() == 2 * macs
    assert f"{macs / 1e6:.1f} M MACs" in " ".join(sys.modules[f"qprune.networks.{name}"].__doc__.split())


def check_conformance(name, channels, size, **options):
    """What every network must do: one logit per class, a gradient for every parameter, a start that the seed decides,
    and a graph that gives the same under the same names."""
    model, again, other = (build(name, channels, 7, size, seed, **options) for seed in (0, 0, 1))
    assert same(model, again) and not same(model, other) and model.training
    images = torch.rand(3, channels, size, size)
    logits = model(images)
    logits.square().sum().backward()
    assert logits.shape == (3, 7) and all(p.grad is not None for p in model.parameters())
    kept = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    layers = {n: type(m) for n, m in model.eval().named_modules() if isinstance(m, kept)}
    network = with_normalize(model, (0.3,) * channels, (0.5,) * channels)
    assert {n: type(m) for n, m in network.named_modules() if isinstance(m, kept)} == layers
    assert torch.allclose(network(images), model((images - 0.3) / 0.5), atol=1e-5)


@pytest.mark.parametrize("width", [0.25, 1.0, 1.5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS.names())
def test_every_own_network_conforms(name, channels, width):
    check_conformance(name, channels, 16, width=width)
    first, whole = (
        next(m for m in build(name, channels, 7, 16, width=each).modules() if isinstance(m, nn.Conv2d))
        for each in (width, 1.0)
    )
    assert first.out_channels == round(whole.out_channels * width)


def test_a_torchvision_network_conforms():
    check_conformance("torchvision:resnet18", 1, 32)


def test_ds_cnn_on_spectrograms_is_mlperf_tinys():
    """49 times by 10 bands, 12 classes: the first convolution makes 25x5 of them, as Keras's "same" padding does."""
    cost = count_cost(build("ds_cnn", 1, 12, 28).eval(), (1, 49, 10))
    assert cost.macs == 25 * 5 * (40 * 64 + 4 * (9 * 64 + 64 * 64)) + 64 * 12 == 2_656_768
    assert sum(layer.weight_elements for layer in cost.layers) == 22_016


def test_resnet8s_weights_are_mlperf_tinys():
    """Keras counts 78,666 parameters: with a bias in each of ten layers, and BN's running statistics."""
    model = build("resnet8", 3, 10, 32).eval()
    assert sum(layer.weight_elements for layer in count_cost(model, (3, 32, 32)).layers) == 77_360
    norms = sum(4 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    outputs = sum(m.weight.shape[0] for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert 77_360 + norms + outputs == 78_666
    images = torch.rand(2, 16, 8, 8)
    inner = model.block2.bn2(model.block2.conv2(model.block2.bn1(model.block2.conv1(images)).relu()))
    torch.testing.assert_close(model.block2(images), (inner + model.block2.shortcut(images)).relu())


def test_resnet20s_shortcuts_are_sums_of_two_branches():
    model = build("resnet20", 3, 10, 32).eval()
    block = model.stage2.block1
    images = torch.rand(2, 16, 8, 8)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(images)).relu()))
    torch.testing.assert_close(block(images), (inner + block.shortcut.bn(block.shortcut.conv(images))).relu())
    assert isinstance(model.stage2.block2.shortcut, nn.Identity) and block.shortcut.conv.kernel_size == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vgg_tny"}, r"unknown model 'vgg_tny'; did you mean 'vgg_tiny'\?"),
        ({"width": 1}, "need a name"),
        ({"name": "vgg7", "widht": 0.5}, r"vgg7: unknown option 'widht'; did you mean 'width'\?"),
        ({"name": "vgg7", "width": 0}, "width is 0; it must be a number above 0"),
        ({"name": "vgg7", "width": "wide"}, "width is 'wide'"),
        ({"name": "vgg7", "width": float("inf")}, "width is inf"),
        ({"name": "torchvision:resnet19"}, r"'torchvision:resnet19' .*did you mean 'resnet18'\?"),
        ({"name": "torchvision:fasterrcnn_resnet50_fpn"}, "is no classifier"),
        ({"name": "torchvision:quantized_resnet18"}, "is no classifier.*did you mean 'resnet18'"),
        ({"name": "torchvision:resnet18", "weigths": None}, r"unknown option 'weigths'; did you mean 'weights'\?"),
        ({"name": "torchvision:resnet18", "weights": "IMAGENET1K_V3"}, "unknown weights.*did you mean 'IMAGENET1K_V1'"),
        ({"name": "torchvision:resnet18", "weights": "no/file.pth"}, "no weights file no/file.pth"),
        ({"name": "torchvision:resnet18", "weights": 3}, "weights is 3; it must be null, the name of torchvision's"),
        ({"name": "torchvision:resnet18", "hidden": 64}, "hidden is of AlexNet and VGG alone"),
        ({"name": "torchvision:vgg11", "hidden": 0}, "hidden is 0; it must be a whole number from 1 to 4096"),
        ({"name": "torchvision:vgg11", "hidden": 64, "weights": "DEFAULT"}, "weights are for 4,096 hidden units"),
        ({"name": "no_such_module:build"}, "no module 'no_such_module'"),
    ],
)
def test_bad_settings_are_one_clear_error(settings, message):
    for ask in (check_model, model_fingerprint, lambda s: build_model(s, 1, 10, 32)):
        with pytest.raises(UserError, match=message):
            ask(settings)


@pytest.mark.parametrize(
    ("name", "size"), [("vgg_tiny", 3), ("vgg7", 7), ("torchvision:alexnet", 20), ("torchvision:vit_b_16", 40)]
)
def test_images_that_are_too_small_are_refused(name, size):
    with pytest.raises(UserError, match=f"model '?{name}'? ?.*{size}"):
        build(name, 1, 10, size)


def test_checking_and_fingerprinting_own_networks_does_not_import_torch():
    code = (
        "import sys; from qprune.networks import *; s = {'name': 'vgg7', 'width': 0.5};"
        "check_model(s); model_fingerprint(s); MODELS.names(); assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_a_name_registered_twice_raises():
    with pytest.raises(ValueError, match="registered twice"):
        MODELS.add(Entry("vgg7", "somewhere:else"))
    assert MODELS.names() == ["vgg_tiny", "vgg_small", "vgg7", "resnet8", "resnet20", "ds_cnn"]


def own(in_channels, num_classes, image_size, hidden):
    layers = nn.Conv2d(in_channels, hidden, 3), nn.ReLU(), nn.Flatten(1)
    return nn.Sequential(*layers, nn.Linear(hidden * (image_size - 2) ** 2, num_classes))


def test_a_network_of_ones_own_conforms():
    options = {"hidden": Option(4, lambda value: is_whole(value, 1), "a whole number of at least 1")}
    with MODELS.temporarily(Entry("own", f"{__name__}:own", options=options)):
        check_conformance("own", 3, 8)
        check_conformance("own", 1, 9, hidden=7)
        with pytest.raises(UserError, match="model own: hidden is 0; it must be a whole number of at least 1"):
            check_model({"name": "own", "hidden": 0})
        first, second = (model_fingerprint({"name": "own", "hidden": hidden}) for hidden in (4, 5))
        assert model_fingerprint({"name": "own"}) == first != second
    with MODELS.temporarily(Entry("own", f"{__name__}:own", options=options, version=2)):
        assert model_fingerprint({"name": "own"}) != first
    with pytest.raises(UserError, match="unknown model 'own'"):
        check_model({"name": "own"})


def test_fingerprints_tell_networks_apart():
    settings = [{"name": n} for n in MODELS.names()] + [
        {"name": "vgg7", "width": 0.5},
        {"name": "torchvision:resnet18"},
    ]
    settings.append({"name": "torchvision:resnet18", "weights": "IMAGENET1K_V1"})
    assert len({model_fingerprint(s) for s in settings}) == len(settings)
    assert model_fingerprint({"name": "vgg7"}) == model_fingerprint({"name": "vgg7", "width": 1})
    newest = {"name": "torchvision:resnet18", "weights": "DEFAULT"}
    assert model_fingerprint(newest) == model_fingerprint(settings[-1])


# ---- torchvision's


@pytest.mark.parametrize(
    ("name", "size", "last"), [("alexnet", 64, 256), ("vgg11_bn", 64, 512 * 4), ("vgg11", 32, 512)]
)
def test_hidden_units_read_the_last_map_as_it_is(name, size, last):
    model = build(f"torchvision:{name}", 3, 7, size, hidden=20)
    linear = [(layer.in_features, layer.out_features) for layer in model.classifier if isinstance(layer, nn.Linear)]
    assert linear == [(last, 20), (20, 20), (20, 7)]
    assert model.training and all(module.training for module in model.modules())
    assert not any(layer.p for layer in model.classifier if isinstance(layer, nn.Dropout))
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    for layer in (convolutions[1], next(layer for layer in model.classifier if isinstance(layer, nn.Linear))):
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
    names = {
        model_fingerprint({"name": f"torchvision:{name}", **extra}) for extra in ({}, {"hidden": 20}, {"hidden": 9})
    }
    assert len(names) == 3


def test_pretrained_tensors_replace_all_but_the_head_and_the_normalisation():
    before, after = (
        with_normalize(build("vgg_tiny", 3, classes, 8, seed=classes), (mean,) * 3, (1.0,) * 3)
        for classes, mean in ((5, 0.2), (9, 0.4))
    )
    fresh = {name: tensor.clone() for name, tensor in after.state_dict().items()}
    load_pretrained(after, before.state_dict(), "the one before")
    own = {name for name, tensor in after.state_dict().items() if torch.equal(tensor, fresh[name])}
    taken = {
        name for name, tensor in before.state_dict().items() if name not in own and same_tensor(tensor, after, name)
    }
    head = [name for name in fresh if name.startswith(f"{head_name(after)}.")]
    assert {"normalize.mean", *head} <= own and fresh.keys() - own == taken
    assert {name for name in fresh if "conv" in name and name.endswith("weight")} <= taken
    grey = with_normalize(build("vgg_tiny", 1, 5, 8), (0.2,), (1.0,))
    with pytest.raises(UserError, match="weights: the one before doesn't fit the model: .* is .* there and"):
        load_pretrained(grey, before.state_dict(), "the one before")


def same_tensor(tensor, model, name):
    return torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize(("name", "size"), [
    ("resnet18", 32), ("mobilenet_v2", 32), ("squeezenet1_1", 64), ("googlenet", 64), ("inception_v3", 96),
    ("densenet121", 32),
])  # fmt: skip
def test_torchvision_networks_get_a_head_and_take_grey_images(name, size):
    model = build(f"torchvision:{name}", 1, 7, size)
    network = with_normalize(model, (0.5,), (0.5,)).eval()
    assert network(torch.rand(2, 1, size, size)).shape == (2, 7)
    assert not any("aux" in n.lower() for n, _ in network.named_modules())


def test_grey_is_exactly_the_same_grey_three_times():
    grey, colour = (build("torchvision:resnet18", channels, 5, 32, seed=3).eval() for channels in (1, 3))
    images = torch.rand(2, 1, 32, 32)
    grey.fc.load_state_dict(colour.fc.state_dict())  # drawn after the first layer, from another state of the generator
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))
    assert grey.conv1.in_channels == 1


def test_building_torchvision_networks_is_determined_by_the_seed_and_leaves_the_model_training():
    first, again = (build("torchvision:squeezenet1_1", 1, 5, 32, seed=3) for _ in range(2))
    assert same(first, again) and first.training
    torch.manual_seed(3)
    build_model({"name": "torchvision:squeezenet1_1"}, 1, 5, 32)
    after = torch.rand(1)
    torch.manual_seed(3)
    build_model({"name": "torchvision:squeezenet1_1"}, 1, 5, 32)
    assert torch.equal(after, torch.rand(1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file with the weights of a resnet18 of 6 classes on colour images, and the network."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    model = build("torchvision:resnet18", 3, 6, 32, seed=9).eval()
    torch.save(model.state_dict(), path)
    return path, model


def test_weights_from_a_local_file_keep_all_but_a_head_for_other_classes(trained, tmp_path):
    from safetensors.torch import save_file

    path, model = trained
    same_classes = build("torchvision:resnet18", 3, 6, 32, weights=str(path))
    assert same(same_classes, model)
    other = build("torchvision:resnet18", 3, 9, 32, weights=str(path))
    assert other.fc.out_features == 9 and torch.equal(other.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    grey = build("torchvision:resnet18", 1, 6, 32, weights=str(path))
    torch.testing.assert_close(grey.conv1.weight, model.conv1.weight.sum(1, keepdim=True))
    save_file(grey.state_dict(), tmp_path / "grey.safetensors")
    assert same(build("torchvision:resnet18", 1, 6, 32, weights=str(tmp_path / "grey.safetensors")), grey)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "parallel.pth"
    )
    assert same(build("torchvision:resnet18", 3, 6, 32, weights=str(tmp_path / "parallel.pth")), model)


def test_densenets_old_names_are_read(tmp_path):
    model = build("torchvision:densenet121", 3, 4, 32)
    old = {
        k.replace("norm1", "norm.1").replace("conv1", "conv.1").replace("norm2", "norm.2").replace("conv2", "conv.2")
        if "denselayer" in k else k: v for k, v in model.state_dict().items()
    }  # fmt: skip
    assert old.keys() != model.state_dict().keys()
    torch.save(old, tmp_path / "old.pth")
    assert same(build("torchvision:densenet121", 3, 4, 32, seed=1, weights=str(tmp_path / "old.pth")), model)


def test_fingerprint_of_a_weights_file_is_of_its_content(trained, tmp_path):
    path, model = trained
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    settings = [{"name": "torchvision:resnet18", "weights": str(p)} for p in (path, copy)]
    first, second = map(model_fingerprint, settings)
    torch.save({k: v + 1 for k, v in model.state_dict().items()}, copy)
    assert first == second != model_fingerprint(settings[1])


class Runs:
    """Pickles into a call, as an attack would."""

    def __reduce__(self):
        return (os.mkdir, ("weights_ran_code",))


def test_files_that_are_no_state_dict_are_refused_and_run_no_code(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, model = trained
    torch.save(model, "whole.pth")
    (tmp_path / "half.pth").write_bytes(path.read_bytes()[:100_000])
    (tmp_path / "text.pth").write_text("<html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "attack.pth").write_bytes(pickle.dumps(Runs()))
    torch.save([1, 2], "list.pth")
    for file in ("whole.pth", "half.pth", "text.pth", "empty.pth", "half.safetensors", "attack.pth", "list.pth"):
        with pytest.raises(UserError, match=rf"weights: {file} (is damaged|holds list).*A state dict is wanted"):
            build("torchvision:resnet18", 3, 6, 32, weights=file)
    assert not (tmp_path / "weights_ran_code").exists()


def test_weights_of_another_network_are_refused(trained):
    path, _ = trained
    with pytest.raises(UserError, match=r"doesn't fit the model: .* \(and \d+ more\)"):
        build("torchvision:resnet34", 3, 6, 32, weights=str(path))
    with pytest.raises(UserError, match="weights are for 3 channels and the images have 2"):
        build("torchvision:resnet18", 2, 6, 32, weights=str(path))


def test_a_download_that_fails_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"

    def refuse(*args, **kwargs):
        raise OSError("network unreachable")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UserError, match="resnet18-f37072fd.pth can't be downloaded .network unreachable"):
        build("torchvision:resnet18", 3, 6, 32, weights="IMAGENET1K_V1")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half")
    with pytest.raises(UserError, match="resnet18-f37072fd.pth in .* is damaged"):
        build("torchvision:resnet18", 3, 6, 32, weights="IMAGENET1K_V1")


# ---- whole checkpoints


def test_a_checkpoint_is_loaded_with_or_without_the_normalisation(tmp_path):
    trained = build("vgg_tiny", seed=5)
    torch.save(trained.state_dict(), tmp_path / "plain.pt")
    torch.save(with_normalize(trained, (0.1,), (0.2,)).state_dict(), tmp_path / "normalised.pt")
    images = torch.rand(2, 1, 8, 8)
    for file, mean, std in (("plain.pt", 0.3, 0.4), ("normalised.pt", 0.1, 0.2)):
        network = with_normalize(build("vgg_tiny", seed=6), (0.3,), (0.4,)).eval()
        load_checkpoint(network, tmp_path / file)
        torch.testing.assert_close(network(images), trained.eval()((images - mean) / std))
    with pytest.raises(UserError, match=r"conv1.weight is \[16, 1, 3, 3\] there and \[8, 1, 3, 3\] in the model"):
        load_checkpoint(build("vgg_tiny", width=0.5), tmp_path / "plain.pt")
    with pytest.raises(UserError, match="no file nowhere.pt"):
        load_checkpoint(trained, "nowhere.pt")


# ---- the user's own


USER_CODE = """
import torch
from torch import nn
def build(num_classes, image_size, hidden=5):
    inner = nn.Linear(image_size ** 2, hidden)
    return nn.Sequential(nn.Flatten(1), inner, nn.Dropout(0.5), nn.Linear(hidden, num_classes))
def anything(**settings): return build(settings["num_classes"], settings["image_size"])
def needs(depth): return None
def number(num_classes): return 42
def ten(): return nn.Sequential(nn.Flatten(1), nn.Linear(64, 11))
def breaks(): return nn.Linear(3, 3)
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a fresh module into the working directory; returns its name and file."""
    name = f"user_model_{tmp_path.name.replace('-', '_')}"
    path = tmp_path / f"{name}.py"
    path.write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name, path
    sys.modules.pop(name, None)


def test_a_users_network_is_called_with_what_its_signature_takes(user_module):
    name, path = user_module
    model = build(f"{name}:build", 1, 4, 8, hidden=3)
    assert model[1].out_features == 3 and model[3].out_features == 4 and model.training
    assert same(build(f"{name}:anything", 1, 4, 8), build(f"{name}:build", 1, 4, 8))
    first = model_fingerprint({"name": f"{name}:build"})
    assert first != model_fingerprint({"name": f"{name}:build", "hidden": 4})
    path.write_text(USER_CODE + "# changed\n")
    assert first != model_fingerprint({"name": f"{name}:build"})


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("number", {}, "the function number of user_model_.* returned a int, not a torch.nn.Module"),
        ("ten", {}, r"gives \[2, 11\] for 2 images of 10 classes"),
        ("breaks", {}, r"can't take images of \[1, 8, 8\]"),
        ("needs", {}, "needs the option 'depth'"),
        ("build", {"hiden": 3}, r"unknown option 'hiden'; did you mean 'hidden'\?"),
        ("buld", {}, r"no function 'buld' in .*did you mean 'build'\?"),
    ],
)
def test_errors_name_the_users_module_function_and_what_it_returned(user_module, function, options, message):
    with pytest.raises(UserError, match=message):
        build(f"{user_module[0]}:{function}", 1, 10, 8, **options)
    with pytest.raises(UserError, match="option 'num_classes' is set by qprune"):
        check_model({"name": f"{user_module[0]}:build", "num_classes": 3})
