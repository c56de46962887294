"""A damaged file of a finished sweep is refused by all that read it, by name, and mended by the sweep."""

import dataclasses
import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_sweep import command, run_inline, tiny_config

import qprune
from qprune.deploy import read_latency
from qprune.deploy.cells import open_cell
from qprune.deploy.commands import export_command
from qprune.deploy.latency import COLUMNS as LATENCY_COLUMNS
from qprune.deploy.latency import HERE, write_latency
from qprune.registry.errors import UserError
from qprune.report.commands import compare_command, write_report
from qprune.report.pick_command import pick_command
from qprune.storage.results import failure_file, network_file, read_cells, read_record, record_file
from qprune.storage.seal import Damaged, read_sealed_json
from qprune.storage.sealed_table import read_table, sealed_table
from qprune.sweep.records import Records
from qprune.sweep.run import open_sweep

CELL = "vgg_tiny-digits-taylor-int4-r0.50-s0"


def flip(content: bytes, place: int, bit: int = 0) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def flip_digit(content: bytes) -> bytes:
    """Another digit in place of the middle one."""
    places = [found.start() for found in re.finditer(rb"\d", content)]
    return flip(content, places[len(places) // 2])


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "bit": lambda content: flip(content, len(content) // 2, 3),
    "digit": flip_digit,
    "longer": lambda content: content + content[-64:],
}


@pytest.fixture(params=DAMAGES)
def damage(request):
    return lambda path: path.write_bytes(DAMAGES[request.param](path.read_bytes()))


@pytest.fixture
def results(resumable):
    return resumable / "results" / "tiny"


@pytest.fixture
def records(resumable):
    plan, store, folder = open_sweep(tiny_config(resumable), resumable / "results")
    return Records(folder, plan, store)


def cell_of(records, name=CELL):
    return next(cell for cell in records.plan.cells if cell.id == name)


def refused(path, *readers) -> None:
    """Each reader ends in an error that names the file and what to do."""
    for read in readers:
        with pytest.raises(UserError, match=re.escape(path.name)) as caught:
            read()
        assert "again" in str(caught.value) and "\n" not in str(caught.value)


def measured(cell: str, latency: float = 0.25) -> dict:
    row = dict.fromkeys(LATENCY_COLUMNS, 1)
    return row | {
        "cell": cell,
        "device": HERE,
        "runtime": "onnxruntime",
        "latency_ms": latency,
        "versions": "torch=2,\nonnx=1",
    }


# What reads a finished sweep -----------------------------------------------------------------------------------------


def test_a_damaged_record_is_refused(results, damage):
    path = record_file(results, CELL)
    damage(path)
    refused(
        path,
        lambda: read_record(results, CELL),
        lambda: qprune.load_network(results, CELL),
        lambda: open_cell(results, CELL),
        lambda: export_command(results, CELL, "torch"),
        lambda: write_report(results),
    )
    assert not (results / "exports").exists()


def test_a_damaged_network_is_refused(results, damage):
    path = network_file(results, CELL)
    damage(path)
    refused(
        path,
        lambda: qprune.load_network(results, CELL),
        lambda: open_cell(results, CELL),
        lambda: export_command(results, CELL, "torch"),
    )
    assert not (results / "exports").exists()


def test_another_networks_file_is_refused(results):
    """Whole, and of the very same shapes, but not what the cell's accuracy is of."""
    other = CELL.replace("-s0", "-s1")
    network_file(results, CELL).write_bytes(network_file(results, other).read_bytes())
    refused(network_file(results, CELL), lambda: qprune.load_network(results, CELL))
    record_file(results, CELL).write_bytes(record_file(results, other).read_bytes())
    refused(record_file(results, CELL), lambda: read_record(results, CELL), lambda: qprune.load_network(results, CELL))


def test_a_damaged_table_is_refused(results, damage):
    path = results / "cells.csv"
    damage(path)
    refused(
        path,
        lambda: read_cells(results),
        lambda: qprune.load(results),
        lambda: open_cell(results, CELL),
        lambda: write_report(results),
        lambda: compare_command([results, results.parent / "other"], results / "compare.html"),
        lambda: pick_command(results, [], [], "most-accurate", True),
    )


def test_damaged_latencies_are_refused(results, damage):
    cells = read_cells(results).cell
    path = write_latency(results, [measured(cell) for cell in cells])
    assert read_latency(results).latency_ms.tolist() == [0.25] * 16
    damage(path)
    refused(
        path,
        lambda: read_latency(results),
        lambda: qprune.load(results),
        lambda: write_report(results),
        lambda: pick_command(results, [], [], "most-accurate", True),
        lambda: write_latency(results, [measured(CELL, 0.5)]),
    )


def test_damaged_settings_are_refused(results, damage):
    path = results / "sweep.json"
    damage(path)
    refused(path, lambda: write_report(results))


@pytest.mark.parametrize("kind", ["dense", "prune", "finetune", "quantize"])
def test_a_damaged_stage_leaves_no_report_without_its_curve(results, records, kind, damage):
    damage(records.store.folder / cell_of(records).stages[kind] / "stage.json")
    refused(results / "stage.json", lambda: write_report(results))


def test_a_damaged_note_of_a_failure_is_refused(results, records, damage):
    records.fail(cell_of(records), "loss is nan", "a long log 123\n" * 9)
    records.write_table()
    damage(failure_file(results, CELL))
    refused(failure_file(results, CELL), lambda: write_report(results))


def test_the_commands_say_so_in_one_line(results, tmp_path):
    for path, commands in (
        (record_file(results, CELL), [("export", results, CELL, "--format", "torch"), ("report", results)]),
        (results / "cells.csv", [("status", results), ("pick", results)]),
    ):
        path.write_bytes(flip_digit(path.read_bytes()))
        for arguments in commands:
            done = command(*arguments, cwd=tmp_path)
            assert done.returncode == 2 and done.stdout == "", done
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and str(path) in done.stderr


# What the sweep does about it ----------------------------------------------------------------------------------------


def test_nothing_is_told_of_what_is_whole(records):
    assert [records.check(cell) for cell in records.plan.cells] == [None] * 16
    assert not (records.folder / "damaged").exists()


@pytest.mark.parametrize("file_of", [record_file, network_file])
def test_check_moves_aside_and_finish_writes_anew(records, file_of, damage):
    cell, path = cell_of(records), file_of(records.folder, CELL)
    whole = path.read_bytes()
    for number in (1, 2):
        path.unlink()  # from its stage's file, so that this one alone is damaged
        path.write_bytes(whole)
        damage(path)
        broken = path.read_bytes()
        told = records.check(cell)
        place = records.folder / "damaged" / f"{path.name}.{number}"
        assert str(path) in told and str(place) in told and not path.exists() and place.read_bytes() == broken
        records.forget(cell)
        records.finish(cell)
        assert path.read_bytes() == whole and records.check(cell) is None
    qprune.load_network(records.folder, CELL)


def test_check_finds_both(records):
    cell = cell_of(records)
    for path in (record_file(records.folder, CELL), network_file(records.folder, CELL)):
        path.write_bytes(b"")
    assert records.check(cell).count("moved to") == 2


def test_a_network_made_otherwise_has_another_record(records):
    """A stage that was computed anew on another machine: its network and the record must not contradict each other."""
    cell, folder = cell_of(records), records.folder
    quantize = cell.stages["quantize"]
    meta, tensors = records.store.meta(quantize), records.store.tensors(quantize)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    records.store.write(quantize, meta, {**tensors, name: tensors[name] + 1})
    records.finish(cell)
    again = records.store.tensors(quantize)[name]
    assert torch.equal(again, tensors[name] + 1)
    assert read_record(folder, CELL)["network_sha256"] == records.store.meta(quantize)["tensors_sha256"]
    qprune.load_network(folder, CELL)


def test_a_damaged_stage_is_not_linked(records):
    cell = cell_of(records)
    source = records.store.tensors_path(cell.stages["quantize"])
    source.write_bytes(flip(source.read_bytes(), 5000))
    network_file(records.folder, CELL).unlink()
    with pytest.raises(Damaged, match=re.escape(str(source))):
        records.finish(cell)
    assert not network_file(records.folder, CELL).exists()


def test_the_sweep_mends_records_networks_and_tables(resumable, results, damage):
    paths = [record_file(results, CELL), network_file(results, CELL), results / "cells.csv", results / "sweep.json"]
    before = [path.read_bytes() for path in paths]
    cells = read_cells(results)
    for path in paths:
        damage(path)
    code, computed, text = run_inline(tiny_config(resumable), resumable / "results")
    assert code == 0 and computed == [] and text.count("moved to") == 3
    assert [path.read_bytes() for path in paths[:3]] == before[:3]
    pd.testing.assert_frame_equal(read_cells(results), cells, check_exact=True)
    write_report(results)
    open_cell(results, CELL)


def test_the_sweep_mends_a_network_and_its_stage_which_are_one_file(resumable, results, damage):
    config = tiny_config(resumable)
    run_inline(config, resumable / "results")  # a copied folder's files are apart; this links them again
    record, network = read_record(results, CELL), network_file(results, CELL)
    source = resumable / "results/stages" / record["stages"]["quantize"]["id"] / "tensors.safetensors"
    network.unlink()
    network.hardlink_to(source)
    before = network.read_bytes()
    damage(network)
    assert source.read_bytes() == network.read_bytes() != before
    code, computed, text = run_inline(config, resumable / "results")
    assert code == 0 and computed == [record["stages"]["quantize"]["id"]] and text.count("moved to") == 2
    assert network.read_bytes() == source.read_bytes() == before and read_record(results, CELL) == record


# Failed cells --------------------------------------------------------------------------------------------------------


def test_a_failure_is_noted_until_the_cell_is_finished_or_forgotten(records):
    cell, path = cell_of(records), failure_file(records.folder, CELL)
    record_file(records.folder, CELL).unlink()
    for end in (records.finish, records.forget):
        records.fail(cell, "loss is nan", "line 1\nline 2")
        note = read_sealed_json(path)
        assert note.items() >= {"cell": CELL, "reason": "loss is nan", "log": "line 1\nline 2"}.items()
        assert note["stages"] == cell.stages
        assert records.rows[CELL]["status"] == "failed" and records.rows[CELL]["reason"] == "loss is nan"
        end(cell)
        assert not path.exists()


def test_a_failure_is_no_record(records):
    cell = cell_of(records)
    records.fail(cell, "loss is nan")
    record_file(records.folder, CELL).unlink()
    for name in (CELL, f"{CELL}.failed"):
        with pytest.raises(UserError, match="no finished cell") as caught:
            qprune.load_network(records.folder, name)
        assert ".failed'" not in str(caught.value).partition(repr(name))[2]


# The table by itself -------------------------------------------------------------------------------------------------

TEXTS = ["plain", 'say "so"', "two\nlines, and a comma", "ünï → ☃", "carriage\rreturn\r\n", " spaces ", "007x"]


def frame_of(rows: int, columns: int) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame(draws.standard_normal((rows, columns)) * 10.0 ** draws.integers(-20, 20, (rows, columns)))
    frame.columns = [f"number {column}" for column in frame]
    frame["text"] = [TEXTS[row % len(TEXTS)] for row in range(rows)]
    frame["some"] = [None if row % 3 else row + 0.5 for row in range(rows)]
    frame["whole"] = range(rows)
    return frame


def test_rows_are_read_as_they_were_written(tmp_path):
    frame = frame_of(500, 8)
    path = tmp_path / "t.csv"
    path.write_bytes(sealed_table(frame.to_csv(index=False)))
    pd.testing.assert_frame_equal(read_table(path, "do it again"), frame, check_exact=True)
    plain = pd.read_csv(path)  # any reader may leave the checksums alone
    assert list(plain.columns) == [*frame.columns, "checksum"] and plain.checksum.str.fullmatch("[0-9a-f]{12}").all()
    path.write_text(frame.to_csv(index=False))
    pd.testing.assert_frame_equal(read_table(path, "do it again"), frame, check_exact=True)


def test_the_sweeps_table_is_read_as_it_stands_in_memory(resumable, records):
    for cell in records.plan.cells:
        records.finish(cell)
    written = pd.read_csv(io.StringIO(records.frame().to_csv(index=False)), float_precision="round_trip")
    pd.testing.assert_frame_equal(read_cells(records.folder), written, check_exact=True)
    for number, row in enumerate(read_cells(records.folder).itertuples()):
        assert row.accuracy == records.frame().accuracy[number]


def damaged_tables(content: bytes):
    """Every single bit flipped, every cut, every line lost, doubled, or moved."""
    for place in range(len(content)):
        yield from (flip(content, place, bit) for bit in range(8))
        yield content[:place]
    lines = content.splitlines(keepends=True)
    for number in range(len(lines)):
        yield b"".join(lines[:number] + lines[number + 1 :])
        yield b"".join(lines[: number + 1] + lines[number:])
        yield b"".join(lines[:number] + lines[number:][::-1])


@pytest.mark.parametrize("rows", [1, 4])
def test_no_damage_gives_another_table(tmp_path, rows):
    frame = frame_of(rows, 2)
    content, path = sealed_table(frame.to_csv(index=False)), tmp_path / "t.csv"
    refusals = tried = 0
    for damaged in damaged_tables(content):
        path.write_bytes(damaged)
        tried += 1
        try:
            table = read_table(path, "do it again")
        except UserError as error:
            assert str(error).startswith(str(path)) and "do it again" in str(error)
            refusals += 1
        else:
            pd.testing.assert_frame_equal(table, frame, check_exact=True)
    assert refusals > 0.98 * tried > 0


def test_the_error_names_the_row_and_the_way_out(results):
    path = results / "cells.csv"
    header, *rows = path.read_text().splitlines(keepends=True)
    rows[11] = rows[11].replace("done", "dune", 1)
    path.write_text("".join([header, *rows]))
    with pytest.raises(Damaged, match=r"cells.csv: row 12 is not what was written \(checksum\); run the sweep again"):
        read_cells(results)
    with pytest.raises(Damaged, match="or remove the column checksum if you changed it on purpose"):
        read_cells(results)
    path.write_text("".join(line.rpartition(",")[0] + "\n" for line in [header, *rows]))
    assert read_cells(results).status[11] == "dune"
    path.write_text("".join([header, *rows[:11], *rows[12:]]))
    with pytest.raises(Damaged, match="its rows, their number or the columns' names are not what was written"):
        read_cells(results)


def test_a_long_reason_is_no_obstacle(records):
    cell = dataclasses.replace(cell_of(records))
    records.fail(cell, "x" * 200_000)
    records.write_table()
    assert read_cells(records.folder).reason.dropna().item() == "x" * 200_000


def test_a_large_table_costs_few_calls_for_each_row(tmp_path):
    """So many for a row, however many rows there are, and none for each of its 60 fields."""

    def calls(rows: int) -> int:
        text, path = frame_of(rows, 57).to_csv(index=False), tmp_path / "t.csv"
        made = 0

        def count(frame, event, argument):
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            path.write_bytes(sealed_table(text))
            read_table(path, "")
        finally:
            sys.setprofile(None)
        return made

    _, few, some, many = (calls(rows) for rows in (2, 200, 400, 2200))  # the first one imports
    assert 0 < some - few < 30 * 200
    assert many - some == pytest.approx(9 * (some - few), rel=0.1)
