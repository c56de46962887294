"""Networks that were never pruned: a pick says so, and they leave as pruned ones do, verified in every format."""

import json

import onnx
import pandas as pd
import pytest
from made_sweep import make_sweep
from tiny_sweep import command, run_inline, tiny_config

from qprune.cost import count_cost
from qprune.deploy.cells import open_cell
from qprune.deploy.export import export_cell
from qprune.deploy.formats import FORMATS
from qprune.deploy.latency import dense_of
from qprune.report.pick_command import pick_command
from qprune.storage.durable import write_whole
from qprune.storage.results import read_cells
from qprune.storage.sealed_table import sealed_table

SETTINGS = ("protocol=early", "baselines=[narrower,same_shape]", "seeds=0", "precisions=[fp32,int8,int4]",
            "budget={updates: 240}", "train={batch_size: 32, lr: 0.1}", "finetune={}", "quantize={}",
            "prune.updates_between=null", "prune.ratios=[0,0.5]")  # fmt: skip
PAIRS = [(form.name, name) for form in FORMATS.entries() for name in ("fp32", "int8", "int4") if form.can_hold(name)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished sweep's folder, with a narrower network and one of the pruned shape at each precision."""
    out = tmp_path_factory.mktemp("never")
    code, _, text = run_inline(tiny_config(out, *SETTINGS), out)
    assert code == 0, text
    return out / "tiny"


def named(method: str, precision: str) -> str:
    how = method if method == "narrower" else f"taylor-{method}"
    return f"vgg_tiny-digits-{how}-{precision}-r0.50-s0"


@pytest.mark.parametrize("method", ["narrower", "same_shape"])
@pytest.mark.parametrize("form, precision", PAIRS)
def test_it_is_exported_verified(trained, tmp_path, form, precision, method):
    cell = open_cell(trained, named(method, precision))
    exported = export_cell(cell, FORMATS.get(form), tmp_path / "file")
    assert exported.parity.holds and exported.path == tmp_path / "file"
    assert exported.parity.evaluated_accuracy == cell.record["accuracy"] > 0.5


def test_half_of_every_layer_is_in_the_file(trained, tmp_path):
    exported = export_cell(open_cell(trained, named("narrower", "fp32")), FORMATS.get("onnx"), tmp_path / "file")
    stored = onnx.load(exported.path).graph.initializer
    assert [weight.dims[0] for weight in stored if len(weight.dims) == 4] == [4, 4, 8, 8, 16, 16]


@pytest.mark.parametrize("method", ["narrower", "same_shape"])
def test_its_latency_is_against_the_unpruned_network(trained, method):
    cell = open_cell(trained, named(method, "fp32"))
    reference = dense_of(cell)
    macs = count_cost(reference.network, reference.spec.image_shape).macs
    assert macs == 152_384 > count_cost(cell.network, cell.spec.image_shape).macs


def test_what_pick_names_can_be_taken_away(trained, tmp_path):
    """The most accurate network at no more than a narrower one's cost, where that is the best; its command as it is printed."""
    narrow = read_cells(trained).set_index("cell").loc[named("narrower", "int4")]
    better(trained, trained.parent / "better/tiny", "narrower")
    limit = f"bit_gflops={narrow.bit_gflops:.17g}"
    picked = command("pick", "better/tiny", "--max", limit, "--json", cwd=trained.parent)
    assert picked.returncode == 0, picked.stderr
    answer = json.loads(picked.stdout)
    assert answer["pick"]["cell"] == narrow.name and not answer["pruned"]
    program, action, folder, *rest = answer["export"].split()
    assert (program, action, folder) == ("qprune", "export", "better/tiny")
    taken = command("export", trained, *rest, "--output", tmp_path / "net.onnx", cwd=tmp_path)
    assert taken.returncode == 0 and (tmp_path / "net.onnx").is_file(), taken.stdout + taken.stderr


def better(source, folder, method: str) -> None:
    """A copy of a sweep's table in which the networks of a method are the most accurate."""
    table = read_cells(source)
    table.loc[table.method == method, "val_accuracy"] = 0.999
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "sweep.json", (source / "sweep.json").read_bytes())
    write_whole(folder / "cells.csv", sealed_table(table.to_csv(index=False)))


@pytest.mark.parametrize(
    "method, ratio, said",
    [
        ("narrower", 0.5, "fp32, 50% smaller (net, narrower)|it was narrow from the start, with random weights"),
        ("narrower.flops", 0.5, "narrower.flops)|it was narrow from the start, with random weights"),
        (
            "same_shape",
            0.5,
            "fp32, 50% smaller (net, taylor, same_shape)|it has the widths of a pruned one, with random",
        ),
        ("scratch", 0.0, "fp32, 0% pruned (net, scratch)|it has all its maps"),
        ("prune_first", 0.0, "fp32, 0% pruned (net, taylor)|it has all its maps"),
        ("prune_first", 0.5, "fp32, 50% pruned (net, taylor)|"),
    ],
)
def test_pick_says_what_was_never_pruned(tmp_path, capsys, method, ratio, said):
    """By hand: beside a pruned network of 0.9, the best one is of this method; the pruned one is told with it."""
    folder = make_sweep(tmp_path, precisions=("fp32",), ratios=(0.0, 0.5, 0.75), seeds=(0,))
    table = read_cells(folder)
    table["val_accuracy"] = [0.3, 0.3, 0.9]
    one = table[table.pruning_ratio == ratio].assign(method=method, val_accuracy=0.95, cell="the-best")
    if method in ("narrower", "narrower.flops", "scratch"):
        one = one.assign(criterion="none")
    if method == "prune_first":
        table = table[table.pruning_ratio != ratio]
    table = pd.concat([table, one])
    write_whole(folder / "cells.csv", sealed_table(table.to_csv(index=False)))
    assert pick_command(folder, [], [], "most-accurate", as_json=False) == 0
    text = capsys.readouterr().out
    head, never = said.split("|")
    assert head in text.splitlines()[0]
    assert ("this network was never pruned" in text) == bool(never)
    if never:
        assert f"({never}" in text and "; the best pruned one that fits: fp32, 75% pruned: val_accuracy 90.00%" in text
    assert text.rstrip().endswith(f"qprune export {folder} the-best --format onnx")


def test_pick_says_where_no_pruned_one_fits(tmp_path, capsys):
    folder = make_sweep(tmp_path, precisions=("fp32",), ratios=(0.0, 0.5), seeds=(0,))
    table = read_cells(folder)
    table["val_accuracy"] = [0.95, 0.5]
    write_whole(folder / "cells.csv", sealed_table(table.to_csv(index=False)))
    assert pick_command(folder, [], ["val_accuracy=0.9"], "most-accurate", as_json=False) == 0
    assert "this network was never pruned (it has all its maps); no pruned one fits" in capsys.readouterr().out
