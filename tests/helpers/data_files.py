"""Small data sets as files, in the layouts that are read."""

import gzip
import pickle
import zlib
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


def write_cifar(root: Path, monkeypatch, classes: int) -> np.ndarray:
    """A small CIFAR-10 or -100 whose MD5 sums torchvision is told; the training images are returned, [200, 3, 32, 32]."""
    import hashlib

    from torchvision import datasets

    dataset = getattr(datasets, f"CIFAR{classes}")
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.RandomState(0).randint(0, 256, (200, 3072), np.uint8)
    key, names = ("labels", "label_names") if classes == 10 else ("fine_labels", "fine_label_names")
    parts = np.split(np.arange(200), len(dataset.train_list))
    contents = {
        file: {"data": pixels[part], key: [int(i) % classes for i in part]}
        for (file, _), part in zip(dataset.train_list, parts, strict=True)
    }
    contents |= {file: {"data": pixels[:100], key: [i % classes for i in range(100)]} for file, _ in dataset.test_list}
    contents[dataset.meta["filename"]] = {names: [f"class {i}" for i in range(classes)]}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, files, [[name, sums[name]] for name, _ in getattr(dataset, files)])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": sums[dataset.meta["filename"]]})
    return pixels.reshape(200, 3, 32, 32)


def write_picture(path: Path, size: tuple[int, int] = (20, 20), mode: str = "RGB", colour=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else ("red" if mode == "RGB" else 100)).save(path)


def write_deep_png(file: Path, grey: np.ndarray) -> None:
    """A colour PNG of 16 bits a channel, which Pillow can read but not write."""
    rows = np.repeat(grey[:, :, None], 3, 2).astype(">u2")
    chunks = {
        b"IHDR": b"".join(n.to_bytes(4, "big") for n in rows.shape[1::-1]) + bytes((16, 2, 0, 0, 0)),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    parts = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks.items()]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_class_folders(root: Path, count: int, colours=(("cat", 10), ("dog", 200))) -> None:
    """Grey pictures whose tone tells class and number."""
    for name, tone in colours:
        for i in range(count):
            write_picture(root / name / f"{i:02d}.png", (16, 12), "L", tone + i)


def write_flowers(root: Path) -> Path:
    """Three training, two validation and 25 test pictures of Flowers-102; picture n, of class n - 1, is of the grey 8 n."""
    from scipy.io import savemat

    folder = root / "flowers-102"
    for number in range(1, 31):
        write_picture(folder / "jpg" / f"image_{number:05d}.jpg", (30, 20), "L", number * 8)
    savemat(folder / "imagelabels.mat", {"labels": np.arange(1, 31)})
    savemat(folder / "setid.mat", {"trnid": [3, 1, 2], "valid": [5, 4], "tstid": list(range(6, 31))})
    return folder


def write_tiny_imagenet(root: Path) -> Path:
    """Three classes of 20 training pictures, 6 test pictures; class k is of the grey 60 k."""
    folder = root / "tiny-imagenet-200"
    lines = []
    for label, name in enumerate(("n03", "n01", "n02")):
        for number in range(20):
            write_picture(
                folder / "train" / name / "images" / f"{name}_{number}.JPEG", (12, 12), "RGB", (60 * label,) * 3
            )
        for number in range(2):
            write_picture(folder / "val" / "images" / f"val_{label}{number}.JPEG", (12, 12), "RGB", (60 * label,) * 3)
            lines.append(f"val_{label}{number}.JPEG\t{name}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def write_data_set(name: str, folder: Path, monkeypatch) -> dict:
    """Small files of a registered data set, in a folder; the settings with which they are read."""
    if name == "digits":
        return {}
    writers = {
        "mnist": lambda: write_idx(folder),
        "fashion_mnist": lambda: write_idx(folder),
        "cifar10": lambda: write_cifar(folder, monkeypatch, 10),
        "cifar100": lambda: write_cifar(folder, monkeypatch, 100),
        "flowers102": lambda: write_flowers(folder),
        "tiny_imagenet": lambda: write_tiny_imagenet(folder),
        "imagefolder": lambda: write_class_folders(folder, 20),
    }
    writers[name]()
    return {"root": str(folder)}
