"""What is said beside an exported file: `<stem>.json`, of whatever an application has to know, and `<stem>_check.py`.

Files of one stem (a cell as onnx, as pt2 ...) share both; what is true of each alone stands in "files". All but "files" is
also inside the file, as JSON under KEY.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qprune.data import read_picture
from qprune.data.base import names_of_classes
from qprune.data.preprocessing import Preprocessing
from qprune.deploy import check_template
from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import Parity
from qprune.deploy.formats import FORMATS, Format
from qprune.registry.show import printable
from qprune.storage.durable import write_whole

KEY = "qprune.sidecar"  # in the file's own metadata
ROW = (
    "model",
    "data",
    "criterion",
    "method",
    "precision",
    "pruning_ratio",
    "achieved_ratio",
    "seed",
    "sweep",
)  # of a record
METRICS = (
    "accuracy", "val_accuracy", "balanced_accuracy", "val_balanced_accuracy", "least_recall", "val_least_recall",
    "test_loss", "val_loss",
)  # fmt: skip
WRITERS = ("qprune", "torch", "onnx", "onnxruntime", "brevitas", "pillow")


def describe(cell: DeployedCell) -> dict[str, Any]:
    """All that is said of a cell's network, whatever the file; plain JSON."""
    record, spec = cell.record, cell.spec
    return {
        "cell": cell.name,
        "precision": spec.precision,
        **{column: record[column] for column in ROW if column in record},
        "input": _picture_input() if cell.pictures else _input(spec.image_shape),
        "output": {"values": "logits", "shape": ["batch", spec.num_classes], "dtype": "float32"},
        "preprocessing": preprocessing_of(cell).to_json(),
        "class_names": names_of_classes(cell.class_names, spec.num_classes),
        "metrics": {name: record[name] for name in METRICS if record.get(name) is not None},
        "cost": {name: value for name, value in record.get("cost", {}).items() if name != "layers"},
        "stages": {kind: stage["id"] for kind, stage in record.get("stages", {}).items()},
        "network_sha256": record.get("network_sha256"),
        "trained_by": record.get("provenance", {}).get("versions", {}),
        "written_by": _versions(),
    }


def preprocessing_of(cell: DeployedCell) -> Preprocessing:
    """That of its data; where none is said, images are tensors that were given."""
    return cell.preprocessing or Preprocessing("tensors", *cell.spec.image_shape)


def as_text(cell: DeployedCell) -> str:
    """`describe` in one line of ASCII, for a file's metadata."""
    return json.dumps(describe(cell), separators=(",", ":"))


def metadata_of(cell: DeployedCell) -> dict[str, str]:
    """What every file says inside of itself. The classes stand there once more, one a line, as far as they can be printed."""
    classes = "\n".join(printable(str(name)) for name in cell.class_names)
    return {"qprune.cell": printable(cell.name), "qprune.classes": classes, KEY: as_text(cell)}


def write_sidecar(cell: DeployedCell, form: Format, path: Path, parity: Parity) -> Path:
    """Write the description of an exported file beside it, and the check script where the format has a runtime of its own.

    parity: the file's check. What an earlier description says of other files of this stem stays, where it is of the same
    network. Returns the description's path.
    """
    told = json.loads(as_text(cell))
    place, content = sidecar_path(path), path.read_bytes()
    written_by = told.pop("written_by")
    files = _files_of_same(place, told)
    files[path.name] = {
        "format": form.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": told["input"],
        **({"onnxruntime_session": dict([check_template.FULL_RANGE])} if "onnxruntime" in form.packages else {}),
        "written_by": written_by,
        "check": {
            "images": parity.images,
            "accuracy": parity.accuracy,
            "evaluated_accuracy": parity.evaluated_accuracy,
            "agreement": parity.agreement,
            "largest_difference": parity.largest,
        },
    }
    write_whole(place, (json.dumps({**told, "files": files}, indent=1) + "\n").encode())
    if form.name in check_template.RUNTIMES:
        write_whole(script_path(path), check_script().encode())
    return place


def sidecar_path(path: Path) -> Path:
    """Where an exported file's description lies: cell.onnx, cell.qonnx.onnx and cell.pt2 -> cell.json."""
    return path.with_name(f"{_stem(path)}.json")


def script_path(path: Path) -> Path:
    """Where its check script lies: cell.onnx -> cell_check.py."""
    return path.with_name(f"{_stem(path)}_check.py")


def _stem(path: Path) -> str:
    """A file's name without a format's suffix (a cell's own name has dots)."""
    suffixes = sorted((form.load().SUFFIX for form in FORMATS.entries()), key=len, reverse=True)
    found = next((suffix for suffix in suffixes if path.name.endswith(suffix)), "")
    return path.name.removesuffix(found)


def check_script() -> str:
    """The text of a script that reads a description and runs its file, with what decodes pictures written into it."""
    text, decoder = inspect.getsource(check_template), inspect.getsource(read_picture)
    line = next(line for line in text.splitlines() if line.startswith("from qprune."))
    body = decoder[decoder.index("MAX_LENGTH =") :].rstrip()
    return text.replace(f"from PIL import Image\n\n{line}\n", f"from PIL import Image, ImageOps\n\n{body}\n\n")


def _input(shape: tuple[int, int, int]) -> dict[str, Any]:
    return {"shape": ["batch", *shape], "layout": "[batch, c, h, w]", "dtype": "float32", "range": [0, 1]}


def _picture_input() -> dict[str, Any]:
    """Of a file that holds the preprocessing."""
    return {
        "shape": ["batch", "height", "width", 3],
        "layout": "[batch, h, w, c]",
        "dtype": "uint8",
        "range": [0, 255],
        "done_inside": ["resize", "crop", "scale"],
        "left_to_the_caller": ["decode", "orientation", "transparent", "colour"],
    }


def _files_of_same(place: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a description that is there says of files that are there, where it is of this very network."""
    try:
        before = json.loads(place.read_text())
        same = all(before[key] == told[key] for key in told)
        return {name: own for name, own in before["files"].items() if same and place.with_name(name).is_file()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or some other file
        return {}


def _versions() -> dict[str, str]:
    found = {}
    for package in WRITERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # of an extra that the format doesn't need
            continue
    return found
