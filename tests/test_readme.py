"""What the README shows runs as it stands."""

import re
from pathlib import Path

import torch
from torch import nn

import qprune
from qprune.data import load_data

README = Path(__file__).parent.parent / "README.md"
PACKAGE = Path(qprune.__file__).parent


def test_library_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes a file
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
    assert names["exported"].parity.holds and (tmp_path / "model_check.py").is_file()
    assert isinstance(model[0], nn.Conv2d) and model[0].out_channels == 8  # the user's model is unchanged


def test_the_map_names_what_is_there():
    """qprune/README.md: every room, and every file, test and name that it leads to."""
    text = (PACKAGE / "README.md").read_text()
    rooms = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|", text, re.M)
    there = [path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    assert sorted(rooms) == sorted(set(there) - {"__init__", "__main__", "__pycache__"})
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (PACKAGE.parent / file).is_file(), file
        assert not name or f"def {name}(" in (PACKAGE.parent / file).read_text(), name
    for registry, file in re.findall(r"`([A-Z_]+)`, `([\w/]+\.py)`", text):
        assert f"\n{registry} = " in (PACKAGE / file).read_text(), registry


def test_every_link_leads_somewhere():
    """Of a clean checkout too: results/ is ignored, and its tables are added by hand."""
    for page in (README, *(README.parent / room / "README.md" for room in ("results", "sweeps", "qprune"))):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"
