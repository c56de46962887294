"""An independent count: qonnx's inference_cost on the exported network equals qprune's bit operations exactly."""

import pytest
import torch
from networks import Depthwise, Plain, Residual, batch, make, small, warm_up
from qonnx_cost import total_cost

from qprune.precision import get_precision

pytest.importorskip("onnxoptimizer")
pytest.importorskip("qonnx")


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
@pytest.mark.parametrize(
    "name, first_last", [("w4a4", 8), ("w8a8", 8), ("w2a5", None), ("mixed2.5", 8), ("mixed3.5", None)]
)
def test_bit_operations(kind, name, first_last, tmp_path):
    network, images, _ = small(kind)
    theirs, ours = total_cost(network, name, images, tmp_path, first_last_bits=first_last)
    assert theirs["total_bops"] == ours.bops == pytest.approx(ours.gbops * 1e9, rel=1e-15)
    assert theirs["total_macs"] == ours.macs
    assert theirs["total_mem_w_bits"] == sum(layer.weight_elements * layer.w_bits for layer in ours.layers)


@pytest.mark.parametrize(
    "model, name",
    [
        ("vgg_tiny", "w4a4"),
        ("vgg_tiny", "w8a8"),
        ("resnet20", "w4a4"),
        pytest.param("resnet18", "w8a8", marks=pytest.mark.long),
    ],
)
def test_bit_operations_of_whole_networks(model, name, tmp_path):
    images, labels = batch(4)
    theirs, ours = total_cost(warm_up(make(model), images, labels, steps=1), name, images, tmp_path)
    assert theirs["total_bops"] == ours.bops == pytest.approx(ours.gbops * 1e9, rel=1e-15)
    assert theirs["total_macs"] == ours.macs


def test_exported_network_gives_the_same_outputs(tmp_path):
    """As QCDQ in ONNX Runtime, which knows standard operators only; what may differ is the rounding of ties."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from brevitas.export import export_onnx_qcdq

    network, images, _ = small(Residual)
    precision = get_precision("w4a4")
    finished = precision.finish(precision.prepare(network, images))
    path = str(tmp_path / "network.onnx")
    export_onnx_qcdq(finished, args=images, export_path=path, dynamo=False)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = finished(images)
    assert torch.allclose(torch.tensor(found), expected, atol=1e-3)
