"""A results folder that names code of whoever sent it: no reader imports it, and a cell that needs none can be used."""

import io
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_sweep import make_sweep
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_sweep import Inline, run_inline, tiny_config, write_tiny
from typer.testing import CliRunner

import qprune
from qprune.cli import app
from qprune.deploy import load_torch
from qprune.deploy.cells import open_cell
from qprune.ranking.run import run_rank
from qprune.registry.errors import UserError
from qprune.settings.config import config_as_dict
from qprune.stages.saved import NetworkSpec
from qprune.storage.results import read_record, read_sweep_file, record_file
from qprune.storage.seal import read_sealed_json, sealed_json
from qprune.storage.sealed_table import read_table, sealed_table

CELL = "vgg_tiny-digits-taylor-int4-r0.50-s0"
EVIL = "evil:build"
NAMES = {"name", "data", "model", "criterion", "precision", "method", "order", "quantization", "pretrain"}
PUBLISHED = Path(__file__).parents[1] / "results/published/cifar10.csv"
EVIL_MODULE = """\
from pathlib import Path

Path(__file__).with_name("harm").touch()


def build(**options):
    return None
"""


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of the finished sweep's results, beside a module `evil` that leaves a file `harm` as it is imported."""
    shutil.copytree(finished / "results", tmp_path / "results")
    (tmp_path / "evil.py").write_text(EVIL_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield tmp_path / "results/tiny"
    sys.modules.pop("evil", None)


def reseal(path: Path, change) -> None:
    path.write_bytes(sealed_json(change(read_sealed_json(path))))


def name_evil(value, named: bool = False):
    """JSON in which whatever a name can stand for, a data set or a precision, is the evil module's."""
    if isinstance(value, dict):
        return {key: name_evil(item, key in NAMES) for key, item in value.items()}
    if isinstance(value, list):
        return [name_evil(item, named) for item in value]
    return EVIL if named and isinstance(value, str) else value


def plant_in_sweep_file(folder: Path) -> None:
    def change(written: dict) -> dict:
        settings = name_evil(written["settings"]) | {"pretrain": {"data": {"name": EVIL}, "updates": 5}}
        settings["prune"]["criterion"] = [{"name": EVIL}]
        settings["precisions"] = [EVIL]
        text = f"name: tiny\ndata: {EVIL}\nmodel: {EVIL}\n"
        return written | {"settings": settings, "file": written["file"] | {"text": text, "set": [f"model={EVIL}"]}}

    reseal(folder / "sweep.json", change)
    assert json.dumps(read_sweep_file(folder)).count(EVIL) > 8


def plant_everywhere(folder: Path) -> None:
    """In sweep.json, in all records and stages, and in the table, where a name says evil:<what it was>."""
    plant_in_sweep_file(folder)
    for path in (*folder.glob("cells/*.json"), *folder.parent.glob("stages/*/stage.json")):
        cell = read_sealed_json(path).get("cell")
        reseal(path, lambda values, cell=cell: name_evil(values) | ({"cell": cell} if cell else {}))
    table = read_table(folder / "cells.csv", "")
    for column in NAMES & set(table.columns) - {"pretrain"}:
        table[column] = "evil:" + table[column].astype(str)
    (folder / "cells.csv").write_bytes(sealed_table(table.to_csv(index=False)))


def run(*arguments) -> int:
    """The command's exit code, 2 where it refuses what it reads."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, (SystemExit, UserError)):
        raise result.exception
    return 2 if isinstance(result.exception, UserError) else result.exit_code


def face(use) -> int:
    try:
        use()
    except UserError:
        return 2
    return 0


def other(folder: Path) -> Path:
    return make_sweep(folder.parents[1] / "other", ratios=(0.0, 0.5), seeds=(0,))


READERS = {
    "status": lambda folder: run("status", folder),
    "report": lambda folder: run("report", folder, "--answers"),
    "pick": lambda folder: run("pick", folder, "--max", "weight_bytes=1e9"),
    "compare": lambda folder: run("compare", folder, other(folder), "--answers"),
    "compare --published": lambda folder: run("compare", folder, "--published", PUBLISHED),
    "export": lambda folder: run("export", folder, CELL, "--format", "torch"),
    "bench": lambda folder: run("bench", folder, CELL, "--rounds", 1, "--batch", 1),
    "plan": lambda folder: run("plan", write_tiny(folder.parents[1]), "--out", folder.parent),
    "sweep": lambda folder: run_inline(tiny_config(folder.parents[1]), folder.parent)[0],
    "load": lambda folder: face(lambda: (qprune.load(folder).front(), qprune.load(folder).figure())),
    "load_network": lambda folder: face(lambda: qprune.load_network(folder, CELL)),
}
LEFT = {"export", "bench", "load_network"}  # what needs a network, and so refuses one that is of another's code


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_imports_what_the_sweep_file_names(folder, reader):
    plant_in_sweep_file(folder)
    assert READERS[reader](folder) == 0
    assert not Path("harm").exists()
    if reader == "sweep":
        assert read_sweep_file(folder)["settings"] == config_as_dict(tiny_config(folder.parents[1]))


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_imports_what_records_stages_and_tables_name(folder, reader):
    plant_everywhere(folder)
    assert READERS[reader](folder) == (2 if reader in LEFT else 0)
    assert not Path("harm").exists()


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_record_that_names_code_is_refused_unless_it_is_trusted(folder, key):
    def change(record: dict) -> dict:
        return record | (
            {"data_settings": {"name": EVIL}}
            if key == "data"
            else {"network": record["network"] | {"model": {"name": EVIL}}}
        )

    reseal(record_file(folder, CELL), change)
    for command in (["export", folder, CELL, "--format", "torch"], ["bench", folder, CELL]):
        result = CliRunner().invoke(app, [*map(str, command)])
        assert isinstance(result.exception, UserError) and f"--trust {EVIL}" in str(result.exception)
    with pytest.raises(UserError, match=f"names {EVIL}, code that using it would run"):
        open_cell(folder, CELL)
    assert not Path("harm").exists() and not (folder / "exports").exists()
    with pytest.raises(UserError, match="returned a NoneType"):
        open_cell(folder, CELL, trust=[EVIL])
    assert Path("harm").exists()  # else none of these tests would show anything


@pytest.mark.parametrize("column", ["criterion", "method", "precision", "quantization", "model", "data"])
def test_the_columns_of_a_record_are_words(folder, column):
    """What is run is in `network` and `data_settings`; a column that names code leads nowhere."""
    reseal(record_file(folder, CELL), lambda record: record | {column: EVIL})
    assert READERS["export"](folder) == (2 if column == "precision" else 0)  # no such precision
    assert not Path("harm").exists()


def test_an_exported_file_that_names_code_is_refused_unless_it_is_trusted(folder):
    spec = read_record(folder, CELL)["network"]
    save_file({}, "planted.safetensors", {"qprune.network": json.dumps(spec | {"model": {"name": EVIL}})})
    with pytest.raises(UserError, match=f"planted.safetensors names {EVIL}, code that using it would run"):
        load_torch("planted.safetensors")
    assert not Path("harm").exists()
    assert READERS["export"](folder) == 0
    with safe_open(folder / "exports" / f"{CELL}.safetensors", "pt") as file:
        assert json.loads(file.metadata()["qprune.network"])["model"]["name"] == "vgg_tiny"


def test_torchvisions_networks_need_no_trust(folder):
    """They are the package's as vgg_tiny is. A data set of such a name is a function of that module."""
    name = "torchvision:squeezenet1_1"
    values = read_record(folder, CELL)["network"] | {"model": {"name": name}}
    assert NetworkSpec.from_json(values, (), "a record").model == {"name": name}
    reseal(record_file(folder, CELL), lambda record: record | {"data_settings": {"name": name}})
    with pytest.raises(UserError, match=f"names {name}, code that using it would run"):
        open_cell(folder, CELL)


def test_the_rankings_page_imports_nothing(folder):
    overrides = ("seeds=0", "rank={criteria: taylor, oracle_images: 8, images: 32, shares: 0.5, finetune_updates: 1}")
    config = tiny_config(folder.parents[1], *overrides)

    def rank() -> int:
        return run_rank(config, folder.parent, lambda stages, store: Inline(store), Console(file=io.StringIO()))

    assert rank() == 0
    plant_everywhere(folder)
    page = folder / "rank/rank.html"
    page.unlink()
    assert rank() == 0 and page.is_file()
    assert not Path("harm").exists()


def test_the_table_that_is_planted_is_read(folder):
    """plant_everywhere leaves a folder that its readers take for a sweep's, or its tests would show nothing."""
    plant_everywhere(folder)
    cells = qprune.load(folder).cells
    assert set(cells.precision) == {"evil:fp32", "evil:fp16", "evil:int8", "evil:int4"} and len(cells) == 16
    assert isinstance(cells, pd.DataFrame) and set(cells.model) == {"evil:vgg_tiny"}
