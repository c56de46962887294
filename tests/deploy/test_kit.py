"""A folder that measures on a device: its script alone, the table that comes back, and the columns that it becomes."""

import ast
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from tiny_sweep import command, run_inline, tiny_config

import qprune
from qprune.analysis.pick import parse_limits
from qprune.deploy import exports as exports_table
from qprune.deploy import kit_bench
from qprune.deploy.commands import bench_command, export_command, import_command
from qprune.deploy.exports import forget_measured
from qprune.deploy.latency import COLUMNS, FILE, read_latency, read_table, write_latency
from qprune.registry.errors import UserError
from qprune.storage.durable import write_whole
from qprune.storage.results import record_file
from qprune.storage.seal import read_sealed_json, sealed_json
from qprune.storage.sealed_table import sealed_table

INT8, INT4 = (f"vgg_tiny-digits-taylor-{precision}-r0.50-s0" for precision in ("int8", "int4"))


def run_kit(kit, *arguments):
    """The script as on a device: Python alone, away from the project."""
    command = [sys.executable, "-I", str(kit / "bench.py"), "--rounds", "2", "--batch", "1,2", *arguments]
    return subprocess.run(command, cwd=kit, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """(a kit of an int8 and an int4 cell, what its script printed); the table is in it as latency.csv."""
    kit = tmp_path_factory.mktemp("kit") / "kit"
    bench_command(finished / "results" / "tiny", [INT8, INT4], kit=kit)
    done = run_kit(kit)
    assert done.returncode == 0, done.stdout + done.stderr
    return kit, done.stdout


def test_the_script_needs_numpy_and_onnxruntime_alone(measured):
    kit, printed = measured
    source = (kit / "bench.py").read_text()
    imported = {
        name.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    ast.parse(source, feature_version=(3, 9))
    table = pd.read_csv(kit / "latency.csv")
    assert tuple(table.columns) == kit_bench.COLUMNS and sorted(table.cell.unique()) == sorted(
        ["dense fp32 vgg_tiny digits", INT8, INT4]
    )
    assert (table.agreement == 1).all() and (table.drift >= 1).all() and set(table.batch) == {1, 2}
    reference = table[table.network_sha256.isna()]
    assert (reference.speedup == 1).all() and "reference's times by itself differ by" in printed
    assert (table.latency_ms_q1 <= table.latency_ms).all() and (table.latency_ms <= table.latency_ms_q3).all()
    assert f"{INT4}: 7 of 7 layers multiply in FP32" in printed


def test_manifest(measured):
    kit, _ = measured
    manifest = json.loads((kit / "manifest.json").read_text())
    assert manifest["least_onnxruntime"] == "1.19"  # for INT4
    assert [one["dense"] for one in manifest["files"]] == [True, False, False]
    assert {one["least_onnxruntime"] for one in manifest["files"]} == {"1.15", "1.19"}
    assert len(np.load(kit / "expected.npz")["images"]) == 32


def test_what_a_device_measured_becomes_columns(measured, resumable):
    kit, _ = measured
    folder = resumable / "results" / "tiny"
    import_command(folder, kit / "latency.csv", "pi-5")
    table = read_table(folder / FILE)
    assert list(table.columns) == list(COLUMNS) and set(table.device) == {"pi-5"} and len(table) == 4
    times = read_latency(folder)
    given = pd.read_csv(kit / "latency.csv")
    own = given[(given.cell == INT8) & (given.batch == 1)].latency_ms.item()
    assert times["latency_ms@pi-5"][INT8] == pytest.approx(own, rel=1e-5) and times.latency_ms.isna().all()
    results = qprune.load(folder)
    assert results.pick(max={"latency_ms@pi-5": 1e6}).precision in ("int8", "int4")
    speedup = given[(given.cell == INT8) & (given.batch == 1)].speedup.item()
    assert results.pick(min={"speedup@pi-5": 0.99 * speedup}).precision in ("int8", "int4")
    assert results.points["speedup@pi-5"].dropna().size == 2
    with pytest.raises(UserError, match=r"no times of that device.*did you mean 'latency_ms@pi-5'"):
        parse_limits(["latency_ms@pi=1"], [], results.points)
    bench_command(folder, [INT8], (1,), rounds=1)  # here: beside it
    again = read_latency(folder)
    assert again.latency_ms[INT8] > 0 and again["latency_ms@pi-5"][INT8] == times["latency_ms@pi-5"][INT8]


def test_an_older_latency_file_is_of_this_machine(resumable):
    folder = resumable / "results" / "tiny"
    bench_command(folder, [INT8], (1,), rounds=1)
    table = read_table(folder / FILE)
    for lacking in (["network_sha256"], ["device", "network_sha256"]):
        (folder / FILE).write_bytes(sealed_table(table.drop(columns=lacking).to_csv(index=False)))
        assert read_latency(folder).latency_ms[INT8] == table[table.runtime == "onnxruntime"].latency_ms.item()


@pytest.mark.parametrize("column, value, told", [
    ("network_sha256", "0" * 64, "has another network in .* by now; make the kit again"),
    ("agreement", 0.5, "expected classes on 50% of the images"),
    ("cell", "vgg_tiny-digits-taylor-int8-r0.55-s0", "no cell"),
])  # fmt: skip
def test_tables_that_are_not_of_these_cells(measured, resumable, tmp_path, column, value, told):
    table = pd.read_csv(measured[0] / "latency.csv")
    table.loc[table.cell == INT8, column] = value
    table.to_csv(tmp_path / "changed.csv", index=False)
    folder = resumable / "results" / "tiny"
    with pytest.raises(UserError, match=told):
        import_command(folder, tmp_path / "changed.csv", None)
    assert not (folder / FILE).exists()


def test_other_refusals(measured, resumable, tmp_path):
    folder = resumable / "results" / "tiny"
    for device, table, told in (
        ("a b", "latency.csv", "--as 'a b'"),
        ("pi", "manifest.json", "run the kit's bench.py again"),
        ("pi", "no", "no such"),
    ):
        with pytest.raises(UserError, match=told):
            import_command(folder, measured[0] / table, device)
    with pytest.raises(UserError, match="isn't empty"):
        bench_command(folder, [INT8], kit=measured[0])


def test_a_kit_says_what_is_wrong_with_it(measured, tmp_path):
    import shutil

    kit = tmp_path / "kit"
    shutil.copytree(measured[0], kit)
    manifest = json.loads((kit / "manifest.json").read_text())
    (kit / "manifest.json").write_text(json.dumps({**manifest, "least_onnxruntime": "99.1"}))
    done = run_kit(kit)
    assert done.returncode == 1 and "need ONNX Runtime 99.1 or newer" in done.stderr
    (kit / "manifest.json").write_text(json.dumps(manifest))
    (kit / manifest["files"][1]["file"]).write_bytes(b"other")
    done = run_kit(kit)
    assert done.returncode == 1 and "is not the file that the kit was made with" in done.stderr


def test_reasons_by_hand():
    profile = {"integer": 3, "layers": 5, "outside": 0.5, "most": "Sub", "overhead": 0.3}
    assert kit_bench.reasons(profile, True, {"a": 8, "b": 12}) == [
        "2 of 5 layers multiply in FP32, 3 on integer kernels",
        "1 of 2 widths are no multiples of 8, to which kernels fill up (prune.round_to)",
        "50% of the time in nodes is outside convolutions and linear layers, most of it in Sub",
        "30% of a call is the runtime's own, in no node: smaller layers don't change that",
    ]
    good = {"integer": 5, "layers": 5, "outside": 0.1, "most": "", "overhead": 0.1}
    assert kit_bench.reasons(good, True, {"a": 16}) == []
    assert kit_bench.reasons(good, True, {"a": 24}) == [
        "1 of 1 widths are no multiples of 16, to which kernels fill up (prune.round_to)"
    ]


def test_file_bytes_of_what_was_exported(resumable):
    folder = resumable / "results" / "tiny"
    for cell, format in ((INT8, "onnx"), (INT8, "torch"), (INT4, "onnx")):
        assert export_command(folder, cell, format) == 0
    cells = qprune.load(folder).cells.set_index("cell")
    for cell, format, suffix in ((INT8, "onnx", "onnx"), (INT8, "torch", "safetensors"), (INT4, "onnx", "onnx")):
        assert cells[f"file_bytes_{format}"][cell] == (folder / "exports" / f"{cell}.{suffix}").stat().st_size
    assert np.isnan(cells.file_bytes_torch[INT4]) and "file_bytes_pt2" not in cells
    assert qprune.load(folder).pick(max={"file_bytes_onnx": 1e6}).precision in ("int8", "int4")


def test_what_was_measured_of_a_cell_goes_with_its_network(tmp_path):
    """A cell that is made anew has neither the bytes nor the latency of the one before."""
    rows = [
        {**dict.fromkeys(COLUMNS, 1), "cell": cell, "device": device} for cell in ("a", "b") for device in ("", "5")
    ]
    write_latency(tmp_path, rows)
    exports = pd.DataFrame([{**dict.fromkeys(exports_table.COLUMNS, 1), "cell": "a", "format": "onnx"}])
    (tmp_path / exports_table.FILE).write_bytes(sealed_table(exports.to_csv(index=False)))
    forget_measured(tmp_path, "c", "x")
    assert list(read_table(tmp_path / FILE).device) == ["", "5", "", "5"]
    write_latency(
        tmp_path, [rows[1], {**rows[1], "device": "NA"}]
    )  # the same again, and a name that looks like nothing
    assert list(read_table(tmp_path / FILE).device) == ["", "", "5", "5", "NA"]
    forget_measured(tmp_path, "a", "x")
    assert set(read_table(tmp_path / FILE).cell) == {"b"} and not (tmp_path / exports_table.FILE).exists()


def test_a_record_made_anew_keeps_what_was_measured_of_the_same_network(resumable):
    folder = resumable / "results" / "tiny"
    for cell, changed in ((INT8, {}), (INT4, {"network_sha256": "0" * 64})):
        path = record_file(folder, cell)
        record = read_sealed_json(path) | changed
        record["stages"]["evaluate"]["id"] = "evaluate-of-an-older-version"
        write_whole(path, sealed_json(record))
        row = dict.fromkeys(COLUMNS, 1) | {"cell": cell, "device": "pi", "network_sha256": record["network_sha256"]}
        write_latency(folder, [row])
    code, computed, text = run_inline(tiny_config(resumable), resumable / "results")
    assert (code, computed) == (0, []), text
    assert list(read_table(folder / FILE).cell) == [INT8]
    for cell in (INT8, INT4):
        assert read_sealed_json(record_file(folder, cell))["stages"]["evaluate"]["id"] != "evaluate-of-an-older-version"


def test_import_refuses_what_was_settled_elsewhere(tmp_path):
    (tmp_path / "there.csv").write_text("")
    for option in ("--batch", "--threads", "--rounds"):
        run = command("bench", ".", "--import", "there.csv", option, 1, cwd=tmp_path)
        assert run.returncode == 2 and f"{option} was settled where there.csv was measured" in run.stderr


def test_what_is_measured_unless_told_otherwise(measured, finished, tmp_path):
    """One cell of each point on the fronts of all precisions; batch, threads and rounds as bench was told."""
    bench_command(finished / "results" / "tiny", None, (1, 4), threads=2, rounds=3, kit=tmp_path / "kit")
    manifest = json.loads((tmp_path / "kit" / "manifest.json").read_text())
    assert (manifest["batch"], manifest["threads"], manifest["rounds"]) == ("1,4", 2, 3)
    points = [tuple(one["cell"].split("-")[3:5]) for one in manifest["files"] if not one["dense"]]
    assert len(points) == len(set(points)) and {precision for precision, _ in points} == {
        "fp32",
        "fp16",
        "int8",
        "int4",
    }
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "kit" / "bench.py"), "--rounds", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "2 thread(s), 1 rounds" in done.stdout
    assert set(pd.read_csv(tmp_path / "latency.csv").batch) == {1, 4}
