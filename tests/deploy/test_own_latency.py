"""qprune.measure: a network in memory, or an ONNX file, timed in its runtimes."""

import pytest
import torch
from networks import Plain
from small_training import images_and_labels

import qprune
from qprune.registry.errors import BadInput

TIMES = {"latency_ms", "latency_ms_q1", "latency_ms_q3", "images_per_second"}


def test_a_network_against_another_and_as_a_file(tmp_path):
    torch.manual_seed(0)
    images, labels = images_and_labels(64)
    model = Plain().eval()
    int8 = qprune.quantize(model, images, labels, "int8", updates=2)
    table = qprune.measure(int8, images, against=model, batches=(1, 3), rounds=3)
    assert list(zip(table.runtime, table.batch, strict=True)) == [
        ("torch", 1), ("onnxruntime", 1), ("torch", 3), ("onnxruntime", 3),
    ]  # fmt: skip
    assert (table[[*TIMES, "speedup"]] > 0).all(axis=None) and (table.speedup_q1 <= table.speedup_q3).all()
    assert (table.images_per_second - 1e3 * table.batch / table.latency_ms).abs().max() < 1e-6
    assert table.arithmetic[1].startswith("integer in ")
    qprune.export(model, tmp_path / "model.onnx", images=images)
    (row,) = qprune.measure(tmp_path / "model.onnx", images, rounds=2).to_dict("records")
    assert row["runtime"] == "onnxruntime" and row["arithmetic"] == "FP32" and "speedup" not in row


def test_a_larger_network_takes_longer():
    images, _ = images_and_labels(8)
    small, large = (
        torch.nn.Sequential(torch.nn.Conv2d(1, width, 3), torch.nn.Flatten(), torch.nn.LazyLinear(5))
        for width in (2, 512)
    )
    for one in (small, large):
        one(images.float())
    table = qprune.measure(small, images, against=large, batches=(8,), rounds=5)
    assert (table.speedup > 1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"batches": ()}, "batches"), ({"threads": 0}, "threads"), ({"network": "none.onnx"}, "no file none.onnx")],
)
def test_what_cannot_be_meant(given, message):
    images, _ = images_and_labels(4)
    with pytest.raises(BadInput, match=message):
        qprune.measure(given.pop("network", Plain()), images, **given)
