"""How a picture becomes an image: each filter against arithmetic or another library, the options' names, the lists of files."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_class_folders, write_data_set, write_picture
from PIL import Image
from rich.console import Console
from tiny_sweep import tiny_config
from torch.nn import functional as F

from qprune.data import DATA_SETS, check_data, data_fingerprint, list_files, load_data, preprocessing_of
from qprune.data.pictures import decode_pictures
from qprune.data.preprocessing import DEFAULT, FILTERS, Preprocessing, as_preprocess
from qprune.registry.errors import UserError
from qprune.sweep.data_files import folders_of, show_data

# ---- filters

KERNELS = {  # of x in pixels of the coarser grid, and how far they reach (Pillow's documentation, Turkowski 1990)
    "box": (lambda x: float(-0.5 < x <= 0.5), 0.5),
    "bilinear": (lambda x: max(1 - abs(x), 0.0), 1),
    "hamming": (lambda x: _sinc(x) * (0.54 + 0.46 * math.cos(math.pi * x)) if abs(x) < 1 else 0.0, 1),
    "bicubic": (lambda x: _cubic(abs(x), -0.5), 2),
    "lanczos": (lambda x: _sinc(x) * _sinc(x / 3) if abs(x) < 3 else 0.0, 3),
}


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(math.pi * x) / (math.pi * x)


def _cubic(x: float, a: float) -> float:
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def weights(n: int, m: int, filter: str) -> np.ndarray:
    """[m, n]: by definition, the kernel as wide as a new pixel where the picture shrinks."""
    kernel, reach = KERNELS[filter]
    scale = n / m
    wide = max(scale, 1)
    rows = np.zeros((m, n))
    for i in range(m):
        centre = (i + 0.5) * scale
        for j in range(max(int(centre - reach * wide + 0.5), 0), min(int(centre + reach * wide + 0.5), n)):
            rows[i, j] = kernel((j - centre + 0.5) / wide)
    return rows / rows.sum(1, keepdims=True)


def in_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 255)


def noise(folder: Path, width: int, height: int) -> tuple[Path, np.ndarray]:
    pixels = np.random.RandomState(3).randint(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    return folder / "noise.png", pixels


def decoded(file: Path, size: int, **options) -> np.ndarray:
    """int [size, size, 3]"""
    how = Preprocessing.of_pictures(size, as_preprocess(options))
    return decode_pictures([file], how)[0].transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize("filter", KERNELS)
@pytest.mark.parametrize("size", [(40, 30), (9, 7), (16, 61)])
def test_antialiased_filters_are_their_kernels(tmp_path, filter, size):
    file, pixels = noise(tmp_path, *size)
    rows, columns = weights(size[1], 16, filter), weights(size[0], 16, filter)
    between = in_bytes(np.einsum("jw,hwc->hjc", columns, pixels))  # as Pillow goes
    expected = in_bytes(np.einsum("ih,hjc->ijc", rows, between))
    assert np.abs(decoded(file, 16, resize="squash", filter=filter) - expected).max() <= 1


@pytest.mark.parametrize("size", [(40, 30), (9, 7), (16, 61), (12, 12)])
def test_area_is_the_mean_over_the_area_of_a_new_pixel(tmp_path, size):
    """By brute force: each pixel becomes 12 x 12 equal ones, and those of a new pixel are averaged."""
    file, pixels = noise(tmp_path, *size)
    fine = pixels.repeat(12, 0).repeat(12, 1).astype(int).reshape(12, size[1], 12, size[0], 3)
    doubled = 2 * fine.sum((1, 3)) + size[0] * size[1]
    assert np.array_equal(decoded(file, 12, resize="squash", filter="area"), doubled // (2 * size[0] * size[1]))


def test_nearest_takes_the_pixel_at_the_centre(tmp_path):
    file, pixels = noise(tmp_path, 40, 30)
    rows, columns = (np.arange(16) + 0.5) * 30 / 16, (np.arange(16) + 0.5) * 40 / 16
    expected = pixels[rows.astype(int)][:, columns.astype(int)]
    assert np.array_equal(decoded(file, 16, resize="squash", filter="nearest"), expected)


@pytest.mark.parametrize("size", [(40, 30), (9, 7), (1, 50)])
def test_without_antialiasing_bilinear_is_that_of_opencv_and_torch(tmp_path, size):
    file, pixels = noise(tmp_path, *size)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = F.interpolate(images, (16, 16), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    found = decoded(file, 16, resize="squash", antialias=False)
    assert np.abs(found - expected).max() <= 0.5 + 1e-6
    if min(size) > 16:
        assert np.abs(found - decoded(file, 16, resize="squash")).max() > 20


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (100, 17)])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_the_shorter_side_is_resized_and_the_centre_cut_as_torchvision_does(tmp_path, size, filter):
    from torchvision.transforms import v2

    file, _ = noise(tmp_path, *size)
    same = v2.Compose([v2.Resize(20, v2.InterpolationMode(filter)), v2.CenterCrop(16)])
    expected = np.asarray(same(Image.open(file)))
    assert np.array_equal(decoded(file, 16, filter=filter, resize_to=20), expected)


def test_squashed_pictures_keep_their_borders(tmp_path):
    pixels = np.zeros((8, 32, 3), np.uint8)
    pixels[:, :8], pixels[:, 24:] = 200, 100
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png", 4, resize="squash", filter="area")[0, :, 0].tolist() == [200, 0, 0, 100]
    assert (decoded(tmp_path / "a.png", 4) == 0).all()


# ---- the option


def folder_of(root: Path, **options) -> dict:
    return {"name": "imagefolder", "root": str(root), "image_size": 16, **options}


def test_the_defaults_said_are_the_defaults_unsaid_and_others_are_other_data(tmp_path):
    write_class_folders(tmp_path, 10)
    alike = [
        {},
        {"preprocess": {}},
        {"preprocess": {"resize": "shorter_side", "filter": "bilinear", "antialias": True}},
    ]
    alike += [{"preprocess": {"resize_to": 16}}, {"preprocess": {"resize_to": None}}]
    assert len({data_fingerprint(folder_of(tmp_path, **one)) for one in alike}) == 1
    others = [{"filter": name} for name in FILTERS] + [{"resize": "squash"}, {"antialias": False}, {"resize_to": 20}]
    assert len({data_fingerprint(folder_of(tmp_path, preprocess=one)) for one in others}) == len(others)
    nearest = [{"filter": "nearest"}, {"filter": "nearest", "antialias": False}]
    assert len({data_fingerprint(folder_of(tmp_path, preprocess=one)) for one in nearest}) == 1


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (
            {"filtr": "bicubic"},
            r"preprocess is \{filtr: 'bicubic'\}, where 'filtr' is no option; did you mean 'filter'\?",
        ),
        ({"filter": "bicubicc"}, r"where filter can't be 'bicubicc'; did you mean 'bicubic'\?"),
        ({"filter": 3}, "where filter can't be 3 .*bilinear"),
        ({"resize": "squish"}, r"where resize can't be 'squish'; did you mean 'squash'\?"),
        ({"antialias": 1}, "where antialias can't be 1; it must be true or false"),
        ({"filter": "lanczos", "antialias": False}, "lanczos is antialiased always"),
        ({"resize_to": 8}, "resize_to is 8, less than image_size 16"),
        ({"resize_to": 0}, "where resize_to can't be 0; it must be a whole number"),
        ([], r"preprocess is \[\]; it must be \{resize: shorter_side"),
        ("squash", "preprocess is 'squash'; it must be"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path, preprocess, message):
    write_class_folders(tmp_path, 10)
    with pytest.raises(UserError, match=f"data imagefolder: .*{message}"):
        check_data(folder_of(tmp_path, preprocess=preprocess))


def test_data_without_pictures_have_no_preprocess():
    with pytest.raises(UserError, match="data digits: unknown option 'preprocess'"):
        check_data({"name": "digits", "preprocess": {"filter": "area"}})


def test_a_sweep_file_sets_it_and_the_images_are_others(tmp_path):
    for name in ("a", "b"):
        for i in range(10):
            write_picture(tmp_path / "pictures" / name / f"{i}.png", (40, 20), colour=(i * 20, 100, 0))
    settings = (
        f"data={{name: imagefolder, root: {tmp_path / 'pictures'}, image_size: 8, preprocess: {{resize: squash}}}}"
    )
    (choice,) = tiny_config(tmp_path, settings).data
    data = load_data(choice.settings)
    assert preprocessing_of(choice.settings, data) == Preprocessing.of_pictures(8, {**DEFAULT, "resize": "squash"})
    with pytest.raises(UserError, match=r"tiny.yaml|--set"):
        tiny_config(tmp_path, settings.replace("squash", "squish"))


def test_what_is_said_of_data_without_pictures():
    data = load_data({"name": "digits"})
    how = preprocessing_of({"name": "digits"}, data)
    assert how == Preprocessing("arrays", 1, 8, 8)
    assert how.to_json()["resize"] == "none" and how.to_json()["channels"] == 1
    assert "[batch, 1, 8, 8] in 0..1" in how.words()


# ---- lists of files


@pytest.mark.parametrize("name", [entry.name for entry in DATA_SETS.entries() if entry.pictures])
def test_files_are_listed_in_the_order_of_the_images(name, tmp_path, monkeypatch):
    settings = {"name": name, **write_data_set(name, tmp_path, monkeypatch), "image_size": 8, "subset": 3}
    data, listing, how = load_data(settings), list_files(settings), Preprocessing.of_pictures(8)
    for split in ("train", "val", "test"):
        files, labels = listing.parts[split]
        images = getattr(data, split)
        assert np.array_equal(decode_pictures(files, how), images.images.numpy())
        assert np.array_equal(labels, images.labels.numpy()) and len(files) > 0
        assert all(file.is_relative_to(listing.root) for file in files)
    assert len(listing.parts["train"][0]) == 3 and listing.class_names == data.class_names


def told(config, *paths) -> str:
    text = io.StringIO()
    show_data(config, *paths, Console(file=text, width=80))
    return text.getvalue()


def test_the_command_lists_picture_files_whatever_their_names(tmp_path):
    write_class_folders(tmp_path / "p", 10, colours=(("a, b", 10), ("ü", 200)))
    (tmp_path / "p" / "ü" / "00.png").rename(tmp_path / "p" / "ü" / "\udce9\n.png")
    settings = f"data={{name: imagefolder, root: {tmp_path / 'p'}, image_size: 8}}"
    said = told(tiny_config(tmp_path, settings), tmp_path / "list.csv", None)
    assert (
        "shorter side resized to 8 (bilinear, antialiased)" in said and f"picture files are in {tmp_path / 'p'}" in said
    )
    assert "p test: 4 images" in said or "imagefolder test: 2 of each" in said or "test: 4 images, 2 of each" in said
    with open(tmp_path / "list.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["split", "class", "label", "file"] and len(rows) == 20
    for row in rows:
        assert (tmp_path / "p" / row["file"]).is_file() and row["class"] == ("a, b", "ü")[int(row["label"])]
    assert sum("\udce9" in row["file"] for row in rows) == 1


def test_images_are_written_and_come_back_pixel_by_pixel(tmp_path):
    said = told(tiny_config(tmp_path), None, tmp_path / "out")
    assert "256 images" in said and "written as PNG" in said
    rows = list(csv.DictReader((tmp_path / "out" / "files.csv").open()))
    data = load_data({"name": "digits", "subset": 256})
    for split in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == split]
        pixels = np.stack([np.asarray(Image.open(tmp_path / "out" / row["file"])) for row in own])
        assert np.array_equal(pixels[:, None], getattr(data, split).images.numpy())
        assert [int(row["label"]) for row in own] == getattr(data, split).labels.tolist()
    assert rows[0]["file"] == f"train/{rows[0]['class']}/00000.png"


def test_several_data_sets_have_a_column_and_a_folder_each(tmp_path):
    write_class_folders(tmp_path / "p", 10)
    pictures = f"{{name: imagefolder, root: {tmp_path / 'p'}, image_size: 8}}"
    said = told(tiny_config(tmp_path, f"data=[digits, {pictures}]"), None, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "files.csv").open()))
    own = {row["data"] for row in rows}
    assert len(own) == 2 and "digits" in own and "picture files are in" in said
    assert all((tmp_path / "out" / row["file"]).is_file() == (row["data"] == "digits") for row in rows)


def test_what_cannot_be_listed_or_written(tmp_path):
    with pytest.raises(UserError, match="--csv .*none of the data sets is made of picture files; --write DIR"):
        told(tiny_config(tmp_path), tmp_path / "list.csv", None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--write .*can't be written"):
        told(tiny_config(tmp_path), None, tmp_path / "file")


def test_folders_of_classes_are_different_and_stay_where_they_are():
    assert folders_of(["T-shirt/top", "a b", "ü"]) == ["T-shirt_top", "a b", "ü"]
    assert folders_of(["..", ".x", "", "a/b"]) == ["_.", "_x", "_", "a_b"]
    assert folders_of(["a/b", "a_b", "A", "a"]) == ["0_a_b", "1_a_b", "2_A", "3_a"]
