"""What qprune pick prints."""

import pytest
from made_sweep import make_sweep

from qprune.analysis.statistics import images_for, room_of
from qprune.registry.errors import UserError
from qprune.report.cells import own_code
from qprune.report.pick_command import pick_command
from qprune.storage.seal import sealed_json


def pick(folder, max=(), min=(), prefer="most-accurate", **options) -> int:
    return pick_command(folder, [*max], [*min], prefer, False, **options)


def test_an_unfinished_sweep_is_said(tmp_path, capsys):
    cell = "net-digits-taylor-fp32-r0.25-s0"
    folder = make_sweep(tmp_path, pending=2, failed={cell: "no space left"})
    assert pick(folder) == 0
    assert "isn't finished: 2 pending and 1 failed cell(s)" in capsys.readouterr().out.splitlines()[0]
    pick(make_sweep(tmp_path / "whole"))
    assert "isn't finished" not in capsys.readouterr().out


def test_what_is_limited_is_shown_of_what_comes_near(tmp_path, capsys):
    folder = make_sweep(tmp_path)
    assert pick(folder, max=["peak_activation_bytes=1", "gflops=1"]) == 3
    near = capsys.readouterr().out.partition("nearest:")[2]
    lines = [line for line in near.splitlines() if "val_accuracy" in line]
    assert len(lines) == 5 and all("peak_activation_bytes" in line and ", gflops " in line for line in lines)


def test_own_code_is_trusted_by_the_export_that_is_named(tmp_path, capsys):
    folder = make_sweep(tmp_path)
    models = [{"name": "mynet:build", "width": 2}, {"name": "vgg_tiny"}]
    written = {"settings": {"model": models, "data": [{"name": "pictures:load"}]}}
    (folder / "sweep.json").write_bytes(sealed_json(written))
    assert own_code(folder) == ("mynet:build", "pictures:load")
    pick(folder)
    assert capsys.readouterr().out.rstrip().endswith("--format onnx --trust mynet:build --trust pictures:load")


@pytest.mark.parametrize("drop", ["2", "2%", " 2.0 "])
def test_a_drop_in_percent(tmp_path, capsys, drop):
    pick(make_sweep(tmp_path), max_drop=drop)
    assert "fit --max-drop 2;" in capsys.readouterr().out


@pytest.mark.parametrize("drop", ["-1", "101", "x", "nan", ""])
def test_a_drop_that_is_none(tmp_path, drop):
    with pytest.raises(UserError, match="--max-drop .*percentage points"):
        pick(make_sweep(tmp_path), max_drop=drop)


def test_no_limits_is_said_as_it_is(tmp_path, capsys):
    pick(make_sweep(tmp_path))
    assert "of 20 operating points; prefer most-accurate" in capsys.readouterr().out


def test_points_that_are_not_sure_are_said_with_what_would_do(tmp_path, capsys):
    """The 200 validation images of a point that lost nothing leave room for 3.7 / 200."""
    folder = make_sweep(tmp_path, seeds=(0,))
    pick(folder, prefer="cheapest-within", max_drop="1")
    printed = capsys.readouterr().out
    assert "points that keep --max-drop 1 by their mean are left out: the lower bound is under it" in printed
    assert "(200 validation images leave room for 1.83 points at least; about 368 would do, or three seeds)" in printed
    assert (
        room_of(round(images_for(0.01))) == pytest.approx(0.01, rel=1e-2)
        and pytest.approx((1 - 0.01) ** images_for(0.01)) == 0.025
    )
    pick(folder, prefer="cheapest", max_drop="1")
    assert "left out" not in capsys.readouterr().out


def test_a_file_that_nobody_has_made_is_limited_after_the_export(tmp_path):
    with pytest.raises(
        UserError, match="file_bytes_onnx.*no cell of this table has it yet: qprune export --format onnx"
    ):
        pick(make_sweep(tmp_path), max=["file_bytes_onnx=10k"])


@pytest.mark.parametrize(
    "cost, said", [("latency_ms", "qprune bench"), ("latency_ms@pi", "--import"), ("gflop", "'gflops'")]
)
def test_a_cost_that_nothing_has(tmp_path, cost, said):
    with pytest.raises(UserError, match=f"--cost {cost}: .*{said}"):
        pick(make_sweep(tmp_path), cost=cost)


def test_a_sweep_file_in_place_of_its_folder(tmp_path):
    (tmp_path / "my.yaml").write_text("name: my\n")
    with pytest.raises(UserError, match="name the folder of its results, such as results/my"):
        pick(tmp_path / "my.yaml")
