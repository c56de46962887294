"""What a cell was made from has changed since: it is refused, whatever shape the change has, and never handed over as the cell."""

import sys

import pytest
from tiny_sweep import SMALL, run_inline, tiny_config

import qprune
from qprune.deploy.cells import open_cell
from qprune.deploy.commands import export_command
from qprune.registry.errors import UserError
from qprune.storage.correctness import classes_of, pack_classes
from qprune.storage.durable import write_whole
from qprune.storage.results import read_cells, record_file
from qprune.storage.seal import read_sealed_json, sealed_json

NETWORK = """
from torch import nn


def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(1), nn.Linear(32, num_classes)
    )
"""
TRUST = ("changing:build",)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """(folder of a sweep of a network of the user's own, its cells, the file of its code)."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "changing", raising=False)
    code = tmp_path / "changing.py"
    code.write_text(NETWORK)
    config = tiny_config(tmp_path, *SMALL, "precisions=[fp32,int8]", "prune.ratios=[0.5]", "model=changing:build")
    done, _, text = run_inline(config, tmp_path / "results")
    assert done == 0, text
    folder = tmp_path / "results" / "tiny"
    return folder, list(read_cells(folder).cell), code


@pytest.mark.parametrize("was, now", [
    ("nn.ReLU()", "nn.LeakyReLU(0.5)"),  # the weights still fit
    ("nn.BatchNorm2d(8)", "nn.Identity()"),  # they don't
], ids=["in its numbers", "in its layers"])  # fmt: skip
def test_another_network_than_the_one_that_was_trained(trained, was, now):
    folder, cells, code = trained
    for cell in cells:
        qprune.load_network(folder, cell, trust=TRUST)
    code.write_text(NETWORK.replace(was, now))
    for cell in cells:
        told = rf"{cell}.json: the code of model changing:build has changed since this network was trained"
        for ask in (open_cell, qprune.load_network, lambda *given, trust: export_command(*given, "onnx", trust=trust)):
            with pytest.raises(UserError, match=told):
                ask(folder, cell, trust=TRUST)
    code.write_text(NETWORK)
    open_cell(folder, cells[0], trust=TRUST)


def test_other_answers_than_those_that_were_recorded(trained, capsys):
    """Whatever made them others: exit code 4, and no file under the cell's name."""
    folder, (cell, *_), _ = trained
    assert export_command(folder, cell, "onnx", trust=TRUST) == 0
    path = record_file(folder, cell)
    record = read_sealed_json(path)
    labels, predicted = classes_of(record["test"])
    predicted[: len(predicted) // 50] = (predicted[: len(predicted) // 50] + 1) % 10
    record["test"] |= {"labels": pack_classes(labels), "predicted": pack_classes(predicted)}
    write_whole(path, sealed_json({key: value for key, value in record.items() if key != "sha256"}))
    assert export_command(folder, cell, "onnx", trust=TRUST) == 4
    assert "here the network answers 98." in capsys.readouterr().out
    assert (folder / "exports" / f"{cell}.onnx.unverified").is_file()
