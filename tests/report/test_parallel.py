"""Parallel coordinates: every point is a line, and what is chosen on an axis filters the plot, the pick and the table."""

import json

import numpy as np
import pytest
from browser import errors, find, open_page, set_size, wait
from made_sweep import make_sweep
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from qprune.analysis.front import operating_points
from qprune.report.commands import write_report
from qprune.storage.results import read_cells

DRAWN = (
    "document.getElementById('pareto').data.filter(t => t.meta.kind === 'points').flatMap(t => [...t.customdata])"
    ".sort((a, b) => a - b)"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_sweep(tmp_path_factory.mktemp("sweep"), methods=("prune_first", "quantize_first"), pending=2)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def points(made):
    return operating_points(read_cells(made))


@pytest.fixture
def report(browser, made):
    set_size(browser, 1400, 1000)
    open_page(browser, made / "report.html")
    yield browser
    assert errors(browser) == []


def left(driver, count: int) -> list[int]:
    """The points that the plot has, once it has so many."""
    wait(driver, f"{DRAWN}.length === {count}")
    return driver.execute_script(f"return {DRAWN}")


def ways(driver, kind: str) -> list[int]:
    """Rows of the lines of one class: "", "gone" or "beyond"."""
    script = (
        "return [...document.querySelectorAll('.ways path')].filter(way => way.getAttribute('class') === arguments[0])"
        ".map(way => Number(way.dataset.row))"
    )
    return driver.execute_script(script, kind)


def axis_names(driver) -> list[str]:
    return driver.execute_script("return [...document.querySelectorAll('.reach')].map(axis => axis.dataset.axis)")


def drag(driver, axis: str, start: float, end: float) -> None:
    """Drags along an axis with the mouse; start and end: shares of its length from the top."""
    reach = find(driver, f".reach[data-axis='{axis}']")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", reach)
    height = driver.execute_script("return arguments[0].getBoundingClientRect().height", reach) - 16
    actions = ActionChains(driver, duration=20)
    actions.move_to_element_with_offset(reach, 0, round((start - 0.5) * height)).click_and_hold()
    actions.move_to_element_with_offset(reach, 0, round((end - 0.5) * height)).release().perform()


def test_every_point_is_a_line_over_the_axes_that_differ(report, points):
    assert len(report.find_elements(By.CSS_SELECTOR, ".ways path")) == len(points) == 40
    names = axis_names(report)
    assert names[:3] == ["precision", "pruning_ratio", "method"] and names[-1] == "val_accuracy"
    assert "weight_bytes" in names and "latency_ms" not in names
    ticks = report.execute_script(
        "return [...document.querySelectorAll('.parallel-axis .tick')].map(t => t.textContent)"
    )
    assert {"int4", "quantize_first", "0%", "90%"} <= set(ticks)
    colours = report.execute_script(
        "return [...new Set([...document.querySelectorAll('.ways path')].map(w => w.getAttribute('stroke')))]"
    )
    assert len(colours) == 4


def test_the_mouse_filters_plot_pick_and_table(report, points):
    drag(report, "precision", 1, 0.2)  # fp32, fp16 and int8 of four
    kept = [int(row) for row in points.index[points.precision != "int4"]]
    assert left(report, 30) == kept
    assert sorted(ways(report, "gone")) == [int(row) for row in points.index[points.precision == "int4"]]
    assert "30 of 40 points are left: precision up to int8." in find(report, "#parallel-said").text
    assert "30 of 30 points keep the limits" in find(report, "#pick").text
    assert "90 of 120 cells, those of the points that the filter leaves" in find(report, "#pages").text
    assert "knows limits, and no filter" in find(report, "#pick-commands").text
    assert "qprune pick /" not in find(report, "#pick-commands").text
    drag(report, "precision", 0.5, 0.5)  # a click
    assert left(report, 40)
    drag(report, "bit_gflops", 1, 0.5)
    cost = np.log(points.bit_gflops)
    cheap = [int(row) for row in points.index[cost <= (cost.min() + cost.max()) / 2]]
    assert left(report, len(cheap)) == cheap
    find(report, "#filter-reset").click()
    assert left(report, 40) and not find(report, "#filter-reset").is_enabled()
    assert "qprune pick /" in find(report, "#pick-commands").text


def test_the_keys_do_what_the_mouse_does(report, points):
    handle = find(report, "#only-pruning_ratio-low")
    handle.send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
    wait(report, f"{DRAWN}.length === 24")
    handle = report.switch_to.active_element
    assert handle.get_attribute("id") == "only-pruning_ratio-low" and handle.get_attribute("aria-valuetext") == "50%"
    find(report, "#only-pruning_ratio-high").send_keys(Keys.HOME)  # not beyond the other handle
    kept = [int(row) for row in points.index[points.pruning_ratio == 0.5]]
    assert left(report, 8) == kept
    assert "pruning_ratio 50%." in find(report, "#parallel-said").text
    find(report, "#only-pruning_ratio-low").send_keys(Keys.HOME)
    find(report, "#only-pruning_ratio-high").send_keys(Keys.END)
    assert left(report, 40)


def test_limits_fade_the_lines_that_they_leave_out(report, points):
    find(report, "#max-weight_bytes-field").send_keys("50000")
    beyond = [int(row) for row in points.index[points.weight_bytes > 50000]]
    assert beyond and ways(report, "beyond") == beyond and ways(report, "gone") == []


def test_the_address_keeps_the_filter_and_bad_ones_do_no_harm(report, made):
    only = {"precision": ["int8", None], "val_accuracy": [0.5, 0.98]}
    open_page(report, made / "report.html", f"#only={json.dumps(only)}")
    assert "precision from int8, val_accuracy 50.0% to 98.0%" in find(report, "#parallel-said").text
    find(report, "#only-method-high").send_keys(Keys.ARROW_DOWN)
    wait(report, 'decodeURIComponent(location.hash).includes(\'"method":[null,"prune_first"]\')')
    for bad in ("[", "null", '{"precision":["none",null]}', '{"__proto__":[1,2]}', '{"gflops":1}'):
        report.execute_script("location.hash = arguments[0]", '#only={"precision":["int4",null]}')
        assert left(report, 10)
        report.execute_script("location.hash = arguments[0]", f"#only={bad}")
        assert left(report, 40)


def test_a_filter_that_leaves_nothing_says_so(report, made):
    open_page(report, made / "report.html", '#only={"val_accuracy":[null,0.01]}')
    assert "The filter leaves nothing" in find(report, "#pick").text
    assert "0 of 40 points" in find(report, "#parallel-said").text
    find(report, "#filter-reset").click()
    assert left(report, 40)


def test_a_narrow_page_scrolls_the_axes_and_not_itself(report, made):
    set_size(report, 390, 900)
    open_page(report, made / "report.html")
    inside, outside = report.execute_script(
        "const axes = document.getElementById('parallel'); return [axes.scrollWidth > axes.clientWidth,"
        " document.documentElement.scrollWidth]"
    )
    assert inside and outside <= 390


def test_labels_cover_no_points(report, made):
    """At the width of a telephone too, and within the plot."""
    script = """
      const boxes = [...document.querySelectorAll('#pareto .marks text')].map(text => text.getBoundingClientRect());
      const points = [...document.querySelectorAll('#pareto .scatterlayer .points path')].map(node => {
        const box = node.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
      });
      const plot = document.getElementById('pareto').getBoundingClientRect();
      return {
        labels: boxes.length,
        covered: boxes.flatMap(box => points.filter(([x, y]) => x > box.left && x < box.right && y > box.top && y < box.bottom)),
        outside: boxes.filter(box => box.left < plot.left || box.right > plot.right || box.top < plot.top).length,
      };"""
    for width in (1400, 390):
        set_size(report, width, 900)
        for view in ("", "#prefer=cheapest&min=0.9", "#prefer=knee&x=weight_bytes"):
            open_page(report, made / "report.html", view)
            found = report.execute_script(script)
            assert found["labels"] and found["covered"] == [] and found["outside"] == 0, (width, view, found)
