"""Bytes of exported files, formats x precisions, against weight_bytes and stored_bytes, and the runtimes that ran them.

python tests/benchmarks/sizes.py

Untrained networks, which changes no size; above_promise: (file - graph) / stored_bytes - 1; agreement: top-1 of random images.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

import onnx
from bench import write
from file_sizes import FILES, PRECISIONS, measured, untrained

from qprune.deploy.formats import FORMATS
from qprune.deploy.onnx_file import LEAST_RUNTIME

NETWORKS = {
    "vgg_tiny x 0.5, 8x8": ({"name": "vgg_tiny", "width": 0.5}, 1, 8),
    "resnet20, 32x32": ({"name": "resnet20"}, 3, 32),
    "vgg7 x 0.5, 32x32": ({"name": "vgg7", "width": 0.5}, 3, 32),
}


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, channels, size) in NETWORKS.items():
            for precision in PRECISIONS:
                cell = untrained(model, precision, channels, size)
                for format in (one for one in FILES if FORMATS.get(one).can_hold(cell.spec.precision)):
                    row = {"network": name, **measured(cell, format, Path(folder))}
                    opset = onnx.load(Path(folder) / "file.onnx").opset_import[0].version if format == "onnx" else ""
                    least = f"onnxruntime>={LEAST_RUNTIME[opset]}" if opset else "torch"
                    ran = "onnxruntime" if opset else "torch"
                    rows.append({**row, "opset": opset, "least_runtime": least, "ran": f"{ran}={version(ran)}"})
    write("sizes", rows)


if __name__ == "__main__":
    main()
