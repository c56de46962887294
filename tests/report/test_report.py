"""The report in a real browser, without a network; and what writes it."""

import base64
import gzip
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import errors, find, open_page, set_scheme, set_size, wait
from made_sweep import make_sweep
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from tiny_sweep import F, N, P, command

from qprune.analysis.front import operating_points
from qprune.registry.errors import UserError
from qprune.report.build import report_data
from qprune.report.commands import compare_command, write_report
from qprune.report.details import correct_images, layer_tables
from qprune.report.html import packed, page
from qprune.report.pick_command import NOTHING_FITS, pick_command
from qprune.storage.results import failure_file, read_cells, read_record
from qprune.storage.seal import sealed_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep's folder with a report: 60 cells of which one has failed and two are pending."""
    folder = make_sweep(
        tmp_path_factory.mktemp("sweep"),
        failed={"net-digits-taylor-int8-r0.90-s2": "loss is nan\nat update 3"},
        pending=2,
    )
    write_report(folder)
    return folder


@pytest.fixture
def report(browser, made):
    open_page(browser, made / "report.html")
    set_size(browser, 1280, 1000)
    yield browser
    assert errors(browser) == []


def type_number(driver, selector, value):
    find(driver, selector).send_keys(Keys.CONTROL + "a")
    find(driver, selector).send_keys(value)


def type_limit(driver, name, value):
    type_number(driver, f"#{name}-field", value)


def faded(driver):
    """Numbers of the points that are drawn faded, by the elements themselves."""
    script = """
      const rows = [];
      for (const group of document.querySelectorAll('#pareto .scatterlayer .trace')) {
        const trace = group.__data__[0].trace;
        if (trace.meta.kind !== 'points') continue;
        for (const node of group.querySelectorAll('.points path'))
          if (Number(getComputedStyle(node).fillOpacity) < 0.5) rows.push(trace.customdata[node.__data__.i]);
      }
      return rows.sort((a, b) => a - b);"""
    return driver.execute_script(script)


def choose(driver, name, value):
    driver.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        name,
        value,
    )


def command_of(driver, kind):
    return [
        code.text
        for code in driver.find_elements(By.CSS_SELECTOR, "#pick-commands code")
        if f"qprune {kind}" in code.text
    ][0]


def drawn(driver):
    """(points, x values) that the plot has."""
    script = (
        "return document.getElementById('pareto').data.filter(t => t.meta.kind === 'points').flatMap(t => [...t.x])"
    )
    return driver.execute_script(script)


# --- the page --------------------------------------------------------------------------------------------------------


def test_points_are_the_cells(report, made):
    points = operating_points(read_cells(made))
    assert len(points) == 20 and sorted(drawn(report)) == pytest.approx(sorted(points.bit_gflops))
    assert len(report.find_elements(By.CSS_SELECTOR, "#pareto .scatterlayer .points path")) == 20
    choose(report, "show", "seeds")
    wait(
        report,
        "document.getElementById('pareto').data.filter(t => t.meta.kind === 'points').flatMap(t => [...t.x]).length === 57",
    )
    assert "57 of 60 cells done, 1 failed, 2 pending" in find(report, "#summary").text
    assert "loss is nan\nat update 3" in find(report, "#failures").text


def test_axis_switch(report, made):
    points = operating_points(read_cells(made))
    for cost in ("weight_bytes", "relative_bops"):
        choose(report, "x", cost)
        wait(report, f"document.getElementById('pareto').layout.xaxis.title.text.includes('{cost}')")
        assert sorted(drawn(report)) == pytest.approx(sorted(points[cost]))
    choose(report, "scale", "linear")
    wait(report, "document.getElementById('pareto')._fullLayout.xaxis.type === 'linear'")
    choose(report, "y", "accuracy")
    wait(report, "document.getElementById('pareto').layout.yaxis.title.text.includes('test')")
    y = report.execute_script(
        "return document.getElementById('pareto').data.filter(t => t.meta.kind === 'points').flatMap(t => [...t.y])"
    )
    assert sorted(y) == pytest.approx(sorted(100 * points.accuracy))


def test_slider_fades_the_points_outside_and_moves_the_pick(report, made):
    points = operating_points(read_cells(made))
    before = find(report, "#pick").text
    assert faded(report) == []
    slider = find(report, "#max-bit_gflops-range")
    slider.send_keys(*[Keys.ARROW_LEFT] * 12)
    limit = float(find(report, "#max-bit_gflops-field").get_attribute("value"))
    outside = [int(row) for row in points.index[points.bit_gflops > limit]]
    assert len(outside) == 12 and faded(report) == outside
    best = points[points.bit_gflops <= limit].sort_values("val_accuracy").iloc[-1]
    assert best.precision in find(report, "#pick").text and find(report, "#pick").text != before
    assert best.cell in find(report, "#pick-more").text
    assert any("pick:" in text.text for text in report.find_elements(By.CSS_SELECTOR, ".marks text"))
    slider.send_keys(*[Keys.ARROW_RIGHT] * 12)
    assert faded(report) == [] and find(report, "#max-bit_gflops-field").get_attribute("value") == ""


def test_charts_offer_no_upload(report):
    titles = report.execute_script(
        "return [...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)"
    )
    assert "Zoom" in titles and not any("Share" in title or "Cloud" in title for title in titles)


def test_legend_hides_a_precision(report):
    button = find(report, "[data-key='precision:int4']")
    button.send_keys(Keys.SPACE)
    wait(report, "document.getElementById('pareto').data.filter(t => t.meta.kind === 'points').length === 3")
    button = find(report, "[data-key='precision:int4']")
    assert button.get_attribute("aria-pressed") == "false"
    assert report.switch_to.active_element == button


def test_nothing_fits(report):
    type_limit(report, "max-bit_gflops", "0.0001")
    assert "No cell keeps these limits" in find(report, "#pick").text
    assert re.search(r"without bit_gflops: \w+, \d+% pruned, 9", find(report, "#pick-more").text)


def test_copy_buttons(report, made):
    report.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    type_limit(report, "max-bit_gflops", "0.05")
    wanted = {"pick": f"qprune pick {made} --max bit_gflops=0.05", "export": f"qprune export {made} net-digits-taylor"}
    for kind, start in wanted.items():
        assert command_of(report, kind).startswith(start)
        find(report, f"[aria-label='Copy the {kind} command']").click()
        copied = report.execute_async_script(
            "const done = arguments[0]; setTimeout(() => navigator.clipboard.readText().then(done, e => done(String(e))), 100)"
        )
        assert copied == command_of(report, kind)


def test_fragment_keeps_the_view(report, made):
    type_limit(report, "max-bit_gflops", "0.05")
    type_limit(report, "min-accuracy", "0.8")
    choose(report, "prefer", "cheapest")
    choose(report, "scale", "linear")
    choose(report, "measure", "spread")
    find(report, "[data-key='precision:fp16']").click()
    wait(report, "location.hash.includes('hide')")
    texts = [find(report, one).text for one in ("#pick", "#pick-more")]
    fragment = report.execute_script("return location.hash")
    open_page(report, made / "report.html", fragment)
    assert [find(report, one).text for one in ("#pick", "#pick-more")] == texts
    assert find(report, "#max-bit_gflops-field").get_attribute("value") == "0.05"
    assert [find(report, f"#{one}").get_attribute("value") for one in ("prefer", "scale", "measure")] == [
        "cheapest",
        "linear",
        "spread",
    ]
    assert len(drawn(report)) == 15
    wait(report, f"location.hash === {json.dumps(fragment)}")


def test_bad_fragments_do_no_harm(report, made):
    for fragment in (
        "#x=nonsense&max.bit_gflops=abc&min=&hide=%7B&cell=none&group=99",
        "#max.__proto__=1&constructor=2&%",
    ):
        open_page(report, made / "report.html", fragment)
        assert len(drawn(report)) == 20


def column_of(driver, number):
    return [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, f"#table td:nth-child({number})")]


def test_table_sorts_and_filters(report, made):
    cells = read_cells(made)
    heads = [head.text for head in report.find_elements(By.CSS_SELECTOR, "#table th")]
    number = heads.index("val_accuracy") + 1
    find(report, "[data-sort='val_accuracy']").click()
    values = [float(text.strip("%")) for text in column_of(report, number)]
    assert values == sorted(values) and values[0] == pytest.approx(100 * cells.val_accuracy.min(), abs=0.006)
    find(report, "[data-sort='val_accuracy']").click()
    values = [float(text.strip("%")) for text in column_of(report, number)]
    assert values == sorted(values, reverse=True) and len(values) == 50
    assert find(report, "#table th[aria-sort]").text.startswith("val_accuracy")
    find(report, "#filter").send_keys("int4 s1")
    assert set(column_of(report, 2)) == {"int4"} and len(column_of(report, 1)) == 5


def test_csv_download(report, made):
    shutil.rmtree(report.downloads, ignore_errors=True)
    find(report, "#filter").clear()
    find(report, "#filter").send_keys("int8")
    find(report, "#csv").click()
    path = report.downloads / "cells.csv"
    for _ in range(100):
        if path.exists():
            break
        wait(report, "new Promise(done => setTimeout(() => done(true), 50))")
    got, cells = pd.read_csv(path), read_cells(made)
    cells = cells[cells.precision == "int8"].reset_index(drop=True)
    assert got.cell.tolist() == cells.cell.tolist()
    assert got.val_accuracy.to_numpy() == pytest.approx(cells.val_accuracy.to_numpy(), rel=1e-6, nan_ok=True)
    assert got.reason.dropna().tolist() == ["loss is nan\nat update 3"]


def test_charts_are_saved(report):
    shutil.rmtree(report.downloads, ignore_errors=True)
    for button in report.find_elements(By.CSS_SELECTOR, "#pareto-save button"):
        button.click()
    png, svg = report.downloads / "tradeoff.png", report.downloads / "tradeoff.svg"
    for _ in range(200):
        if png.exists() and svg.exists():
            break
        wait(report, "new Promise(done => setTimeout(() => done(true), 50))")
    assert png.read_bytes().startswith(b"\x89PNG") and "validation accuracy" in svg.read_text()


def test_cell_view(report, made):
    choose(report, "cell", "net-digits-taylor-int4-r0.50-s1")
    wait(report, "document.getElementById('cell-facts').textContent.includes('int4-r0.50-s1')")
    record = read_record(made, "net-digits-taylor-int4-r0.50-s1")
    rows = report.execute_script(
        "return [...document.querySelectorAll('#layer-table tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[0] for row in rows] == [layer["name"] for layer in record["cost"]["layers"]]
    assert [int(row[3]) for row in rows] == [layer["channels_out"] for layer in record["cost"]["layers"]]
    assert {(row[5], row[6]) for row in rows} == {("4", "4")}
    assert sum(float(row[8].strip("%")) for row in rows) == pytest.approx(100, abs=0.5)
    assert report.execute_script("return document.getElementById('curves').data.length") == 4


def test_hover_shows_the_whole_card(report):
    node = "[...document.querySelectorAll('#pareto .scatterlayer .trace')].find(g => g.__data__[0].trace.name === 'fp32').querySelectorAll('.points path')[1]"
    report.execute_script("document.getElementById('pareto').scrollIntoView()")
    x, y = report.execute_script(
        f"const r = {node}.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]"
    )
    for step in (3, 0):
        report.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + step, "y": y})
        report.execute_async_script("setTimeout(arguments[0], 150)")
    card = find(report, "#card")
    for text in (
        "fp32, 25% pruned",
        "validation accuracy",
        "test accuracy",
        "bit_gflops",
        "weight_bytes",
        "net-digits-taylor-fp32-r0.25",
    ):
        assert text in card.text


def test_largest_ratio_within_points(report):
    def ratios():
        return [cell.text for cell in report.find_elements(By.CSS_SELECTOR, "#bears td:nth-child(2)")]

    seen = []
    for allowed in ("0.1", "100"):
        type_number(report, "#percentage-points", allowed)
        seen.append(ratios())
    assert seen[1] == ["90%"] * 4 and seen[0] != seen[1]


def rows_of(driver, selector):
    """Texts of a table's body."""
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => [...r.cells].map(c => c.textContent))",
        selector,
    )


def budget_plot(driver, kind):
    """{what a trace is of: its y values} of the traces of one kind."""
    script = """
      const traces = document.getElementById('budget-plot').data.filter(trace => trace.meta.kind === arguments[0]);
      return Object.fromEntries(traces.map(trace => [trace.meta.of ?? trace.name, [...trace.y]]));"""
    return driver.execute_script(script, kind)


def test_equal_updates(report, made):
    cells = read_cells(made)
    dense = cells[(cells.precision == "fp32") & (cells.pruning_ratio == 0)].set_index("seed")
    pruned = cells[(cells.precision == "fp32") & (cells.pruning_ratio == 0.75)].set_index("seed")
    for y in ("val_accuracy", "accuracy"):
        choose(report, "y", y)
        wait(report, f"document.getElementById('y').value === '{y}'")
        (row,) = [row for row in rows_of(report, "#budget") if row[:2] == ["fp32", "75%"]]
        start = {"val_accuracy": 0.97, "accuracy": 0.98}[y]
        changes = (pruned[y].mean() - start, (pruned[y] - dense[y]).mean(), dense[y].mean() - start)
        shown = [float(row[place].replace("−", "-")) for place in (2, 4, 6)]
        assert shown == pytest.approx([100 * change for change in changes], abs=0.006)
        wait(
            report,
            f"document.getElementById('budget-plot').layout.yaxis.title.text.includes('{y[:3].replace('acc', 'test')}')",
        )
        lines = budget_plot(report, "line")
        assert lines == {
            "dense": pytest.approx([100 * start] * 2),
            "baseline": pytest.approx([100 * dense[y].mean()] * 2),
        }
        assert budget_plot(report, "band")["baseline"][::2] == pytest.approx(
            [100 * (dense[y].mean() - dense[y].std()), 100 * (dense[y].mean() + dense[y].std())]
        )
        (points,) = budget_plot(report, "points").values()
        assert sorted(points) == pytest.approx(
            sorted(100 * cells[cells.precision == "fp32"].groupby("pruning_ratio")[y].mean())
        )
    labels = report.execute_script(
        "return [...document.querySelectorAll('#budget-plot .annotation-text')].map(text => text.textContent)"
    )
    assert sorted(labels) == ["unpruned, N", "unpruned, N + M"]
    assert not find(report, "#orders-study").is_displayed()  # there is one order only
    assert "method" not in find(report, "#cell-facts").text


def test_both_orders(browser, tmp_path):
    folder = make_sweep(tmp_path, methods=("prune_first", "quantize_first"), scratch=True, noise=3)
    cells = read_cells(folder)
    write_report(folder)
    open_page(browser, folder / "report.html")
    set_size(browser, 1280, 1000)
    assert len(drawn(browser)) == 41  # with the network from scratch
    families = browser.find_elements(By.CSS_SELECTOR, "[data-key^='family:']")
    assert [one.text for one in families] == ["prune_first", "quantize_first", "scratch"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#group option")) == 2  # nothing is studied of it alone
    assert len(rows_of(browser, "#orders")) == 20
    at = cells[(cells.precision == "int4") & (cells.pruning_ratio == 0.9)].set_index(["method", "seed"]).val_accuracy
    effect = (at["quantize_first"] - at["prune_first"]).mean()
    (row,) = [row for row in rows_of(browser, "#orders") if row[:2] == ["int4", "90%"]]
    assert float(row[2].replace("−", "-")) == pytest.approx(100 * effect, abs=0.006)
    lines = budget_plot(browser, "line")
    assert lines["scratch"] == pytest.approx([98.1, 98.1]) and set(lines) == {"dense", "baseline", "scratch"}
    assert set(budget_plot(browser, "points")) == {"fp32, pruned · prune_first", "fp32, pruned · quantize_first"}
    assert "against scratch" in find(browser, "#budget").text
    before = find(browser, "#bears").text
    choose(browser, "group", "1")
    wait(browser, "location.hash.includes('group=1')")
    assert find(browser, "#bears").text != before
    find(browser, "#filter").send_keys("quantize_first int8")
    assert len(column_of(browser, 1)) == 15
    assert errors(browser) == []


def test_lambda_curve(browser, report, tmp_path):
    assert not find(report, "#lambda-study").is_displayed()  # nothing was cross-validated
    folder = make_sweep(tmp_path, criteria=("taylor", "taylor_activation.lambda_cv"))
    key = {"model": "net", "data": "digits", "criterion": "taylor_activation.lambda_cv", "chosen": 1.0}
    rows = [
        {**key, "seed": seed, "lambda": weight, "ratio": ratio, "fold": fold, "loss": 1 - 0.1 * weight + ratio + seed}
        for seed in range(3) for weight in (0.0, 1.0) for ratio in (0.5, 0.9) for fold in range(2)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "lambda.csv", index=False)
    write_report(folder)
    open_page(browser, folder / "report.html")
    assert not find(browser, "#lambda-study").is_displayed()  # of Taylor, the first group
    choose(browser, "group", "1")
    wait(browser, "!document.getElementById('lambda-study').hidden")
    assert [[row[0], row[2]] for row in rows_of(browser, "#lambda")] == [["0", "+0"], ["1", "−0.1"]]
    assert "Chosen: 1 (seed 0), 1 (seed 1), 1 (seed 2)" in find(browser, "#lambda").text
    drawn_lines = browser.execute_script(
        "return document.getElementById('lambda-plot').data.map(trace => [trace.name, [...trace.y]])"
    )
    assert [name for name, _ in drawn_lines] == ["mean", "50% pruned", "90% pruned"]
    assert all(y == pytest.approx([0, -0.1]) for _, y in drawn_lines)
    assert errors(browser) == []


def test_narrow_page_does_not_scroll_sideways(report, made):
    set_size(report, 400, 900)
    open_page(report, made / "report.html")
    assert report.execute_script("return document.documentElement.scrollWidth") <= 400
    set_size(report, 1280, 1000)


def test_accessibility(report):
    import axe_core_python

    report.execute_script((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    for scheme in ("light", "dark"):
        set_scheme(report, scheme)
        found = report.execute_async_script("axe.run().then(arguments[0])")
        serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        said = [(v["id"], [n["html"][:150] for n in v["nodes"]]) for v in serious]
        assert serious == [], f"{scheme}: {json.dumps(said, indent=1)}"
    set_scheme(report, "light")


def test_keyboard_reaches_every_control(report):
    wanted = report.execute_script(
        "return [...document.querySelectorAll('a[href], button, select, input, summary')].filter(e => !e.disabled && e.offsetParent && !e.closest('.modebar')).length"
    )
    report.execute_script(
        "document.activeElement.blur(); window.seen = new Set();"
        "document.addEventListener('focusin', event => window.seen.add(event.target))"
    )
    for _ in range(10):
        report.switch_to.active_element.send_keys(*[Keys.TAB] * ((wanted + 120) // 10))
    reached = report.execute_script(
        "return [...window.seen].filter(e => e.matches('a[href], button, select, input, summary')).length"
    )
    assert reached >= wanted
    unnamed = report.execute_script(
        "return [...document.querySelectorAll('select, input')].filter(e => !e.labels.length && !e.ariaLabel).map(e => e.id)"
    )
    assert unnamed == []


def test_page_picks_as_the_command_does(browser, tmp_path, capsys):
    """8 random sets of limits, each through the page's own fields and through qprune pick; with ties among the points,
    costs that vary by seed, and some that few cells have. No cell that is handed over breaks a limit on costs."""
    draws = np.random.default_rng(0)
    folder = make_sweep(
        tmp_path,
        models=("a", "b"),
        criteria=("taylor", "random"),
        ratios=(0.0, 0.3, 0.6, 0.8),
        seeds=(0, 1),
        curves=False,
    )
    cells = read_cells(folder)
    cells["val_accuracy"] = cells.val_accuracy.round(2)
    costs = ["bit_gflops", "linear_gflops", "weight_bytes", "gflops", "peak_activation_bytes"]
    for cost in costs:
        cells[cost] *= draws.uniform(0.9, 1.1, len(cells))
    cells.to_csv(folder / "cells.csv", index=False)
    cells = read_cells(folder)
    write_report(folder)
    points = operating_points(cells)
    open_page(browser, folder / "report.html")
    random.seed(0)
    outcomes = set()
    for _ in range(8):
        cost = random.choice(costs)
        prefer = random.choice(["most-accurate", "cheapest", "cheapest-within", "knee"])
        limits = {}
        if random.random() < 0.8:
            limits[cost] = f"{random.choice(list(points[cost])):.6g}"
        for other in ("weight_bytes", "peak_activation_bytes"):
            if random.random() < 0.4:
                limits[other] = repr(float(random.choice(list(cells[other]))))
        least = f"{random.choice(list(points.val_accuracy)):.4g}" if random.random() < 0.4 else ""
        recall = f"{random.choice(list(points.val_least_recall)):.4g}" if random.random() < 0.3 else ""
        drop = random.choice(["0.5", "2", "5", "15"]) if random.random() < 0.4 else ""
        model = random.choice(["", "a", "b"])
        texts = {"x": cost, "prefer": prefer, "min": least, "model": model, "max_drop": drop} | {
            f"max.{key}": text for key, text in limits.items()
        }
        texts |= {"min.val_least_recall": recall} if recall else {}
        fragment = "&".join(f"{key}={text}" for key, text in texts.items())
        browser.execute_script("location.hash = arguments[0]", fragment)
        wait(
            browser,
            f"document.getElementById('prefer').value === '{prefer}' && document.getElementById('x').value === '{cost}'",
        )
        browser.execute_async_script("setTimeout(arguments[0], 20)")
        arguments = [[f"{key}={text}" for key, text in limits.items()], [f"val_accuracy={least}"] if least else []]
        arguments[1] += [f"least_recall={recall}"] if recall else []
        dropped = float(drop) if drop else None
        code = pick_command(folder, *arguments, prefer, True, cost, None, model or None, dropped)
        answer = json.loads(capsys.readouterr().out)
        handed_over = [one["cell"] for one in (answer["pick"], *answer["runners_up"]) if one]
        for row in cells[cells.cell.isin(handed_over)].itertuples():
            assert all(getattr(row, key) <= float(text) for key, text in limits.items())
        assert ("no seed's cell does" in find(browser, "aside").text) == bool(answer["mean_only"])
        outcomes.add((code, answer["decided_by"], bool(answer["runners_up"])))
        if code == NOTHING_FITS:
            assert "No cell keeps these limits" in find(browser, "#pick").text
            continue
        page_says = find(browser, "#pick-more").text
        assert f"cell to export\n{answer['pick']['cell']}\n" in page_says, (texts, answer["pick"])
        runners = browser.execute_script(
            "return [...document.querySelectorAll('.runners li')].map(li => li.textContent)"
        )
        for text, one in zip(runners, answer["runners_up"], strict=True):
            assert text.startswith(
                f"{one['precision']}, {100 * one['pruning_ratio']:g}% pruned, {one['model']} · {one['criterion']}"
            )
        assert answer["export"] in browser.execute_script("return document.body.textContent")
    assert len({rule for code, rule, _ in outcomes if code == 0}) > 1
    assert errors(browser) == []


HOSTILE = "<img src=x onerror=window.hacked=1>"
MARKUP = "</script><script>window.hacked=2</script><!--<script>{{plotly}}\"'\u2028"


def test_hostile_names_execute_nothing(browser, tmp_path):
    folder = make_sweep(
        tmp_path, name=MARKUP, models=(HOSTILE, "<a href='javascript:window.hacked=3'>b</a>"), criteria=(MARKUP,),
        precisions=("fp32", HOSTILE), ratios=(0.0, 0.5), failed={f"{HOSTILE}-digits-{MARKUP}-fp32-r0.50-s1".replace("/", "_"): HOSTILE},
    )  # fmt: skip
    cells = pd.read_csv(folder / "cells.csv")
    cells["data"] = HOSTILE
    cells["versions"] = MARKUP
    cells.to_csv(folder / "cells.csv", index=False)
    write_report(folder)
    open_page(browser, folder / "report.html")
    assert find(browser, "#title").text.startswith("</script>")
    assert HOSTILE in find(browser, "#failures").text
    for selector in ("#legend button", "#table th button"):
        for number in range(len(browser.find_elements(By.CSS_SELECTOR, selector))):
            browser.find_elements(By.CSS_SELECTOR, selector)[number].click()
            browser.find_elements(By.CSS_SELECTOR, selector)[number].click()
    browser.execute_script("Plotly.Fx.hover('heat', [{curveNumber: 0, pointNumber: [0, 0]}])")
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert browser.execute_script("return window.hacked === undefined")
    assert (
        browser.execute_script("return document.querySelectorAll('img, iframe, object, a[href^=javascript]').length")
        == 0
    )
    assert browser.execute_script("return document.querySelectorAll('script').length") == 1
    assert errors(browser) == []


def test_policy_stops_scripts_that_are_not_the_pages(browser, made):
    open_page(browser, made / "report.html")
    browser.execute_script(
        "const d = document.createElement('div'); d.innerHTML = '<img src=x onerror=window.hacked=1>'; document.body.append(d)"
    )
    browser.execute_async_script("setTimeout(arguments[0], 200)")
    assert browser.execute_script("return window.hacked === undefined")
    assert any("Content Security Policy" in message for message in errors(browser))


def test_pending_sweep(browser, tmp_path):
    folder = make_sweep(tmp_path, pending=60)
    write_report(folder)
    open_page(browser, folder / "report.html")
    assert "0 of 60 cells done, 60 pending" in find(browser, "#summary").text
    assert "no cell is finished" in find(browser, "#pick").text
    assert errors(browser) == []


def test_stages_without_curves_are_told(browser, tmp_path):
    folder = make_sweep(tmp_path, curves=False)
    write_report(folder)
    open_page(browser, folder / "report.html")
    assert "no training curves" in find(browser, "#curves-note").text
    assert errors(browser) == []


def test_compare(browser, tmp_path, capsys):
    one, two = make_sweep(tmp_path / "one"), make_sweep(tmp_path / "two", noise=1)
    compare_command([one, two], tmp_path / "compare.html")
    assert capsys.readouterr().out.count("hypervolume") == 2
    open_page(browser, tmp_path / "compare.html")
    assert len(drawn(browser)) == 40
    assert len(browser.find_elements(By.CSS_SELECTOR, "#volumes tbody tr")) == 2
    names = browser.execute_script(
        "return document.getElementById('pareto').data.filter(t => t.meta.kind === 'front').map(t => t.name)"
    )
    assert len(names) == 2 * (1 + 4) and len(set(names)) == 10
    choose(browser, "cell", f"{two}: net-digits-taylor-int4-r0.50-s1")  # a cell of that name is in both
    wait(browser, f"document.getElementById('cell').value.startsWith('{two}')")
    accuracy = read_cells(two).set_index("cell").val_accuracy["net-digits-taylor-int4-r0.50-s1"]
    assert f"{100 * accuracy:.2f}%" in find(browser, "#cell-facts").text
    assert str(one) in find(browser, "#volumes").text  # both folders are called "made"
    assert errors(browser) == []
    with pytest.raises(UserError, match="twice"):
        compare_command([one, one], tmp_path / "compare.html")
    with pytest.raises(UserError, match="two sweeps"):
        compare_command([one], tmp_path / "compare.html")


# --- what writes it --------------------------------------------------------------------------------------------------


def test_page_loads_nothing_and_is_small(tmp_path):
    folder = make_sweep(tmp_path, models=("a", "b", "c", "d", "e"), ratios=tuple(i / 20 for i in range(17)), layers=54)
    path = write_report(folder)
    assert len(read_cells(folder)) == 1020
    assert path.stat().st_size < 3e6
    text = path.read_text()
    assert not re.search(
        r'<(script|img|iframe)[^>]*\ssrc=|<link|@import|url\((?!["\']?data:)', text.split('id="data"')[0]
    )
    assert "default-src 'none'" in text


def test_packed_data_are_base64_of_json():
    data = {"name": "</script><!-- & \u2028 {{data}}", "values": [1, None]}
    assert json.loads(gzip.decompress(base64.b64decode(packed(data), validate=True))) == data
    assert packed(data) == packed(data)
    with pytest.raises(ValueError):
        packed({"value": float("nan")})


def test_a_pages_title_is_text_and_what_is_filled_in_stays_as_it_is():
    text = page("<b>{{data}}</b>", "<main>{{script}}</main>", {}, "rank")
    assert "<title>&lt;b&gt;{{data}}&lt;/b&gt;</title>" in text and "<main>{{script}}</main>" in text


def test_layers_are_shared(made):
    record = read_record(made, "net-digits-taylor-int4-r0.50-s1")
    tables = layer_tables([record, None, record])
    assert tables["cells"] == dict.fromkeys(("structures", "shapes", "bits"), [0, None, 0])
    layers, (shape,) = record["cost"]["layers"], tables["shapes"]
    assert shape["channels_out"] == [layer["channels_out"] for layer in layers] and len(tables["bits"]) == 1


def test_correct_images_are_unpacked_as_the_stages_pack_them():
    torch = pytest.importorskip("torch")
    from qprune.storage.correctness import pack_bits

    right = torch.rand(77) < 0.5
    assert np.array_equal(correct_images({"test": {"correct": pack_bits(right.numpy()), "images": 77}}), right.numpy())
    assert correct_images(None) is None


def test_missing_records_are_left_out_damaged_ones_are_refused(tmp_path):
    folder = make_sweep(tmp_path)
    record = folder / "cells" / "net-digits-taylor-int4-r0.50-s1.json"
    record.unlink()
    (folder / "sweep.json").unlink()
    data = report_data([folder])
    assert data["details"]["layers"]["cells"]["shapes"].count(None) == 1
    record.write_text("{")
    with pytest.raises(UserError, match=rf"{record.name} is damaged.*run the sweep again"):
        report_data([folder])


def test_the_reason_of_a_failure_ends_with_its_log(tmp_path):
    cell = "net-digits-taylor-int8-r0.90-s2"
    folder = make_sweep(tmp_path, failed={cell: "loss is nan", "net-digits-taylor-int8-r0.90-s1": "no memory"})
    log = "\n".join(f"line {number}" for number in range(30))
    failure_file(folder, cell).write_bytes(
        sealed_json({"cell": cell, "reason": "loss is nan", "log": log, "stages": {}})
    )
    columns = report_data([folder])["cells"]
    reasons = [columns["reason"]["names"][place] for place in columns["reason"]["index"] if place >= 0]
    last = "\n".join(f"line {number}" for number in range(10, 30))
    assert reasons == ["no memory", f"loss is nan\n\nThe end of its log:\n{last}"]


def test_sweep_leaves_a_report(finished):
    folder = finished / "results" / "tiny"
    data = re.search(r'id="data">([^<]*)<', (folder / "report.html").read_text())[1]
    written = json.loads(gzip.decompress(base64.b64decode(data)))
    assert written["sweeps"][0]["name"] == "tiny" and written["counts"] == {
        "done": 16,
        "failed": 0,
        "pending": 0,
        "skipped": 0,
    }
    first = written["details"]["curves"]["cells"][0]
    assert first["phase"] == ["dense", "prune", "finetune", "quantize"]  # unpruned: the rest of pruning's budget


def test_curves_follow_each_other(finished):
    """The stages of a pruned cell cover its updates in order: dense N, path P, fine-tuning F, at its precision Q."""
    folder = finished / "results" / "tiny"
    data = report_data([folder])
    row = data["cells"]["cell"]["names"].index("vgg_tiny-digits-taylor-int4-r0.50-s0")
    parts = data["details"]["curves"]["cells"][data["details"]["rows"].index(row)]
    starts = [data["details"]["curves"]["curves"][place]["at"] for place in parts["curve"]]
    assert dict(zip(parts["phase"], starts, strict=True)) == {
        "dense": 0, "prune": N, "finetune": N + P, "quantize": N + P + F,
    }  # fmt: skip


def test_commands(finished, tmp_path):
    folder = finished / "results" / "tiny"
    done = command("pick", folder, "--max", "weight_bytes=200k", "--min", "accuracy=0.05", cwd=tmp_path)
    assert done.returncode == 0 and "accuracy is understood as val_accuracy" in done.stdout
    assert "export:   qprune export" in done.stdout and "runners-up" in done.stdout
    done = command("pick", folder, "--max", "bit_gflops=1e-12", "--min", "val_accuracy=0.05", cwd=tmp_path)
    assert done.returncode == NOTHING_FITS and re.search(
        r"without --max bit_gflops=1e-12: \w+, \d+% \w+: val_accuracy", done.stdout
    )
    done = command("pick", folder, "--max", "bit_glops=1", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean 'bit_gflops'" in done.stderr
    assert json.loads(command("pick", folder, "--json", cwd=tmp_path).stdout)["pick"]["cell"]
    done = command("report", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and "no cells.csv" in done.stderr


def test_figures(made, tmp_path):
    done = command("report", made, "--figures", tmp_path / "figures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        f"{name}.{kind}" for name in ("pareto", "budget", "heat", "layers", "curves") for kind in ("svg", "png")
    }
    assert "bit_gflops" in (tmp_path / "figures" / "pareto.svg").read_text()
    assert (tmp_path / "figures" / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_figures_without_a_browser(made, monkeypatch, tmp_path):
    from qprune.report.figures import write_figures

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt install chromium.*PNG and SVG buttons"):
        write_figures(made / "report.html", tmp_path)
    monkeypatch.setenv("QPRUNE_BROWSER", "/bin/true")
    with pytest.raises(UserError, match="drew no figures"):
        write_figures(made / "report.html", tmp_path)
