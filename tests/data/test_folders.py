"""Image folders: which folder is which split, what is said of them, and what a picture file becomes."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from data_files import write_class_folders, write_deep_png, write_picture
from PIL import Image
from rich.console import Console
from tiny_sweep import tiny_config

from qprune.data import Dataset, check_data, data_fingerprint, load_data
from qprune.data.pictures import TREATMENTS, decode_pictures, treatments
from qprune.data.preprocessing import Preprocessing
from qprune.registry.errors import UserError


def settings(root: Path) -> dict:
    return {"name": "imagefolder", "root": str(root), "image_size": 8}


def sizes(data: Dataset) -> list[int]:
    return [len(split) for split in (data.train, data.val, data.test)]


# ---- splits


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", None, "Test"),
        ("train", "valid", "test"),
        ("TRAINING", "Validation", "testing"),
        ("trn", "dev", "tst"),
        ("seg_train/seg_train", "seg_valid", "seg_test"),
        ("training_set", None, "Test Set"),
        ("trainset", "valset", "testset"),
        ("train2017", "val2017", "test2017"),
        ("train/train", "val", "test/test"),
    ],
)
def test_folders_are_the_splits_that_they_are_called(tmp_path, train, val, test):
    for name, count in ((train, 20), (val, 3), (test, 5)):
        if name:
            write_class_folders(tmp_path / name, count)
    data = load_data(settings(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert sizes(data) == ([40, 6, 10] if val else [36, 4, 10])
    said = data.notes[0]
    assert f"train is {train}/" in said and f"test is {test}/" in said
    assert f"val is {val or f'10% of {train}'}/" in said


def test_the_same_pictures_are_the_same_data_however_the_splits_are_called(tmp_path):
    for root, names in (("one", ("train", "val", "test")), ("two", ("Training", "valid", "TEST"))):
        for name, count in zip(names, (20, 3, 5), strict=True):
            write_class_folders(tmp_path / root / name, count)
    assert data_fingerprint(settings(tmp_path / "one")) == data_fingerprint(settings(tmp_path / "two"))
    (tmp_path / "two" / "valid").rename(tmp_path / "two" / "unused")
    assert data_fingerprint(settings(tmp_path / "one")) != data_fingerprint(settings(tmp_path / "two"))


@pytest.mark.parametrize("names", [("train_station", "test_tube"), ("valid", "invalid"), ("developer", "contest")])
def test_classes_that_only_sound_like_splits_are_classes(tmp_path, names):
    write_class_folders(tmp_path, 20, tuple((name, 10) for name in names))
    data = load_data(settings(tmp_path))
    assert data.class_names == tuple(sorted(names)) and sizes(data) == [28, 4, 8]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/c", "test/c", "Train/c"), "Train/ and train/ could all be the pictures of train. Keep one"),
        (("train/c", "test/c", "valid/c", "dev/c"), "dev/ and valid/ could all be the pictures of val"),
        (("train/c", "test/c", "eval/c"), "eval/ could be the pictures of val. Rename it"),
        (("train/c", "holdout/c"), "holdout/ could be the pictures of val"),
        (("train/c", "test/c", "valid_set/c"), "valid_set/ could be the pictures of val"),
        (("train/c", "car/c", "plane/c"), "car/, plane/ and train/ but no test/"),
        (("test/c", "val/c"), "test/ and val/ but no train/"),
        (("a_train/c", "a_test/c", "b_train/c", "b_test/c"), "several of them could be the training pictures"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "cat holds test/ and train/, so it is no class folder"),
        (("images/train/c", "images/val/c", "more/x"), "images holds train/ and val/, so it is no class folder"),
        (("train/empty", "test/c"), "train/empty holds no picture"),
    ],
)
def test_ambiguous_folders_are_refused(tmp_path, folders, message):
    for folder in folders:
        if folder == "train/empty":
            (tmp_path / folder).mkdir(parents=True)
        for i in range(4):
            write_picture(tmp_path / folder.replace("/empty", "/d") / f"{i}.png", (16, 16), "L", 50)
    with pytest.raises(UserError, match=message):
        check_data(settings(tmp_path))


PINNED = {  # as they were before there was a word for a split other than train, val and test
    ("cat", "dog"): "8fa9506448379038",
    ("train/cat", "train/dog", "test/cat", "test/dog"): "5915f02f27204b1d",
    ("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog"): "ea039cdc4d41a5e7",
}


@pytest.mark.parametrize("folders", PINNED)
def test_the_fingerprint_of_plain_pictures_has_not_moved(tmp_path, folders):
    for number, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(10):
            (tmp_path / folder / f"{i}.pgm").write_bytes(b"P5 8 8 255\n" + bytes([number * 20 + i]) * 64)
    assert data_fingerprint(settings(tmp_path)) == PINNED[folders]


def test_names_that_are_not_utf8_are_read_and_shown(tmp_path):
    names = [os.fsdecode(name) for name in (b"caf\xe9", b"th\xe9")]
    write_class_folders(tmp_path, 10, ((names[0], 10), (names[1], 200)))
    bad = tmp_path / names[0] / os.fsdecode(b"\xff.png")
    write_picture(bad, (16, 12), "L", 99)
    first = data_fingerprint(settings(tmp_path))
    data = load_data(settings(tmp_path))
    assert data.class_names == (r"caf\xe9", r"th\xe9") and sum(sizes(data)) == 21
    assert all((*data.class_names, *data.notes)) and "".join(data.class_names).isascii()
    bad.rename(tmp_path / names[0] / os.fsdecode(b"\xfe.png"))
    assert data_fingerprint(settings(tmp_path)) != first
    (tmp_path / names[1] / os.fsdecode(b"\xfd.png")).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"th\\xe9/\\xfd.png can't be decoded"):
        load_data(settings(tmp_path))
    (tmp_path / names[0] / os.fsdecode(b"\xfc.png")).symlink_to("nowhere")
    with pytest.raises(UserError, match=r"caf\\xe9/\\xfc.png can't be read"):
        load_data(settings(tmp_path))


# ---- what is said


def plan_of(root: Path, *more: str, cells: bool = False) -> str:
    from qprune.sweep.forecast import show_plan

    text = io.StringIO()
    config = tiny_config(root.parent, f"data={{name: imagefolder, root: {root}, image_size: 8}}", *more)
    show_plan(config, root.parent / "results", Console(file=text, width=200), cells=cells)
    return text.getvalue()


def test_plan_says_which_folder_is_which_split_and_what_each_class_has(tmp_path):
    root = tmp_path / "pets"
    write_class_folders(root / "Train", 20)
    write_class_folders(root / "valid", 4)
    write_class_folders(root / "TEST", 6, (("dog", 100),))
    write_class_folders(root / "unlabelled", 2)
    (root / "TEST" / "cat").mkdir()
    write_picture(root / "Train" / "lost.png")
    (root / "Train" / "cat" / "a.heic").write_bytes(b"x")
    text = plan_of(root)
    assert "pets train: 40 images, 20 of each of 2 classes" in text
    assert "pets val: 8 images, 4 of each of 2 classes" in text
    assert "pets test: 6 images, cat 0, dog 6" in text
    assert "pets: train is Train/, val is valid/, test is TEST/" in text
    assert "note: test of pets has no image of cat" in text
    assert "pets: not read: unlabelled/ beside the splits" in text
    assert "pets: not read: 1 picture in no class folder" in text
    assert "pets: not read: 1 file without a picture's suffix (1 .heic)" in text
    assert "pets: 54 of 54 pictures: grey" in text


def test_a_class_that_a_drawn_split_lacks_is_said(tmp_path):
    root = tmp_path / "birds"
    write_class_folders(root, 30)
    write_class_folders(root, 1, (("rare", 90),))
    text = plan_of(root)
    assert "note: val of birds has no image of rare" in text and "note: test of birds has no image of rare" in text
    assert "note: train" not in text


def test_many_classes_are_summed_up_unless_asked_for(tmp_path):
    root = tmp_path / "many"
    write_class_folders(root / "train", 10, tuple((f"c{i:02d}", i) for i in range(25)))
    write_class_folders(root / "val", 2, tuple((f"c{i:02d}", i) for i in range(25)))
    write_class_folders(root / "test", 2, tuple((f"c{i:02d}", i) for i in range(25)))
    write_picture(root / "train" / "c03" / "more.png", (8, 8), "L", 1)
    assert "many train: 251 images, 10 to 11 of each of 25 classes" in plan_of(root)
    assert "c02 10, c03 11, c04 10" in plan_of(root, cells=True)


# ---- pixels


GRADIENT = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)  # 16 wide, 12 high


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation, suffix):
    """Against NumPy: rows and columns as the standard names them."""
    turns = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    quarters = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(quarters).convert("RGB").save(file, exif=exif, **lossless)
    ours = decode_pictures([file], Preprocessing.of_pictures(32))[0].transpose(1, 2, 0).astype(int)
    assert np.abs(ours - turns[orientation](quarters)[..., None]).max() <= (12 if suffix == ".jpg" else 1)
    assert ("turned" in treatments(file)) == (orientation != 1 and suffix != ".tif")  # Pillow turned TIFFs before


def test_a_turned_picture_that_is_not_square_is_cut_from_its_upright_middle(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(tmp_path / "a.png", exif=exif)
    assert (decode_pictures([tmp_path / "a.png"], Preprocessing.of_pictures(8)) == 200).all()


def test_exif_at_the_end_of_a_png_is_found_and_broken_exif_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(GRADIENT).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4], "big")
    chunk, end = content[start : start + length], content.index(b"IEND") - 4
    moved = content[:start] + content[start + length : end] + chunk + content[end:]
    (tmp_path / "b.png").write_bytes(moved)
    one, other = decode_pictures([tmp_path / "a.png", tmp_path / "b.png"], Preprocessing.of_pictures(12))
    assert np.array_equal(one, other) and treatments(tmp_path / "b.png") == {"turned"}
    Image.fromarray(GRADIENT).save(tmp_path / "c.jpg", exif=b"Exif\0\0nothing that can be read")
    plain = np.asarray(Image.open(tmp_path / "c.jpg").crop((2, 0, 14, 12))).transpose(2, 0, 1)
    assert np.array_equal(decode_pictures([tmp_path / "c.jpg"], Preprocessing.of_pictures(12))[0], plain)


def transparent_pictures() -> dict[str, Image.Image]:
    """Left half seen, of the grey 100; right half transparent above a hidden black."""
    grey, alpha = np.full((8, 8), 100, np.uint8), np.full((8, 8), 255, np.uint8)
    grey[:, 4:], alpha[:, 4:] = 0, 0
    rgba = Image.fromarray(np.dstack([grey, grey, grey, alpha]))
    indices = np.zeros((8, 8), np.uint8)
    indices[:, 4:] = 1
    palette = Image.fromarray(indices).convert("P")
    palette.putpalette([100, 100, 100, 0, 0, 0])
    deep = grey.astype(np.uint16) * 257
    return {
        "rgba.png": rgba,
        "rgba.webp": rgba,
        "rgba.tif": rgba,
        "la.png": Image.fromarray(np.dstack([grey, alpha])),
        "palette.png": palette,
        "palette.gif": palette,
        "key.png": Image.fromarray(np.dstack([grey] * 3)),
        "deep.png": Image.fromarray(deep),
    }


@pytest.mark.parametrize("name", transparent_pictures())
def test_transparent_pixels_are_laid_on_white(tmp_path, name):
    options = {"palette": {"transparency": 1}, "key": {"transparency": (0, 0, 0)}, "deep": {"transparency": 0}}
    lossless = {"lossless": True, "exact": True} if name.endswith(".webp") else {}
    transparent_pictures()[name].save(tmp_path / name, **options.get(Path(name).stem, {}), **lossless)
    pixels = decode_pictures([tmp_path / name], Preprocessing.of_pictures(8))[0]
    assert (pixels[:, :, :4] == 100).all() and (pixels[:, :, 4:] == 255).all()
    assert "transparent" in treatments(tmp_path / name)


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (8, 8), (100, 0, 50, 51)).save(tmp_path / "a.png")  # a fifth is seen
    assert decode_pictures([tmp_path / "a.png"], Preprocessing.of_pictures(8))[0, :, 0, 0].tolist() == pytest.approx(
        [224, 204, 214], abs=1
    )


def test_every_depth_and_colour_becomes_rgb(tmp_path):
    """16 bits are read at 8, whether grey or colour; CMYK and palettes as Pillow converts them."""
    deep = np.full((8, 8), 200 * 257, np.uint16)
    write_deep_png(tmp_path / "rgb16.png", deep)
    Image.fromarray(deep).save(tmp_path / "grey16.png")
    Image.fromarray(deep).save(tmp_path / "grey16.tif")
    (tmp_path / "grey16.pgm").write_bytes(b"P5 8 8 65535\n" + deep.astype(">u2").tobytes())
    (tmp_path / "rgb16.ppm").write_bytes(b"P6 8 8 65535\n" + np.repeat(deep, 3).astype(">u2").tobytes())
    Image.new("CMYK", (8, 8), (55, 55, 55, 0)).save(tmp_path / "cmyk.tif")
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    Image.new("RGB", (8, 8), (200,) * 3).quantize(4).save(tmp_path / "palette.png")
    Image.new("L", (8, 8), 200).save(tmp_path / "frames.gif", save_all=True, append_images=[Image.new("L", (8, 8), 10)])
    files = sorted(tmp_path.iterdir())
    pixels = decode_pictures(files, Preprocessing.of_pictures(8))
    expected = [255 if file.stem == "bits" else 200 for file in files]
    assert pixels.reshape(len(files), -1).std(1).tolist() == [0] * len(files)
    assert pixels[:, 0, 0, 0].tolist() == expected
    held = {file.name: treatments(file) for file in files}
    assert {name for name, treated in held.items() if "deep" in treated} == {
        f"grey16.{s}" for s in ("png", "tif", "pgm")
    } | {"rgb16.ppm", "rgb16.png"}
    assert held["cmyk.tif"] == {"cmyk"} and held["palette.png"] == {"palette"} and "frames" in held["frames.gif"]


def test_a_picture_that_would_be_black_in_8_bits_or_has_no_known_range_is_refused(tmp_path):
    for name, pixels, message in (
        ("a.png", np.full((8, 8), 4000, np.uint16), "16 bits a pixel but values up to 4000 alone"),
        ("b.tif", np.full((8, 8), 4000, np.int32), "has I pixels, whose range isn't known"),
        ("c.tif", np.full((8, 8), 0.5, np.float32), "has F pixels, whose range isn't known"),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(UserError, match=f"{tmp_path / name} has {message.removeprefix('has ')}"):
            decode_pictures([tmp_path / name], Preprocessing.of_pictures(8))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "black.png")
    assert (decode_pictures([tmp_path / "black.png"], Preprocessing.of_pictures(8)) == 0).all()


def test_the_fingerprint_moves_with_the_decoding_code_only_where_it_changes_pixels(tmp_path, monkeypatch):
    import qprune.data.pictures as pictures

    write_class_folders(tmp_path / "plain", 10)
    write_class_folders(tmp_path / "clear", 10)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear" / "cat" / "00.png")
    before = [data_fingerprint(settings(tmp_path / name)) for name in ("plain", "clear")]
    raised = [pictures.Treatment(t.name, t.said, t.version + (t.name == "transparent")) for t in TREATMENTS]
    monkeypatch.setattr(pictures, "TREATMENTS", tuple(raised))
    after = [data_fingerprint(settings(tmp_path / name)) for name in ("plain", "clear")]
    assert before[0] == after[0] and before[1] != after[1]


def test_the_fingerprint_of_a_transparent_picture_is_not_that_of_its_bytes_alone(tmp_path, monkeypatch):
    """What was made from it when its hidden colours were read isn't taken for what is made from it now."""
    import qprune.data.pictures as pictures

    write_class_folders(tmp_path, 10)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "cat" / "00.png")
    now = data_fingerprint(settings(tmp_path))
    monkeypatch.setattr(pictures, "TREATMENTS", ())
    assert data_fingerprint(settings(tmp_path)) != now
