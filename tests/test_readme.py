"""What the README shows runs as it stands."""

import re
from pathlib import Path

import torch
from torch import nn

import qprune
from qprune.data import load_data

README = Path(__file__).parent.parent / "README.md"


def test_library_snippet_runs():
    snippet = re.search(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", README.read_text(), re.S)[1]
    data = load_data({"name": "digits", "subset": 200})
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
    names = {"qprune": qprune, "model": model, "images": data.train.images, "labels": data.train.labels}
    exec(snippet, names)
    assert names["smaller"].get_submodule("2").out_channels < 8
    assert names["int4"](data.test.images[:3].float() / 255).shape == (3, 10)
    assert {name: len(scores) for name, scores in names["scores"].items()} == {"0": 8, "2": 8}
    assert isinstance(model[0], nn.Conv2d) and model[0].out_channels == 8  # the user's model is unchanged
