"""What lies beside an exported file: its description and a script that runs it without qprune, pixel by pixel as evaluated."""

import csv
import hashlib
import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bare import link, run_bare
from photos import CLASSES, write_photos
from rich.console import Console
from tiny_sweep import run_inline, tiny_config

from qprune.data import list_files
from qprune.data.pictures import decode_pictures
from qprune.data.preprocessing import FILTERS, RESIZES, Preprocessing, as_preprocess
from qprune.deploy import check_template, kit_bench
from qprune.deploy.commands import export_command
from qprune.deploy.sidecar import KEY, check_script, script_path, sidecar_path
from qprune.registry.errors import UserError
from qprune.storage.correctness import classes_of
from qprune.storage.results import read_record
from qprune.sweep.data_files import show_data

FAST = ("seeds=0", "precisions=[fp32,int8,int4]", "train.updates=150", "finetune={updates: 10}", "prune.ratios=[0]")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of photographs."""
    root = tmp_path_factory.mktemp("photos") / "pictures"
    write_photos(root, 96)
    return root


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return link(tmp_path_factory.mktemp("bare") / "packages", "numpy", "pillow", "onnxruntime")


@pytest.fixture(scope="module")
def swept(photos, tmp_path_factory):
    """A finished sweep over the photographs, squashed by another filter than the default; the list of its files; its exports."""
    folder = tmp_path_factory.mktemp("swept")
    preprocess = "{resize: squash, filter: bicubic}"
    data = f"data={{name: imagefolder, root: {photos}, image_size: 16, preprocess: {preprocess}, augment: none}}"
    config = tiny_config(folder, data, *FAST)
    code, _, text = run_inline(config, folder / "results")
    assert code == 0, text
    show_data(config, folder / "files.csv", None, Console(quiet=True))
    results = folder / "results" / "tiny"
    for file in sorted((results / "cells").glob("*-prune*.json")) or sorted((results / "cells").glob("*taylor*.json")):
        assert export_command(results, file.stem, "onnx") == 0
    return results


def cell_of(results: Path, precision: str) -> str:
    (file,) = (results / "exports").glob(f"*-{precision}-*.onnx")
    return file.stem


# ---- the script


def test_its_pixels_are_those_that_were_evaluated(photos, packages, tmp_path):
    """Every form of picture, each way to resize, every filter, in an environment without qprune."""
    files = sorted(file for folder in photos.iterdir() for file in list(sorted(folder.iterdir()))[:17])
    options = [{"resize": r, "filter": f} for r, f in product(RESIZES, FILTERS)] + [
        {"antialias": False},
        {"resize_to": 24},
    ]
    ways = [
        Preprocessing.of_pictures(size, as_preprocess(one)) for one in options for size in (16, 21)[: 1 + len(one) % 2]
    ]
    (tmp_path / "cell_check.py").write_text(check_script())
    (tmp_path / "ways.json").write_text(json.dumps([way.to_json() for way in ways]))
    (tmp_path / "files.json").write_text(json.dumps([str(file) for file in files]))
    run = (
        "import sys, json, numpy; sys.path.insert(0, '.'); import cell_check as c; d = lambda n: json.load(open(n))\n"
        "found = [[c.pixels_of(f, way, False) for f in d('files.json')] for way in d('ways.json')]\n"
        "numpy.savez('found.npz', *map(numpy.stack, found)); assert 'qprune' not in sys.modules"
    )
    (tmp_path / "run.py").write_text(f"import os; os.chdir({str(tmp_path)!r})\n{run}")
    done = run_bare(packages, tmp_path / "run.py")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert len(found.files) == len(ways) > 16 and len(files) == 51
    for name, way in zip(found.files, ways, strict=True):
        assert np.array_equal(found[name].transpose(0, 3, 1, 2), decode_pictures(files, way)), way


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_it_repeats_the_record_from_the_original_files(swept, photos, packages, tmp_path, precision):
    """Image by image in FP32: the acceptance of the feature."""
    cell = cell_of(swept, precision)
    script, record = swept / "exports" / f"{cell}_check.py", read_record(swept, cell)
    arguments = ("--list", swept.parents[1] / "files.csv", "--root", photos, "--out", tmp_path / "predicted.csv")
    done = run_bare(packages, script, *arguments)
    assert done.returncode == 0, done.stderr
    share = f"{100 * record['accuracy']:.2f}%"
    assert (
        done.stdout == f"{cell}.onnx: accuracy {share} on 58 test pictures; the record says {share}\n"
        or precision != "fp32"
    )
    rows = list(csv.DictReader((tmp_path / "predicted.csv").open()))
    labels, predicted = classes_of(record["test"])
    assert [int(row["label"]) for row in rows] == labels.tolist() and len(rows) == 58 and record["accuracy"] > 0.6
    differ = sum(int(row["predicted"]) != evaluated for row, evaluated in zip(rows, predicted, strict=True))
    assert differ <= (0 if precision == "fp32" else 1)
    assert [row["file"] for row in rows] == [
        file.relative_to(photos).as_posix() for file in list_files(record["data_settings"]).parts["test"][0]
    ]


def test_it_names_the_likeliest_classes_of_pictures(swept, photos, packages):
    script = swept / "exports" / f"{cell_of(swept, 'fp32')}_check.py"
    files = [photos / name / "001_turned_2.jpg" for name in CLASSES]
    done = run_bare(packages, script, *files)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{file}: '") for file, line in zip(files, lines, strict=True))
    assert all(name in line for line in lines for name in CLASSES) and lines[0].count("%") == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda told: told["preprocessing"].update(filter="gaussian"),
            "filter: 'gaussian' is a preprocessing that this script",
        ),
        (lambda told: told["preprocessing"].update(blur=3), "blur: 3 is a preprocessing"),
        (lambda told: told["preprocessing"].update(orientation="ignored"), "orientation: 'ignored'"),
        (lambda told: told["class_names"].reverse(), "class 2 is 'Querstreifen ä' there, and another one|class 0 is"),
        (lambda told: next(iter(told["files"].values())).update(sha256="0"), "isn't the file that its description"),
        (lambda told: told["files"].clear(), "an exported file isn't among those .* none is there"),
        (lambda told: told.update(data="cats"), "accuracy"),
    ],
)
def test_it_refuses_what_it_was_not_made_for(swept, photos, packages, tmp_path, change, message, monkeypatch, capsys):
    cell = cell_of(swept, "fp32")
    for name in (f"{cell}.onnx", f"{cell}.json", f"{cell}_check.py"):
        shutil.copy(swept / "exports" / name, tmp_path / name)
    told = json.loads((tmp_path / f"{cell}.json").read_text())
    change(told)
    (tmp_path / f"{cell}.json").write_text(json.dumps(told))
    monkeypatch.setattr(check_template, "__file__", str(tmp_path / f"{cell}_check.py"))
    monkeypatch.setattr("sys.argv", ["check", "--list", str(swept.parents[1] / "files.csv"), "--root", str(photos)])
    try:
        check_template.main()
    except SystemExit as ended:
        assert isinstance(ended.code, str)
        import re

        assert re.search(message, ended.code)
    else:
        assert "accuracy" in message and "accuracy" in capsys.readouterr().out


def test_the_scripts_ask_for_the_same_sums():
    """Each stands alone, so each says it."""
    assert check_template.FULL_RANGE == kit_bench.FULL_RANGE


def test_its_text_is_whole_and_short():
    text = check_script()
    compile(text, "cell_check.py", "exec")
    assert "from qprune" not in text and "import qprune" not in text
    assert len(text.splitlines()) < 280 and max(map(len, text.splitlines())) <= 120


def test_it_knows_every_preprocessing_that_is_described():
    ways = [
        Preprocessing.of_pictures(16, as_preprocess({"resize": r, "filter": f})) for r, f in product(RESIZES, FILTERS)
    ]
    ways += [Preprocessing(kind, 1, 8, 8) for kind in ("arrays", "function", "tensors")]
    for told in (way.to_json() for way in ways):
        for key, value in told.items():
            able = check_template.KNOWN[key]
            assert able is None or value in able, (key, value)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_file_with_the_preprocessing_inside_takes_pictures_of_any_size(
    swept, photos, packages, tmp_path, precision, capsys
):
    cell = cell_of(swept, precision)
    assert export_command(swept, cell, "onnx", tmp_path / "cell.onnx", embed_preprocessing=True) == 0
    assert "58 test images" in capsys.readouterr().out
    told = json.loads((tmp_path / "cell.json").read_text())
    own = told["files"]["cell.onnx"]
    assert own["input"]["dtype"] == "uint8" and own["input"]["shape"] == ["batch", "height", "width", 3]
    assert own["check"]["agreement"] >= 0.99 and told["preprocessing"]["filter"] == "bicubic"
    (given,) = onnx.load(tmp_path / "cell.onnx").graph.input
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", "height", "width", 3]
    if precision == "int8":
        list_file = swept.parents[1] / "files.csv"
        done = run_bare(packages, tmp_path / "cell_check.py", "--list", list_file, "--root", photos)
        accuracy = f"{100 * own['check']['accuracy']:.2f}%"
        assert f"cell.onnx: accuracy {accuracy} on 58 test pictures" in done.stdout, done.stderr


# ---- the description


def test_the_description_says_what_an_application_has_to_know(swept):
    cell = cell_of(swept, "int8")
    told, record = json.loads((swept / "exports" / f"{cell}.json").read_text()), read_record(swept, cell)
    content = (swept / "exports" / f"{cell}.onnx").read_bytes()
    own = told["files"][f"{cell}.onnx"]
    assert own["sha256"] == hashlib.sha256(content).hexdigest() and own["bytes"] == len(content)
    assert own["format"] == "onnx" and own["check"]["images"] == 58 and own["check"]["agreement"] >= 0.99
    assert own["input"] == {
        "shape": ["batch", 3, 16, 16], "layout": "[batch, c, h, w]", "dtype": "float32", "range": [0, 1],
    }  # fmt: skip
    assert own["onnxruntime_session"] == dict([check_template.FULL_RANGE])  # for x86 without VNNI
    assert told["class_names"] == sorted(CLASSES) and told["cell"] == cell and told["precision"] == "int8"
    assert told["metrics"]["accuracy"] == record["accuracy"] and told["metrics"]["val_loss"] == record["val_loss"]
    assert told["cost"]["macs"] == record["macs"] and "layers" not in told["cost"]
    assert told["stages"]["evaluate"] == record["stages"]["evaluate"]["id"]
    assert told["trained_by"]["torch"] and own["written_by"]["onnx"] == onnx.__version__
    assert (
        told["preprocessing"]
        == Preprocessing.of_pictures(16, as_preprocess({"resize": "squash", "filter": "bicubic"})).to_json()
    )


def test_files_of_one_cell_share_a_description_which_is_in_each(resumable, packages, tmp_path):
    results = resumable / "results" / "tiny"
    cell = "vgg_tiny-digits-taylor-fp32-r0.50-s0"
    for form in ("onnx", "torch", "pt2"):
        assert export_command(results, cell, form) == 0
    folder = results / "exports"
    told = json.loads((folder / f"{cell}.json").read_text())
    assert {name: own["format"] for name, own in told["files"].items()} == {
        f"{cell}.onnx": "onnx", f"{cell}.safetensors": "torch", f"{cell}.pt2": "pt2",
    }  # fmt: skip
    properties = {p.key: p.value for p in onnx.load(folder / f"{cell}.onnx").metadata_props}
    extra = {KEY: ""}
    torch.export.load(folder / f"{cell}.pt2", extra_files=extra)
    from safetensors import safe_open

    with safe_open(folder / f"{cell}.safetensors", "pt") as file:
        header = file.metadata()
    inside = [json.loads(text) for text in (properties[KEY], extra[KEY], header[KEY])]
    alone = {key: value for key, value in told.items() if key != "files"}
    assert all({key: value for key, value in one.items() if key != "written_by"} == alone for one in inside)
    assert alone["preprocessing"]["kind"] == "arrays" and alone["class_names"] == list("0123456789")
    show_data(tiny_config(tmp_path), None, tmp_path / "digits", Console(quiet=True))
    record = read_record(results, cell)
    for name in (f"{cell}.onnx", f"{cell}.pt2"):  # the other runtime is torch, which this environment has
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr(check_template, "__file__", str(folder / f"{cell}_check.py"))
            arguments = ["--list", tmp_path / "digits" / "files.csv", "--root", tmp_path / "digits", "--file", name]
            patch.setattr("sys.argv", ["check", *map(str, arguments), "--out", str(tmp_path / "out.csv")])
            check_template.main()
        rows = list(csv.DictReader((tmp_path / "out.csv").open()))
        assert [int(row["predicted"]) for row in rows] == classes_of(record["test"])[1].tolist()
    other = cell.replace("r0.50", "r0.00")
    assert export_command(results, other, "torch", folder / f"{cell}.safetensors") == 0
    assert list(json.loads((folder / f"{cell}.json").read_text())["files"]) == [f"{cell}.safetensors"]


def test_where_it_lies():
    cell = Path("a/vgg-int4-r0.50-s0")
    for suffix in (".onnx", ".qonnx.onnx", ".safetensors", ".pt2", ""):
        assert sidecar_path(Path(f"{cell}{suffix}")) == Path(f"{cell}.json")
        assert script_path(Path(f"{cell}{suffix}")) == Path(f"{cell}_check.py")


def test_a_file_that_would_lie_in_its_place_is_refused(resumable, tmp_path):
    with pytest.raises(UserError, match=r"--output .*cell.json: what is said of the file goes there; end it in .onnx"):
        export_command(
            resumable / "results" / "tiny", "vgg_tiny-digits-taylor-fp32-r0.50-s0", "onnx", tmp_path / "cell.json"
        )
