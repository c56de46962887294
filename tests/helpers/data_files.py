"""Small data sets as files, in the layouts that are read."""

import gzip
import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def write_idx(folder: Path, train: int = 100, test: int = 20, zipped: bool = True, seed: int = 0) -> None:
    """Four small files in the format of MNIST, every class equally often."""
    random = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images = random.randint(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
            path = folder / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            with (gzip.open if zipped else open)(path, "wb") as file:
                file.write(header + values.tobytes())


def write_cifar100(root: Path, monkeypatch) -> np.ndarray:
    """A small CIFAR-100 whose MD5 sums torchvision is told; the training images are returned, [200, 3, 32, 32]."""
    import hashlib

    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.random.RandomState(0).randint(0, 256, (200, 3072), np.uint8)
    contents = {
        "train": {"data": pixels, "fine_labels": [i % 100 for i in range(200)]},
        "test": {"data": pixels[:100], "fine_labels": list(range(100))},
        "meta": {"fine_label_names": [f"class {i}" for i in range(100)]},
    }
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return pixels.reshape(200, 3, 32, 32)


def write_picture(path: Path, size: tuple[int, int] = (20, 20), mode: str = "RGB", colour=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else ("red" if mode == "RGB" else 100)).save(path)


def write_class_folders(root: Path, count: int, colours=(("cat", 10), ("dog", 200))) -> None:
    """Grey pictures whose tone tells class and number."""
    for name, tone in colours:
        for i in range(count):
            write_picture(root / name / f"{i:02d}.png", (16, 12), "L", tone + i)
