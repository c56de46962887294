"""Data sets against the truth: splits, fingerprints, damaged files, layouts, augmentation."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from data_files import (
    write_cifar,
    write_class_folders,
    write_data_set,
    write_flowers,
    write_idx,
    write_picture,
    write_tiny_imagenet,
)
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import qprune.data.base as base
import qprune.data.decoded as decoded
from qprune.data import DATA_SETS, Dataset, _load, augment, check_data, data_fingerprint, flowers102, load_data
from qprune.data.augmentation import AREA, ASPECT, crop_boxes
from qprune.data.idx import read_idx
from qprune.data.options import DataEntry
from qprune.registry import Entry
from qprune.registry.errors import UserError
from qprune.registry.options import Option, is_whole

FASHION = Path("/usr/share/datasets/fashion-mnist")


# ---- splits


def test_digits_equal_those_of_scikit_learn_and_no_image_is_lost_or_doubled():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    data = load_data({"name": "digits"})
    splits = (data.train, data.val, data.test)
    ours = torch.cat([torch.cat([s.images.flatten(1), s.labels[:, None]], 1) for s in splits]).numpy()
    theirs = np.column_stack([np.round(pixels * 255 / 16), labels]).astype(np.int64)
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))
    assert [len(s) for s in splits] == [1078, 270, 449]
    assert data.train.images.shape[1:] == (1, 8, 8) and data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64 and data.num_classes == 10 and data.augment == ()


def test_splits_are_stratified_to_within_one_image():
    data = load_data({"name": "digits"})
    whole = torch.cat([data.train.labels, data.val.labels, data.test.labels]).bincount()
    for split in (data.train, data.val, data.test):
        expected = whole * len(split) / 1797
        assert (split.labels.bincount() - expected).abs().max() < 2


@pytest.mark.parametrize("counts", [(50, 50), (200, 30, 3), (1, 1, 8), (7,) * 11])
def test_every_prefix_of_the_stratified_order_has_each_class_in_its_share(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = base.stratified_order(labels, seed=3)
    assert sorted(order) == list(range(len(labels)))
    for length in range(1, len(labels) + 1):
        got = np.bincount(labels[order[:length]], minlength=len(counts))
        assert np.abs(got - np.array(counts) * length / len(labels)).max() < 1.5


def test_stratified_parts_are_disjoint_complete_and_fixed():
    labels = np.random.RandomState(0).randint(0, 5, 333)
    parts = base.stratified_split(labels, (0.2, 0.1))
    assert [len(part) for part in parts] == [67, 33, 233]
    assert sorted(np.concatenate(parts)) == list(range(333))
    assert all(np.array_equal(a, b) for a, b in zip(parts, base.stratified_split(labels, (0.2, 0.1)), strict=True))


def test_subsets_are_nested_stratified_and_leave_val_and_test_alone():
    whole, small, large = (load_data({"name": "digits", "subset": n}) for n in (1078, 50, 200))
    assert torch.equal(small.train.images, large.train.images[:50])
    assert small.train.labels.bincount(minlength=10).tolist() == pytest.approx([5] * 10, abs=1)
    assert torch.equal(small.val.images, whole.val.images) and torch.equal(small.test.images, whole.test.images)
    with pytest.raises(UserError, match="subset 1079 is more than the 1078"):
        load_data({"name": "digits", "subset": 1079})


def test_mean_and_std_are_those_of_the_training_images():
    data = load_data({"name": "digits"})
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()]) and data.std == pytest.approx(
        [pixels.std(correction=0).item()]
    )
    images = torch.randint(0, 256, (2500, 3, 5, 5), dtype=torch.uint8)
    images[:, 1] = 7
    mean, std = base.channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert std == pytest.approx([pixels[:, 0].std(correction=0).item(), 1.0, pixels[:, 2].std(correction=0).item()])


def test_loaded_data_are_kept_in_memory():
    assert load_data({"name": "digits"}) is load_data({"name": "digits", "augment": "none"})


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "digts"}, r"unknown data set 'digts'; did you mean 'digits'\?"),
        ({"root": "x"}, "need a name"),
        ({"name": "digits", "augmnt": "flip"}, r"digits: unknown option 'augmnt'; did you mean 'augment'\?"),
        ({"name": "mnist", "rot": "x"}, r"mnist: unknown option 'rot'; did you mean 'root'\?"),
        (
            {"name": "digits", "augment": "flop"},
            "digits: augment is 'flop'; it must be none, flip, resized_crop, crop or shift",
        ),
        ({"name": "digits", "augment": 3}, "augment is 3"),
        ({"name": "digits", "subset": 0}, "subset is 0; it must be a whole number"),
        ({"name": "digits", "subset": True}, "subset is true; it must be a whole number"),
        ({"name": "mnist", "download": "yes"}, "download is 'yes'; it must be true or false"),
        ({"name": "imagefolder"}, "root is missing"),
        ({"name": "imagefolder", "root": "/nowhere/at/all"}, "no folder /nowhere/at/all"),
        ({"name": "imagefolder", "root": "/", "image_size": 0}, "image_size is 0"),
        ({"name": "no_such_module:make"}, "no module 'no_such_module'"),
    ],
)
def test_bad_settings_are_one_clear_error(settings, message):
    for ask in (check_data, data_fingerprint, load_data):
        with pytest.raises(UserError, match=message):
            ask(settings)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "flowers102"])
def test_missing_files_say_where_they_were_looked_for_and_the_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setenv("QPRUNE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=rf"{tmp_path}/{name}.*download: true.*root:"):
        check_data({"name": name})
    with pytest.raises(UserError, match=rf"{tmp_path}/elsewhere.*download: true"):
        load_data({"name": name, "root": str(tmp_path / "elsewhere")})
    check_data({"name": name, "download": True})  # would be fetched: nothing to complain of yet


def check_conformance(settings):
    """What every data set must do: three splits that fit together, the same each time, known by a fingerprint."""
    check_data(settings)
    data, entry = load_data(settings), DATA_SETS.get(settings["name"])
    for split in (data.train, data.val, data.test):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64 and len(split) > 0
        assert split.images.shape == (len(split), *data.train.images.shape[1:]) and split.images.dim() == 4
        assert split.labels.min() >= 0 and split.labels.max() < data.num_classes == len(data.class_names)
    assert len(data.mean) == len(data.std) == data.train.images.shape[1]
    assert data.augment == entry.augment and load_data({**settings, "augment": "flip"}).augment == ("flip",)
    _load.cache_clear()
    again = load_data(settings)
    assert (
        again is not data
        and torch.equal(again.train.images, data.train.images)
        and torch.equal(again.test.labels, data.test.labels)
    )
    small = load_data({**settings, "subset": 2})
    assert len(small.train) == 2 and torch.equal(small.val.images, data.val.images)
    prints = [data_fingerprint({**settings, **other}) for other in ({}, {}, {"subset": 2}, {"augment": "shift7"})]
    assert prints[0] == prints[1] and len(set(prints)) == 3


@pytest.mark.parametrize("name", DATA_SETS.names())
def test_every_data_set_conforms(name, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    settings = {"name": name, **write_data_set(name, tmp_path / "files", monkeypatch)}
    check_conformance(settings)
    if DATA_SETS.get(name).pictures:  # and mapped from the cache
        monkeypatch.setattr(decoded, "LEAST_BYTES", 0)
        monkeypatch.setenv("QPRUNE_CACHE", str(tmp_path / "cache"))
        check_conformance(settings)


def _ramp(options):
    images = np.arange(options["count"] * 16, dtype=np.uint8).reshape(-1, 1, 4, 4)
    return images, np.arange(options["count"]) % 2


OWN = base.Source(
    load=lambda options: base.Parts(*[base.make_split(*_ramp(options))] * 3, ("even", "odd")),
    fingerprint=lambda options: str(options["count"]),
    check=lambda options: None,
)


def test_a_data_set_of_ones_own_conforms():
    options = {"count": Option(6, lambda value: is_whole(value, 2), "a whole number of at least 2")}
    with DATA_SETS.temporarily(DataEntry("own", f"{__name__}:OWN", options=options, augment=("shift1",))):
        check_conformance({"name": "own"})
        check_conformance({"name": "own", "count": 9})
        with pytest.raises(UserError, match="data own: count is 1; it must be a whole number of at least 2"):
            check_data({"name": "own", "count": 1})
    with pytest.raises(UserError, match="unknown data set 'own'"):
        check_data({"name": "own"})


def test_what_others_ask_of_a_data_set():
    assert [entry.name for entry in DATA_SETS.entries() if entry.named_by_root] == ["imagefolder"]
    places = {option for entry in DATA_SETS.entries() for option in entry.options if not entry.options[option].identity}
    assert places == {"root", "download"}  # where the files lie doesn't enter the fingerprint


def test_a_name_registered_twice_raises():
    with pytest.raises(ValueError, match="registered twice"):
        DATA_SETS.add(Entry("digits", "somewhere:else"))
    assert DATA_SETS.names() == [
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "flowers102",
        "tiny_imagenet",
        "imagefolder",
    ]


def test_checks_and_fingerprints_import_neither_torch_nor_scikit_learn():
    code = (
        "import sys; from qprune.data import *; s = {'name': 'digits', 'augment': ['flip']};"
        "check_data(s); data_fingerprint(s); assert not {'torch', 'sklearn', 'PIL'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# ---- fingerprints


def test_fingerprint_of_digits_knows_what_changes_the_data():
    plain = data_fingerprint({"name": "digits"})
    assert (
        plain
        == data_fingerprint({"name": "digits", "augment": "none"})
        == data_fingerprint({"name": "digits", "augment": []})
    )
    others = [{"subset": 100}, {"subset": 101}, {"augment": "flip"}, {"augment": ["crop1"]}]
    assert len({plain, *(data_fingerprint({"name": "digits", **other}) for other in others)}) == 5


# ---- the MNIST family


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
def test_idx_files_are_read_from_root_and_from_torchvisions_folder(tmp_path, zipped, folder):
    write_idx(tmp_path / folder, zipped=zipped)
    data = load_data({"name": "mnist", "root": str(tmp_path)})
    random = np.random.RandomState(0)
    train = random.randint(0, 256, (100, 28, 28), np.uint8)
    assert [len(s) for s in (data.train, data.val, data.test)] == [90, 10, 20]
    assert data.val.labels.tolist().count(3) == 1
    assert np.array_equal(data.test.images[:, 0].numpy(), random.randint(0, 256, (20, 28, 28), np.uint8))
    together = torch.cat([data.train.images, data.val.images]).flatten(1).numpy()
    assert sorted(map(bytes, together)) == sorted(map(bytes, train.reshape(100, -1)))
    assert data.augment == ("shift2",)


def test_torchvision_reads_the_same_numbers(tmp_path):
    from torchvision.datasets.mnist import read_image_file

    write_idx(tmp_path, zipped=False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    assert np.array_equal(read_idx(path, 3), read_image_file(str(path)).numpy())


def test_idx_files_that_are_cut_short_or_wrong_are_named(tmp_path):
    write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    content = path.read_bytes()
    for damaged, message in [
        (content[:-1], "announces 100x28x28 = 78400 values and holds 78399"),
        (content + b"x", "holds 78401"),
        (content[:10], "no idx file of 3 dimensions"),
        (b"<html>not found</html>", "no idx file of 3 dimensions"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=message) as error:
            load_data({"name": "mnist", "root": str(tmp_path)})
        assert str(path) in str(error.value) and "half downloaded" in str(error.value)


def test_half_a_gzip_file_is_named(tmp_path):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{path}.*half downloaded"):
        load_data({"name": "mnist", "root": str(tmp_path)})
    path.unlink()
    with pytest.raises(UserError, match="incomplete, train-images-idx3-ubyte"):
        check_data({"name": "mnist", "root": str(tmp_path)})


def test_labels_must_belong_to_the_images_and_the_classes(tmp_path):
    write_idx(tmp_path, zipped=False)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 19)) + bytes(19))
    with pytest.raises(UserError, match="19 labels for 20 images"):
        load_data({"name": "mnist", "root": str(tmp_path)})
    path.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 20)) + bytes([10] * 20))
    with pytest.raises(UserError, match="labels from 0 to 9"):
        load_data({"name": "mnist", "root": str(tmp_path)})


def test_fingerprint_of_files_is_of_their_content_not_of_their_place_or_time(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_idx(tmp_path / folder, seed=seed, zipped=False)
    os.utime(tmp_path / "b" / "train-images-idx3-ubyte", (0, 0))
    a, b, c = (data_fingerprint({"name": "mnist", "root": str(tmp_path / folder)}) for folder in "abc")
    assert a == b != c
    assert a != data_fingerprint({"name": "fashion_mnist", "root": str(tmp_path / "a")})


def test_a_failed_download_is_one_error(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "resources", [("no-such-file.gz", "0" * 32)])
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match=f"mnist: the download into {tmp_path} failed.*root"):
        load_data({"name": "mnist", "root": str(tmp_path), "download": True})


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist isn't installed")
def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("QPRUNE_DATA", str(tmp_path))
    data = load_data({"name": "fashion_mnist"})
    assert data.train.labels.bincount().tolist() == [5400] * 10
    assert data.val.labels.bincount().tolist() == [600] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.mean[0] == pytest.approx(0.2860, abs=5e-4) and data.std[0] == pytest.approx(0.3530, abs=5e-4)
    assert data.class_names[8] == "Bag" and data.augment == ("flip", "crop2")


# ---- CIFAR


def test_cifar_is_read_and_a_damaged_file_never_opened(tmp_path, monkeypatch):
    pixels = write_cifar(tmp_path, monkeypatch, 100)
    settings = {"name": "cifar100", "root": str(tmp_path)}
    data = load_data(settings)
    assert [len(s) for s in (data.train, data.val, data.test)] == [180, 20, 100]
    assert np.array_equal(data.test.images.numpy(), pixels[:100]) and data.num_classes == 100
    assert data.class_names[7] == "class 7" and data.augment == ("flip", "crop4") and len(data.mean) == 3
    before = data_fingerprint(settings)
    assert before == data_fingerprint({**settings, "root": str(tmp_path / "cifar-100-python")})

    train = tmp_path / "cifar-100-python" / "train"
    train.write_bytes(train.read_bytes()[:5000])
    with pytest.raises(UserError, match="cifar100.*damaged or only half downloaded"):
        load_data({**settings, "subset": 5})
    assert data_fingerprint(settings) != before


# ---- pictures


def test_imagefolder_with_class_folders_is_split_70_10_20(tmp_path):
    write_class_folders(tmp_path, 40)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    data = load_data({"name": "imagefolder", "root": str(tmp_path), "image_size": 8})
    assert [len(s) for s in (data.train, data.val, data.test)] == [56, 8, 16]
    assert data.class_names == ("cat", "dog") and data.train.images.shape[1:] == (3, 8, 8)
    tones = torch.cat([s.images[:, 0, 0, 0] for s in (data.train, data.val, data.test)])
    assert sorted(tones.tolist()) == [*range(10, 50), *range(200, 240)]
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.labels, (split.images[:, 0, 0, 0] >= 200).long())
        assert split.labels.float().mean().item() == pytest.approx(0.5, abs=0.13)


def test_imagefolder_with_its_own_splits(tmp_path):
    write_class_folders(tmp_path / "train", 20)
    write_class_folders(tmp_path / "test", 5)
    settings = {"name": "imagefolder", "root": str(tmp_path), "image_size": 8}
    data = load_data(settings)
    assert [len(s) for s in (data.train, data.val, data.test)] == [36, 4, 10]
    without_val = data_fingerprint(settings)
    write_class_folders(tmp_path / "val", 3)
    own = load_data(settings)
    assert [len(s) for s in (own.train, own.val, own.test)] == [40, 6, 10]
    assert data_fingerprint(settings) != without_val


def test_imagefolder_sees_files_that_change_after_it_was_loaded(tmp_path):
    write_class_folders(tmp_path, 10)
    settings = {"name": "imagefolder", "root": str(tmp_path), "image_size": 8}
    first, before = load_data(settings), data_fingerprint(settings)
    write_picture(tmp_path / "cat" / "99.png", (16, 12), "L", 99)
    assert data_fingerprint(settings) != before
    assert sum(map(len, (first.train, first.val, first.test))) == 20
    again = load_data(settings)
    assert sum(map(len, (again.train, again.val, again.test))) == 21


def test_imagefolder_errors_name_the_folder(tmp_path):
    settings = {"name": "imagefolder", "root": str(tmp_path), "image_size": 8}
    with pytest.raises(UserError, match=f"{tmp_path} holds no class folders"):
        check_data(settings)
    write_class_folders(tmp_path / "train", 2)
    with pytest.raises(UserError, match="holds train/ but no test/"):
        check_data(settings)
    write_class_folders(tmp_path / "test", 2, (("cat", 0), ("dgo", 0)))
    with pytest.raises(UserError, match=r"test/dgo is no class of the training pictures; did you mean 'dog'\?"):
        check_data(settings)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="train/empty holds no picture"):
        check_data(settings)


def test_pictures_that_cannot_be_decoded_are_named(tmp_path):
    write_class_folders(tmp_path, 10)
    settings = {"name": "imagefolder", "root": str(tmp_path), "image_size": 8}
    bad = tmp_path / "dog" / "03.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 16, 3), np.uint8)).save(bad)
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(UserError, match=f"{bad} can't be decoded"):
        load_data(settings)
    bad.write_bytes(b"no picture at all")
    with pytest.raises(UserError, match=f"{bad} can't be decoded"):
        load_data(settings)


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (16, 16), (5, 9), (400, 17)])
def test_pictures_are_resized_and_cut_as_torchvision_does(tmp_path, size):
    from torchvision.transforms import v2

    from qprune.data.pictures import decode_pictures
    from qprune.data.preprocessing import Preprocessing

    noise = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    ours = decode_pictures([tmp_path / "noise.png"], Preprocessing.of_pictures(16))[0]
    theirs = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(Image.fromarray(noise))
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


def test_flowers102_names_are_torchvisions():
    """Where it has them: 0.21 has not."""
    assert len(set(flowers102.CLASSES)) == 102
    assert list(flowers102.CLASSES) == getattr(torchvision.datasets.Flowers102, "classes", list(flowers102.CLASSES))


def test_flowers102_has_the_official_splits(tmp_path):
    folder = write_flowers(tmp_path)
    settings = {"name": "flowers102", "root": str(tmp_path)}
    data = load_data(settings)
    assert data.train.labels.tolist() == [2, 0, 1] and data.val.labels.tolist() == [4, 3] and len(data.test) == 25
    assert (
        data.train.images.shape == (3, 3, 64, 64) and data.num_classes == 102 and data.class_names[0] == "pink primrose"
    )
    assert data.train.images[:, 0, 0, 0].tolist() == pytest.approx([24, 8, 16], abs=1)
    (folder / "jpg" / "image_00005.jpg").unlink()
    with pytest.raises(UserError, match="incomplete, .*image_00005.jpg not found"):
        load_data({**settings, "image_size": 32})
    (folder / "setid.mat").write_bytes(b"half")
    with pytest.raises(UserError, match="setid.mat is damaged"):
        load_data({**settings, "image_size": 32})


# ---- the user's own


USER_CODE = """
import numpy as np
from qprune.data import Dataset, Split
def pairs(count=40, val=True, size=6):
    part = lambda n: (np.full((n, size, size), 7, np.uint8), np.arange(n) % 4)
    return {"train": part(count), "test": part(8), **({"val": part(4)} if val else {})}
def three(): return tuple(pairs()[part] for part in ("train", "val", "test"))
def whole():
    import torch
    part = Split(torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.arange(4))
    return Dataset("mine", part, part, part, 4, (0.5,) * 3, (0.25,) * 3, ("flip",), ("a", "b", "c", "d"))
def floats(): return {"train": (np.zeros((4, 6, 6)), np.zeros(4, int)), "test": (np.zeros((4, 6, 6)), np.zeros(4, int))}
def number(): return 42
def few_labels(): return {"train": (np.zeros((4, 6, 6), np.uint8), np.zeros(3, int)), "test": 1}
constant = 5
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a fresh module into the working directory; returns its name and file."""
    name = f"user_data_{tmp_path.name.replace('-', '_')}"
    path = tmp_path / f"{name}.py"
    path.write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name, path
    sys.modules.pop(name, None)


def test_a_users_function_may_return_pairs_or_a_data_set(user_module):
    name, _ = user_module
    data = load_data({"name": f"{name}:pairs", "count": 20, "augment": "flip", "subset": 8})
    assert data.train.images.shape == (8, 1, 6, 6) and len(data.val) == 4 and data.num_classes == 4
    assert data.augment == ("flip",) and data.std == (1.0,) and data.mean == pytest.approx((7 / 255,))
    held_out = load_data({"name": f"{name}:pairs", "val": False})
    assert [len(s) for s in (held_out.train, held_out.val)] == [36, 4]
    in_a_tuple = load_data({"name": f"{name}:three"})
    assert [len(s) for s in (in_a_tuple.train, in_a_tuple.val, in_a_tuple.test)] == [40, 4, 8]
    whole = load_data({"name": f"{name}:whole"})
    assert isinstance(whole, Dataset) and whole.mean == (0.5,) * 3 and whole.augment == ("flip",)
    assert load_data({"name": f"{name}:whole", "augment": "none"}).augment == ()


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("number", {}, "the function number of user_data_.* returned a int, not a Dataset"),
        ("floats", {}, r"floats of .* returned train images of float64 \[4, 6, 6\], not uint8"),
        ("few_labels", {}, r"train labels of int64 \[3\] for 4 images"),
        ("pair", {}, r"no function 'pair' in .*; did you mean 'pairs'\?"),
        ("constant", {}, "no function 'constant'"),
        ("pairs", {"cuont": 3}, r"unknown option 'cuont'; did you mean 'count'\?"),
    ],
)
def test_errors_name_the_users_module_function_and_what_it_returned(user_module, function, options, message):
    settings = {"name": f"{user_module[0]}:{function}", **options}
    with pytest.raises(UserError, match=message):
        load_data(settings)


def test_fingerprint_of_a_users_function_is_that_of_its_source_and_options(user_module):
    name, path = user_module
    first = data_fingerprint({"name": f"{name}:pairs"})
    assert first != data_fingerprint({"name": f"{name}:pairs", "count": 41})
    path.write_text(USER_CODE + "# changed\n")
    assert first != data_fingerprint({"name": f"{name}:pairs"})


def test_a_module_that_fails_to_import_is_an_error_that_says_so(user_module):
    name, path = user_module
    path.write_text("import no_such_library\n")
    with pytest.raises(UserError, match=f"importing {name} fails: No module named 'no_such_library'"):
        check_data({"name": f"{name}:pairs"})
    path.write_text("1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        check_data({"name": f"{name}:pairs"})


# ---- augmentation


def slow_augment(images, kind, pixels, generator):
    """One image after the other, with the same numbers drawn."""
    n, _, h, w = images.shape
    if kind == "flip":
        drawn = torch.rand(n, generator=generator) < 0.5
        return torch.stack([image.flip(-1) if turned else image for image, turned in zip(images, drawn, strict=True)])
    top, left = torch.randint(0, 2 * pixels + 1, (2, n), generator=generator)
    mode = "replicate" if kind == "shift" else "constant"
    padded = [F.pad(image[None].float(), (pixels,) * 4, mode=mode)[0].to(images.dtype) for image in images]
    return torch.stack(
        [p[:, y : y + h, x : x + w] for p, y, x in zip(padded, top.tolist(), left.tolist(), strict=True)]
    )


@pytest.mark.parametrize(("name", "kind", "pixels"), [
    ("flip", "flip", 0), ("crop4", "crop", 4), ("crop", "crop", 1), ("shift2", "shift", 2), ("shift13", "shift", 13),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_augment_equals_the_slow_oracle(name, kind, pixels, dtype, layout):
    images = (torch.rand(33, 3, 12, 15) * 255).to(dtype).contiguous(memory_format=layout)
    kept = images.clone()
    fast = augment(images, (name,), torch.Generator().manual_seed(5))
    slow = slow_augment(images, kind, pixels, torch.Generator().manual_seed(5))
    assert torch.equal(fast, slow) and fast.dtype == dtype
    assert torch.equal(images, kept) and not torch.equal(fast, images)


def test_augment_is_determined_by_the_generator_and_covers_every_place():
    images = torch.arange(1, 26.0).view(1, 1, 5, 5).repeat(2000, 1, 1, 1)
    kinds = ("flip", "crop1")
    first, again = (augment(images, kinds, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, kinds, torch.Generator().manual_seed(2)))
    places, counts = first.flatten(1).unique(dim=0, return_counts=True)
    assert len(places) == 2 * 3 * 3  # mirrored or not, three rows, three columns
    assert counts.min() > 70  # 2000 / 18 = 111 expected, sd 10
    assert augment(images, ("none",), torch.Generator()) is images and augment(images, (), torch.Generator()) is images
    with pytest.raises(UserError, match="'rotate' is no augmentation"):
        augment(images, ("rotate",), torch.Generator())


def measures(boxes):
    """Area, aspect and place of each box."""
    top, left, h, w = boxes.T.astype(float)
    return h * w, np.log(w / h), top, left


def test_resized_crops_are_drawn_as_torchvision_draws_them():
    """Areas, aspects and places of many, by their means; and the box where no try lies within the image."""
    from torchvision.transforms import RandomResizedCrop

    height, width, count = 90, 120, 4000
    ours = np.array(crop_boxes(height, width, count, torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    empty = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(empty, AREA, ASPECT) for _ in range(count)])
    for boxes in (ours, theirs):
        top, left, h, w = boxes.T
        assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    for one, other in zip(measures(ours), measures(theirs), strict=True):
        assert abs(one.mean() - other.mean()) < 4 * one.std() * (2 / count) ** 0.5
        assert one.std() == pytest.approx(other.std(), rel=0.06)
    assert len(np.unique(ours[:, 0])) > 50 and len(np.unique(ours[:, 1])) > 70
    for long in ((6, 900), (900, 6)):
        (mine,) = crop_boxes(*long, 1, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        assert mine == list(RandomResizedCrop.get_params(torch.empty(3, *long), AREA, ASPECT))


def test_resized_crops_are_those_parts_at_the_size_of_the_network():
    images, seed = torch.rand(5, 3, 40, 48), 3
    made = augment(images, ("resized_crop",), torch.Generator().manual_seed(seed), 16)
    boxes = crop_boxes(40, 48, 5, torch.Generator().manual_seed(seed))
    for image, (top, left, h, w), one in zip(images, boxes, made, strict=True):
        part = image[:, top : top + h, left : left + w]
        assert torch.allclose(one, F.interpolate(part[None], (16, 16), mode="bilinear", antialias=True)[0], atol=1e-6)
    assert augment(images, ("resized_crop",), torch.Generator().manual_seed(seed)).shape == (5, 3, 48, 48)


@pytest.mark.parametrize("kinds", [("flip",), ("crop4",), ("shift2",)])
def test_a_batch_is_augmented_as_a_whole(kinds):
    """By as many operations as two small images: no loop over images, rows or pixels."""

    def operations(images) -> int:
        with Counted() as counted:
            augment(images, kinds, torch.Generator().manual_seed(0))
        return counted.operations

    assert operations(torch.rand(64, 3, 32, 32)) == operations(torch.rand(2, 1, 12, 12)) > 0


class Counted(TorchDispatchMode):
    """How many operations on tensors are carried out."""

    operations = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.operations += 1
        return operation(*arguments, **(options or {}))


# ---- tiny_imagenet


@pytest.fixture
def tiny_imagenet(tmp_path):
    return write_tiny_imagenet(tmp_path)


@pytest.mark.parametrize("above", [False, True])
def test_tiny_imagenet_splits_and_labels(above, tiny_imagenet):
    data = load_data(
        {"name": "tiny_imagenet", "root": str(tiny_imagenet.parent if above else tiny_imagenet), "image_size": 8}
    )
    assert data.class_names == ("n01", "n02", "n03")
    assert [len(split) for split in (data.train, data.val, data.test)] == [54, 6, 6]
    grey_of = torch.tensor([60, 120, 0])
    for split in (data.train, data.val, data.test):
        assert (split.images.float().mean((1, 2, 3)) - grey_of[split.labels]).abs().max() < 3
    assert data.train.images.shape[1:] == (3, 8, 8)


def test_tiny_imagenet_says_what_is_wrong(tiny_imagenet):
    settings = {"name": "tiny_imagenet", "root": str(tiny_imagenet)}
    with (tiny_imagenet / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_00.JPEG\tn09\t0\n")
    with pytest.raises(UserError, match=r"val_annotations.txt:7: 'n09' is no folder of train/"):
        load_data(settings)
    (tiny_imagenet / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match=rf"val/val_annotations.txt not found. Looked in: {tiny_imagenet}. Unpack http"):
        check_data(settings)
