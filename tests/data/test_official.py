"""`preprocess: torchvision:...`: the pixels and logits of torchvision's own pipeline, to the last bit of a pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_weight, squeezenet1_1

from qprune.data import data_fingerprint, load_data, preprocessing_of
from qprune.data.preprocessing import DEFAULT
from qprune.networks.graph import with_normalize
from qprune.registry.errors import UserError

SQUEEZENET = "torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1"
OTHERS = (
    "EfficientNet_B1_Weights.IMAGENET1K_V1",
    "ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1",
    "ResNet50_Weights.DEFAULT",
)
SIZES = ((300, 260), (257, 511), (231, 230), (640, 480))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of two classes in three splits; the test split has one picture of each size."""
    folder = tmp_path_factory.mktemp("official")
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for number in range(2 * count):
            width, height = SIZES[number % len(SIZES)]
            coarse = Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8))
            place = folder / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(place / f"{number}.png")
    return folder


def settings(pictures, preprocess, **more):
    return {"name": "imagefolder", "root": str(pictures), "preprocess": preprocess, **more}


def test_logits_are_those_of_torchvisions_pipeline(pictures):
    """On random weights: what is compared is all in front of them."""
    data = load_data(settings(pictures, SQUEEZENET))
    transforms = get_weight(SQUEEZENET.removeprefix("torchvision:")).transforms()
    files = sorted((pictures / "test").rglob("*.png"))
    torch.manual_seed(0)
    network = squeezenet1_1().eval()
    whole = with_normalize(network, data.mean, data.std).eval()
    given = torch.stack([transforms(Image.open(file)) for file in files])
    assert data.test.images.shape == (4, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(whole(data.test.images / 255), network(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_pixels_are_torchvisions(pictures, name):
    data = load_data(settings(pictures, f"torchvision:{name}"))
    transforms = get_weight(name).transforms()
    mean, std = (torch.tensor(values)[:, None, None] for values in (transforms.mean, transforms.std))
    for file, image in zip(sorted((pictures / "test").rglob("*.png")), data.test.images, strict=True):
        wanted = (transforms(Image.open(file)) * std + mean) * 255
        assert (wanted.round() - image).abs().max() == 0
    assert (data.mean, data.std) == (tuple(transforms.mean), tuple(transforms.std))


def test_smaller_images_are_the_same_share_of_the_picture(pictures):
    small = settings(pictures, SQUEEZENET, image_size=56)
    how = preprocessing_of(small, load_data(small))
    assert (how.height, how.resize_to, how.resize, how.filter, how.antialias) == (
        56,
        64,
        "shorter_side",
        "bilinear",
        True,
    )


def test_the_default_is_the_name_that_it_stands_for(pictures):
    """Whatever torchvision calls the default later, it is other data."""
    named = [
        data_fingerprint(settings(pictures, f"torchvision:ResNet50_Weights.{name}"))
        for name in ("DEFAULT", "IMAGENET1K_V2")
    ]
    assert len(set(named)) == 1
    assert data_fingerprint(settings(pictures, "torchvision:ResNet50_Weights.IMAGENET1K_V1")) not in named


def test_numbers_of_ones_own(pictures):
    own = {"mean": [0.5, 0.25, 0.5], "std": [0.5, 0.5, 1]}
    data = load_data(settings(pictures, own, image_size=16))
    assert data.mean == (0.5, 0.25, 0.5) and data.std == (0.5, 0.5, 1.0)
    assert set(DEFAULT) == {"resize", "filter", "antialias", "resize_to"}  # as ids have it that were made before
    plain = load_data(settings(pictures, {}, image_size=16))
    assert torch.equal(plain.train.images, data.train.images) and plain.mean != data.mean


@pytest.mark.parametrize(("preprocess", "told"), [
    ("torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V9", "names no weights.*SqueezeNet1_1_Weights.IMAGENET1K_V1"),
    ("torchvision:squeezenet", "names no weights"),
    ("torchvision:FCN_ResNet50_Weights.DEFAULT", "not for classifying"),
    ("squash", "it must be .*torchvision:"),
    ({"mean": [0.5, 0.5, 0.5]}, "mean and std go together"),
    ({"mean": [0.5, 0.5], "std": [1, 1, 1]}, "three numbers"),
    ({"mean": [0, 0, 0], "std": [1, 0, 1]}, "three numbers from 0.001"),
    ({"mean": [0, 0, True], "std": [1, 1, 1]}, "three numbers"),
])  # fmt: skip
def test_what_is_none(pictures, preprocess, told):
    with pytest.raises(UserError, match=f"preprocess.*{told}"):
        data_fingerprint(settings(pictures, preprocess))
