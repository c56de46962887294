"""Is pruning worth it here? The section, the hollow marks and their front, the range, and the command for a cell again."""

import shlex
import shutil

import pandas as pd
import pytest
from browser import errors, find, open_page, set_size, wait
from made_sweep import make_sweep
from selenium.webdriver.common.by import By
from tiny_sweep import command, run_inline, tiny_config

from qprune.analysis.worth import baselines_beside, headline, worth
from qprune.report.commands import write_report
from qprune.report.pick_command import pick_command
from qprune.settings.config import load_config
from qprune.storage.durable import write_whole
from qprune.storage.results import read_cells
from qprune.storage.sealed_table import sealed_table
from qprune.sweep.plan import make_plan

SETTINGS = ("protocol=early", "baselines=narrower", "precisions=[fp32,w2a2]", "prune.criterion=[taylor,random]",
            "budget={updates: 60}", "train={batch_size: 32, lr: 0.1}", "finetune={}", "quantize={}",
            "prune.updates_between=null")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small finished sweep with narrower networks and its folder."""
    out = tmp_path_factory.mktemp("worth")
    config = tiny_config(out, *SETTINGS)
    code, _, text = run_inline(config, out, report=True)
    assert code == 0, text
    write_report(out / "tiny")
    return config, out / "tiny"


@pytest.fixture
def report(browser, finished):
    open_page(browser, finished[1] / "report.html")
    set_size(browser, 1280, 1000)
    yield browser
    assert errors(browser) == []


def traces(driver, kind):
    script = "return document.getElementById('pareto').data.filter(t => t.meta.kind === arguments[0]).map(t => t.name)"
    return driver.execute_script(script, kind)


def hollow(driver):
    script = (
        "return document.getElementById('pareto').data.filter(t => t.meta.kind === 'points'"
        " && t.marker.symbol.endsWith('-open')).flatMap(t => [...t.x])"
    )
    return driver.execute_script(script)


def test_the_verdict_is_the_tables(report, finished):
    cells = read_cells(finished[1])
    group = {"sweep": "tiny", "model": "vgg_tiny", "data": "digits", "criterion": "taylor"}
    pruned = cells[(cells.method == "prune_first") & (cells.criterion == "taylor")]
    (one,) = worth(pruned, baselines_beside(cells, group))
    assert headline(one) in find(report, "#worth").text
    report.execute_script("document.querySelector('#worth details').open = true")
    rows = report.find_elements(By.CSS_SELECTOR, "#worth tbody tr")
    assert len(rows) == len(one.octaves) and rows[0].text.startswith("fp32")


def test_baselines_are_hollow_have_a_front_and_can_be_switched_off(report):
    assert len(hollow(report)) == 2  # narrower at one ratio, two precisions
    assert "front of baselines" in traces(report, "front")
    shapes = report.execute_script(
        "return document.getElementById('pareto').data.filter(t => t.meta.kind === 'front').map(t => t.line.shape)"
    )
    assert set(shapes) == {"hv"}
    find(report, "#legend [data-key='front:baselines']").click()
    wait(report, "!document.getElementById('pareto').data.some(t => t.name === 'front of baselines')")
    assert hollow(report) == []


def test_bars_end_where_accuracies_do(report):
    script = """return document.getElementById('pareto').data.filter(t => t.meta.kind === 'points' && t.error_y.visible)
      .flatMap(t => t.y.map((y, i) => [y + t.error_y.array[i], y - t.error_y.arrayminus[i]]))"""
    for high, low in report.execute_script(script):
        assert high <= 100 + 1e-9 and low >= -1e-9


def test_the_plot_opens_on_what_matters_and_shows_all_at_one_click(report, finished):
    lowest = "return document.getElementById('pareto')._fullLayout.yaxis.range[0]"
    cells = read_cells(finished[1])
    least = 100 * cells.groupby(["method", "criterion", "precision", "pruning_ratio"]).val_accuracy.mean().min()
    base = 100 * cells.baseline_val_accuracy.astype(float).mean()
    assert base - 10 > least, "this sweep should have points that don't matter"
    assert report.execute_script(lowest) == pytest.approx(base - 10, abs=2)
    find(report, "#range").click()
    wait(report, f"document.getElementById('pareto')._fullLayout.yaxis.range[0] < {least}")
    find(report, "#range").click()
    wait(report, f"document.getElementById('pareto')._fullLayout.yaxis.range[0] > {least}")


@pytest.mark.parametrize(
    "cell",
    [
        "vgg_tiny-digits-random-fp32-r0.50-s1",
        "vgg_tiny-digits-narrower-w2a2-r0.50-s0",
        "vgg_tiny-digits-taylor-w2a2-r0.00-s0",
    ],
)
def test_the_command_makes_the_very_cell(report, finished, cell):
    """It is the same stages, whatever else the sweep had: w2a2 is what gave Q its share."""
    report.execute_script(
        "const s = document.getElementById('cell'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))", cell
    )
    wait(report, f"document.getElementById('again').textContent.includes({cell.split('-')[3]!r})")
    program, action, file, option, out, *rest = shlex.split(find(report, "#again").text)
    assert (program, action, option, out) == ("qprune", "sweep", "--out", "again") and set(rest[::2]) == {"--set"}
    again = {one.id: one.stages for one in make_plan(load_config(file, rest[1::2])).cells}
    whole = {one.id: one.stages for one in make_plan(finished[0]).cells}
    assert again[cell] == whole[cell] and len(again) <= 2


def test_the_picks_command_makes_its_cells_of_all_seeds(report, finished):
    (text,) = [
        one.text for one in report.find_elements(By.CSS_SELECTOR, "#pick-commands code") if "qprune sweep" in one.text
    ]
    file, *rest = shlex.split(text)[2:]
    again = {one.id: one.stages for one in make_plan(load_config(file, rest[3::2])).cells}
    whole = {one.id: one.stages for one in make_plan(finished[0]).cells}
    picked = report.execute_script(
        "return [...document.querySelectorAll('#pick-more dd')].map(one => one.textContent).at(-1)"
    )
    cells = read_cells(finished[1])
    point = cells[cells.cell.str.startswith(picked.rpartition("-s")[0])]
    assert len(point) > 1 and all(again[cell] == whole[cell] for cell in point.cell)


def made_with(folder, **columns):
    """A made sweep with the cells of baselines beside its pruned ones; columns: of all rows."""
    out = make_sweep(folder)
    cells = pd.read_csv(out / "cells.csv").assign(**columns)
    pruned = cells[cells.pruning_ratio > 0]
    others = [
        pruned.assign(
            method=method, criterion=criterion, val_accuracy=pruned.val_accuracy - 0.01, training_flops_cap=cap,
            cell=[cell.replace("taylor", method) for cell in pruned.cell],
        )
        for method, criterion, cap in (("narrower", "none", None), ("narrower.flops", "none", 4.0), ("same_shape", "taylor", None))
    ]  # fmt: skip
    pd.concat([cells, *others]).to_csv(out / "cells.csv", index=False)
    return out


def test_every_baseline_is_compared_and_in_no_study_of_pruning(browser, tmp_path):
    folder = made_with(tmp_path, protocol="early", ratio_of="macs", training_flops=3e12)
    open_page(browser, write_report(folder))
    said = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#worth .verdict")]
    assert ["equal training FLOPs" in one for one in said] == [False, True, False]
    assert "the same shapes with new weights" in said[2]
    curves = "return document.getElementById('budget-plot').data.filter(t => t.meta.kind === 'points').map(t => t.name)"
    assert browser.execute_script(curves) == ["fp32, pruned · prune_first"]
    assert find(browser, "#bears").text.count("fp32") == 1
    assert len(browser.find_elements(By.CSS_SELECTOR, "#group option")) == 0
    assert "protocol\nearly" in find(browser, "#origin").text and "shares of\nmacs" in find(browser, "#origin").text
    heads = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#table th")]
    assert {"training_flops", "training_flops_cap", "protocol", "ratio_of"} <= set(heads)
    assert errors(browser) == []


def test_tables_of_before_there_were_baselines_at_every_ratio(browser, tmp_path):
    """No new columns; networks of other widths, unpruned, had a method's name of their own."""
    folder = make_sweep(tmp_path, scratch=True)
    cells = pd.read_csv(folder / "cells.csv")
    scratch = cells[cells.method == "scratch"]
    narrow = scratch.assign(method="narrower.width_0.5", cell=scratch.cell.str.replace("scratch", "narrow"))
    pd.concat([cells, narrow]).to_csv(folder / "cells.csv", index=False)
    open_page(browser, write_report(folder))
    assert "--set baselines=[narrower]" in find(browser, "#worth").text
    assert len(hollow(browser)) == 1
    assert errors(browser) == []


def test_where_a_search_has_skipped_points_there_is_no_verdict(browser, finished, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(finished[1], folder)
    table = read_cells(folder)
    table.loc[(table.method == "narrower") & (table.precision == "w2a2"), "status"] = "skipped"
    write_whole(folder / "cells.csv", sealed_table(table.to_csv(index=False)))
    open_page(browser, write_report(folder))
    assert "nothing can be said of pruning against narrower networks" in find(browser, "#worth").text
    assert browser.find_elements(By.CSS_SELECTOR, "#worth details") == []
    assert errors(browser) == []


def test_a_pick_that_was_never_pruned_says_so(report):
    report.execute_script("document.getElementById('prefer').value = 'most-accurate'")
    text = find(report, "#pick").text
    method = report.execute_script("return document.querySelector('#pick strong').textContent")
    if "narrower" in method:
        assert "never pruned" in text
    elif ", 0% pruned" in method:
        assert "It is not pruned. The best pruned one: " in text
    else:
        assert "never pruned" not in text and "not pruned" not in text


def test_the_terminals_pick_says_that_it_was_never_pruned_and_export_takes_it_away(finished, capsys, tmp_path):
    folder = finished[1]
    cells = read_cells(folder)
    narrow = cells[(cells.method == "narrower") & (cells.precision == "fp32")]
    cheap = cells.bit_gflops[(cells.precision == "fp32") & (cells.criterion != "none")].min() * 0.999
    largest = [f"bit_gflops={max(narrow.bit_gflops.max(), cheap):.17g}"]
    table = cells.copy()
    table.loc[narrow.index, "val_accuracy"] = 0.999  # as if it were the best
    sealed = tmp_path / "tiny"
    shutil.copytree(folder, sealed)
    write_whole(sealed / "cells.csv", sealed_table(table.to_csv(index=False)))
    assert pick_command(sealed, largest, [], "most-accurate", as_json=False) == 0
    said = capsys.readouterr().out
    assert said.startswith("fp32, 50% smaller (vgg_tiny, narrower)")
    assert "this network was never pruned (it was narrow from the start, with random weights)" in said
    assert "the best pruned one that fits: " in said or "no pruned one fits" in said
    out = tmp_path / "net.safetensors"
    exported = command("export", folder, narrow.cell.iloc[0], "--format", "torch", "--output", out, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "agree" in exported.stdout.lower()
