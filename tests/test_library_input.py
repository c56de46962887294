"""What is given to the library and can't be meant: one ValueError each, that says what was given and what to do."""

import copy

import numpy as np
import pytest
import torch
from networks import Plain
from small_training import images_and_labels
from torch import nn

import qprune
from qprune.data import load_data
from qprune.registry.errors import UserError

IMAGES, LABELS = images_and_labels(32)
FLOATS = IMAGES.float() / 255
CALLS = {
    "prune": lambda model, images, labels: qprune.prune(model, images, labels, 0.3, updates=12, step=0.2, batch_size=8),
    "quantize": lambda model, images, labels: qprune.quantize(model, images, labels, "int4", updates=2, batch_size=8),
    "score": lambda model, images, labels: qprune.score(model, images, labels, batch_size=8),
}


def at(images: torch.Tensor, value: float) -> torch.Tensor:
    images = images.clone()
    images[3, 0, 2, 2] = value
    return images


BAD = {
    "normalised": (
        (FLOATS - 0.2) / 0.3,
        LABELS,
        r"images go from -0.6667 to .*; floats must be from 0 to 1.*normalised",
    ),
    "0..255": (IMAGES.float(), LABELS, "images go from 0 to 239; .* divide them by 255"),
    "divided twice": (FLOATS / 255, LABELS, "divided by 255 twice"),
    "overshoot": (at(FLOATS, 1.1), LABELS, "images go from 0 to 1.1; .*clamp"),
    "below": (at(FLOATS, -0.05), LABELS, "images go from -0.05"),
    "nan": (at(FLOATS, float("nan")), LABELS, "no finite numbers"),
    "inf": (at(FLOATS, float("inf")), LABELS, "no finite numbers"),
    "int64 images": (IMAGES.long(), LABELS, r"images are int64 \[32, 1, 8, 8\]; they must be uint8"),
    "bool images": (IMAGES > 100, LABELS, "images are bool"),
    "list of images": (list(FLOATS), LABELS, r"images: a list was given; make it a tensor"),
    "array": (FLOATS.numpy(), LABELS, "images: a ndarray was given"),
    "grey": (IMAGES[:, 0], LABELS, r"images are uint8 \[32, 8, 8\]; they must be \[n, c, h, w\]; .*unsqueeze\(1\)"),
    "no images": (IMAGES[:0], LABELS[:0], "there is none"),
    "channels last": (IMAGES.permute(0, 2, 3, 1), LABELS, r"\[32, 8, 8, 1\]; they look like \[n, h, w, c\]: .*permute"),
    "colour": (IMAGES.repeat(1, 3, 1, 1), LABELS, r"can't take images of \[32, 3, 8, 8\] \("),
    "fewer labels": (IMAGES, LABELS[:31], "32 images and 31 labels"),
    "more labels": (IMAGES[:31], LABELS, "31 images and 32 labels"),
    "float labels": (IMAGES, LABELS.float(), r"labels are float32 \[32\]; they must be integers"),
    "bool labels": (IMAGES, LABELS > 2, "labels are bool"),
    "list of labels": (IMAGES, LABELS.tolist(), "labels: a list was given; make it a tensor"),
    "one-hot": (IMAGES, nn.functional.one_hot(LABELS), r"labels are int64 \[32, 5\]; .*argmax\(1\)"),
    "column": (IMAGES, LABELS[:, None], r"labels are int64 \[32, 1\]; .*flatten\(\)"),
    "from 1": (IMAGES, LABELS + 1, r"labels go from 1 to 5, and the model has 5 classes \(0 to 4\); .*labels - 1"),
    "too many classes": (IMAGES, LABELS * 3, "labels go from 0 to 12, and the model has 5 classes"),
    "negative": (IMAGES, LABELS - 1, "labels go from -1 to 3; they must be the classes' numbers, from 0"),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Plain().eval()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", BAD)
def test_images_and_labels_that_cannot_be_meant_are_a_value_error(model, call, what):
    images, labels, message = BAD[what]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message) as raised:
        CALLS[call](model, images, labels)
    assert "\n" not in str(raised.value) and isinstance(raised.value, UserError)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_every_form_that_means_the_same_gives_the_same_scores(model):
    """Floats of any width, a rounding error beyond 1, labels of any integers: the scores are those of the bytes."""
    scores = CALLS["score"](model, IMAGES, LABELS)
    forms = [(FLOATS, LABELS), (FLOATS.double(), LABELS.int()), (FLOATS.half(), LABELS.to(torch.uint8))]
    full = at(FLOATS, 1.0)
    for images, labels in forms:
        other = CALLS["score"](model, images, labels)
        assert all(torch.equal(scores[layer], other[layer]) for layer in scores)
    exact, beyond = (CALLS["score"](model, at(full, value), LABELS) for value in (1.0, 1 + 1e-6))
    assert all(torch.equal(exact[layer], beyond[layer]) for layer in exact)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vgg", "model: a str was given; it must be an nn.Module"),
        (Plain, "model: the class Plain was given; it must be an nn.Module; call it"),
        (None, "model: a NoneType was given"),
        (nn.Flatten(), "it has no parameters"),
        (nn.Conv2d(1, 4, 3), r"gives \[2, 4, 6, 6\] for 2 images; logits \[2, classes\] are wanted"),
    ],
)
def test_what_is_no_classifier_is_a_value_error(call, given, message):
    with pytest.raises(ValueError, match=message):
        CALLS[call](given, IMAGES, LABELS)


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("ratio", ["0.5", float("nan"), -0.1, 1, True]),
        ("updates", [0, -1, 12.5, "9"]),
        ("lr", [float("nan"), float("inf"), -1, "x"]),
        ("step", [0, -0.1, float("nan"), 2]),
        ("batch_size", [0, 1.5, None]),
        ("min_channels", [0, -3]),
        ("round_to", [0, 1.5]),
        ("seed", [1.5, None]),
        ("ignore", ["conv1", 3, (1,)]),
        ("linear", ["no", 1]),
        ("criterion", [None, 3]),
        ("normalize", [None]),
    ],
)
def test_arguments_of_prune_out_of_range_are_a_value_error(model, argument, values):
    for value in values:
        with pytest.raises(ValueError, match=f"prune: {argument} is "):
            qprune.prune(model, IMAGES, LABELS, **({"ratio": 0.3, "updates": 12, "step": 0.2} | {argument: value}))


def test_arguments_of_the_others_out_of_range_are_a_value_error(model):
    for arguments in ({"updates": -1}, {"lr": "x"}, {"batch_size": 0}, {"calibration_images": 0}, {"seed": 0.5}):
        with pytest.raises(ValueError, match=f"quantize: {next(iter(arguments))} is "):
            qprune.quantize(model, IMAGES, LABELS, "int4", **arguments)
    for arguments in ({"criterion": None}, {"batch_size": 0}, {"ignore": "conv1"}, {"linear": 1}):
        with pytest.raises(ValueError, match=f"score: {next(iter(arguments))} is "):
            qprune.score(model, IMAGES, LABELS, **arguments)
    with pytest.raises(ValueError, match="the teacher has 64 classes and the model 5"):
        qprune.quantize(model, IMAGES, LABELS, "int4", teacher=nn.Flatten())
    with pytest.raises(ValueError, match="teacher: a str was given"):
        qprune.quantize(model, IMAGES, LABELS, "int4", teacher="x")


def test_numbers_of_numpy_are_numbers(model):
    smaller = qprune.prune(
        model, IMAGES, LABELS, np.float32(0.3), updates=np.int64(12), step=0.2, batch_size=np.int32(8)
    )
    assert qprune.count_cost(smaller, (1, 8, 8)).macs < qprune.count_cost(model, (1, 8, 8)).macs


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8), r"image_shape is \(8, 8\); it must be three whole numbers, \(c, h, w\)"),
        ((2, 1, 8, 8), "leave out the batch"),
        ((8, 8, 1), r"one image of shape \[8, 8, 1\]; it must be \(c, h, w\): "),
        ((3, 8, 8), r"one image of shape \[3, 8, 8\]: "),
        ((1, 8.0, 8), "three whole numbers"),
        ((1, 0, 8), "three whole numbers"),
        ("abc", "image_shape is a str"),
        (None, "image_shape is a NoneType"),
        (IMAGES, "image_shape is a Tensor"),
    ],
)
def test_count_cost_takes_the_shape_of_an_image_alone(model, shape, message):
    with pytest.raises(ValueError, match=message):
        qprune.count_cost(model, shape)


def test_count_cost_takes_a_network_alone():
    for given in ("x", None, Plain):
        with pytest.raises(ValueError, match="network: .* was given; it must be an nn.Module"):
            qprune.count_cost(given, (1, 8, 8))


USER_DATA = """
import torch
from qprune.data import Dataset, Split
def short():
    part = Split(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8))
    return Dataset("mine", part, part, part, 5, (0.5,), (0.25,), (), tuple("abcde"))
"""


def test_a_users_data_set_with_labels_beyond_its_classes_is_refused(tmp_path, monkeypatch):
    (tmp_path / "few_classes.py").write_text(USER_DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="labels up to 7 for num_classes 5"):
        load_data({"name": "few_classes:short"})
