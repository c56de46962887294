"""Classifies pictures by the exported network beside this script, which reads STEM.json there as STEM_check.py.

It needs NumPy, Pillow, and onnxruntime for a .onnx file or torch for a .pt2 file; no qprune.

    python STEM_check.py a.jpg b.jpg                       the likeliest classes of each picture
    python STEM_check.py --list files.csv --root FOLDER    the accuracy on the test pictures of a list, as it is
                                                           written by `qprune data FILE --csv files.csv`; exit code 1
                                                           where it is another than the record's
"""

import argparse
import csv
import hashlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from qprune.data.read_picture import Refused, as_rgb, read_picture

BATCH = 64
CLOSE = 0.01  # accuracies; another processor's kernels, or another Pillow's pixels, may move some answers
RUNTIMES = {"onnx": "onnxruntime", "pt2": "torch"}
FULL_RANGE = ("session.x64quantprecision", "1")  # else sums of 8-bit products saturate on x86 processors without VNNI
KNOWN: dict[str, list | None] = {  # key of the preprocessing -> what this script can do; None: any number or text
    "version": [1],
    "kind": ["pictures", "arrays", "function", "tensors"],
    "decode": ["the first frame at 8 bits a channel, the upper 8 of 16", "none"],
    "orientation": ["turned as EXIF says"],
    "transparent": ["laid on white"],
    "colour": ["RGB; CMYK without a colour profile; grey as three equal channels"],
    "resize": ["shorter_side", "squash", "none"],
    "resize_to": None,
    "filter": ["bilinear", "bicubic", "lanczos", "hamming", "box", "area", "nearest"],
    "antialias": [True, False],
    "crop": ["centre"],
    "image_size": None,
    "channels": None,
    "height": None,
    "width": None,
    "scale": ["divided by 255"],
    "range": [[0, 1]],
    "layout": ["[batch, c, h, w]"],
    "dtype": ["float32"],
    "normalisation": ["inside the network"],
    "note": None,
}


def pixels_of(path, how, whole):
    """uint8 [h, w, c] of a picture file; whole: as large as it is, for a network that resizes by itself."""
    if whole:
        with Image.open(path) as picture:
            picture.load()
            return np.asarray(as_rgb(picture))
    if how["kind"] == "pictures":
        return read_picture(
            path, **{key: how[key] for key in ("image_size", "resize", "resize_to", "filter", "antialias")}
        )
    with Image.open(path) as picture:
        (w, h), mode = (how["width"], how["height"]), {1: "L", 3: "RGB"}.get(how["channels"])
        if picture.size != (w, h) or picture.mode != mode:
            wanted = f"a picture {mode} of {w}x{h}" if mode else f"no picture but {how['channels']} channels of {w}x{h}"
            raise Refused(
                f"is {picture.mode} of {picture.width}x{picture.height}; the network takes {wanted}, as it is"
            )
        return np.asarray(picture).reshape(h, w, how["channels"])


def load(path, format):
    """The exported file in its runtime, as a function of an array that gives logits [batch, classes]."""
    if format == "pt2":
        import torch

        network = torch.export.load(path).module()
        return lambda images: network(torch.from_numpy(images)).detach().numpy()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*FULL_RANGE)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def logits_of(paths, run, how, whole):
    """Logits [n, classes] of picture files."""
    found, step = [], 1 if whole else BATCH
    for start in range(0, len(paths), step):
        try:
            images = [pixels_of(path := part, how, whole) for part in paths[start : start + step]]
        except Refused as error:
            sys.exit(f"{path} {error}")
        except Exception as error:  # Pillow's readers let through whatever a damaged file makes them stumble on
            sys.exit(f"{path} can't be decoded ({error})")
        batch = np.stack(images)
        found.append(run(batch if whole else np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / 255))
    return np.concatenate(found)


def chosen_file(told, folder, wanted):
    """(path, what is said of it) of the exported file that is run."""
    able = [name for name, own in told["files"].items() if own["format"] in RUNTIMES and (folder / name).is_file()]
    ready = [name for name in able if find_spec(RUNTIMES[told["files"][name]["format"]])]
    name = wanted or next(iter(ready or able), None)
    if name not in able:
        sys.exit(
            f"{wanted or 'an exported file'} isn't among those that this script can run: {able or 'none is there'}"
        )
    path = folder / name
    if hashlib.sha256(path.read_bytes()).hexdigest() != told["files"][name]["sha256"]:
        sys.exit(f"{path} isn't the file that its description was written for: export it again")
    return path, told["files"][name]


def read_list(path, told):
    """[(file, label)] of the test pictures of a list."""
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    except (OSError, KeyError, csv.Error) as error:
        sys.exit(f"{path} can't be read as a list of `qprune data FILE --csv` ({error})")
    rows = [row for row in rows if row.get("data") in (None, told.get("data"))]
    for row in rows:
        if dict(enumerate(told["class_names"])).get(int(row["label"])) != row["class"]:
            sys.exit(f"{path}: class {row['label']} is {row['class']!r} there, and another one in the network")
    if not rows:
        sys.exit(f"{path} lists no test picture of the network's data")
    return [(row["file"], int(row["label"])) for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path, help="picture files")
    parser.add_argument(
        "--list", type=Path, help="the CSV of `qprune data FILE --csv`, whose test pictures are classified"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the folder that the list's files are in")
    parser.add_argument("--out", type=Path, help="write file, label and predicted class of each there, as CSV")
    parser.add_argument("--file", help="which exported file is run, where several lie here")
    given = parser.parse_args()
    here = Path(__file__)
    told = json.loads(here.with_name(here.name.removesuffix("_check.py") + ".json").read_text())
    path, own = chosen_file(told, here.parent, given.file)
    how, names, whole = told["preprocessing"], told["class_names"], own["input"]["dtype"] == "uint8"
    for key, value in how.items():
        able = KNOWN.get(key, [])
        if able is not None and value not in able:
            sys.exit(f"{key}: {value!r} is a preprocessing that this script doesn't know: take the one of that version")
    listed = read_list(given.list, told) if given.list else []
    files = [given.root / name for name, _ in listed] or given.pictures
    if not files:
        parser.error("name pictures, or --list")
    logits = logits_of(files, load(path, own["format"]), how, whole)
    predicted = logits.argmax(1)
    if not listed:
        for file, row in zip(files, np.exp(logits - logits.max(1, keepdims=True)), strict=True):
            best = [(names[i], row[i] / row.sum()) for i in np.argsort(-row, kind="stable")[:3]]
            print(f"{file}: {', '.join(f'{name!r} {100 * share:.1f}%' for name, share in best)}")
        return
    labels = np.array([label for _, label in listed])
    recorded = told["metrics"].get("accuracy")
    said = "" if recorded is None else f"; the record says {100 * recorded:.2f}%"
    print(f"{path.name}: accuracy {100 * (predicted == labels).mean():.2f}% on {len(files)} test pictures{said}")
    tested_by = own["written_by"].get("pillow")
    if how["kind"] == "pictures" and tested_by not in (None, PIL.__version__):
        print(f"note: Pillow is {PIL.__version__} here and was {tested_by} there; their pixels can differ by a level")
    if given.out:
        with open(given.out, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [(*row, guess) for row, guess in zip(listed, predicted, strict=True)]
            csv.writer(file).writerows([("file", "label", "predicted"), *rows])
    if recorded is not None and abs((predicted == labels).mean() - recorded) > CLOSE:
        sys.exit(f"{path.name}: the accuracy is not that of the record")


if __name__ == "__main__":
    main()
