"""A slice of the zoo: every cell of a few networks that nobody had in mind."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from zoo import OK, PRECISIONS, row_of

from qprune.stages.saved import NetworkSpec


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        pytest.param("resnet18", marks=pytest.mark.long),
        pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.long),
    ],
)
def test_all_cells_are_ok(name):
    spec = NetworkSpec({"name": f"torchvision:{name}"}, 3, 64, 10, (0.45,) * 3, (0.25,) * 3)
    kinds = [f"{precision}{what}" for precision in ("fp32", *PRECISIONS) for what in ("", ", bytes", ", onnx")]
    assert row_of(spec) == dict.fromkeys(["prune", *kinds], OK)
