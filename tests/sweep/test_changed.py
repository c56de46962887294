"""What is told of finished cells whose settings have been changed."""

import pytest
from tiny_sweep import run_inline, tiny_config

from qprune.sweep.changed import changed_lines
from qprune.sweep.run import open_sweep

SMALL = ("seeds=0", "precisions=fp32", "train.updates=5", "finetune={updates: 2}", "quantize.updates=2")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed")
    code, _, _ = run_inline(tiny_config(folder, *SMALL), folder)
    assert code == 0
    return folder


def told(out, *overrides):
    plan, store, folder = open_sweep(tiny_config(out, *SMALL, *overrides), out)
    return list(changed_lines(plan, store, folder))


def test_nothing_is_told_where_all_is_gone_on_with(out):
    assert told(out) == told(out, "seeds=[0,1]") == told(out, "precisions=[fp32,int4]") == []


def test_what_differs_is_named_once_and_where_the_cells_stay(out):
    (line,) = told(out, "train.lr=0.2")
    assert line.startswith("2 done under other settings: lr 0.1 -> 0.2;")
    assert f"they stay in {out / 'stages'}" in line and f"records in {out / 'tiny'}" in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.momentum=0.5", "momentum 0.9 -> 0.5"),
        ("finetune.updates=3", "budget 2 -> 3"),
        ("data.subset=200", "another data"),
    ],
)
def test_the_first_stage_that_differs_is_what_is_told_of(out, override, said):
    (line,) = told(out, override)
    assert said in line and "->" not in line.replace(said, ""), line


def test_the_sweep_says_it_too(out, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    code, _, printed = run_inline(tiny_config(copy, *SMALL, "finetune.updates=3"), copy)
    assert code == 0 and "done under other settings: budget 2 -> 3" in printed
