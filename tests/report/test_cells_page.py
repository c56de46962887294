"""One cell and two cells side by side: what is taken for what, and on which test images two networks disagree."""

import json

import made_sweep
import numpy as np
import pytest
from browser import errors, find, open_page, set_size, wait
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from qprune.analysis.costs import COST_WORDS
from qprune.analysis.front import operating_points
from qprune.analysis.statistics import sampling_interval
from qprune.report import classes
from qprune.report.build import report_data
from qprune.report.commands import write_report
from qprune.storage.correctness import classes_of, pack_classes, unpack_classes
from qprune.storage.results import read_cells, read_record

ONE, TWO = "net-digits-taylor-int4-r0.90-s{}", "net-digits-taylor-int8-r0.50-s{}"


def handed_over(folder, precision: str, ratio: float) -> str:
    points = operating_points(read_cells(folder))
    return points[(points.precision == precision) & (points.pruning_ratio == ratio)].cell.item()


def predicted(folder, cell: str) -> tuple[np.ndarray, np.ndarray]:
    return classes_of(read_record(folder, cell)["test"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = made_sweep.make_sweep(tmp_path_factory.mktemp("sweep"), ratios=(0.0, 0.5, 0.9))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def pair(made):
    return handed_over(made, "int4", 0.9), handed_over(made, "int8", 0.5)


@pytest.fixture
def report(browser, made, pair):
    set_size(browser, 1400, 1000)
    open_page(browser, made / "report.html", f"#cell={pair[0]}&other={pair[1]}")
    wait(browser, "document.querySelector('#two-images table') && document.querySelector('#confusion table')")
    yield browser
    assert errors(browser) == []


def rows_of(driver, selector: str) -> list[list[str]]:
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => [...r.cells].map(c => c.textContent))",
        selector,
    )


def test_confusion_counts_the_test_images(report, made, pair):
    labels, taken = predicted(made, pair[0])
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, taken), 1)
    rows = rows_of(report, "#confusion")
    assert [row[0] for row in rows] == [f"class {number}" for number in range(10)]
    assert [[0 if text == "·" else int(text) for text in row[1:11]] for row in rows] == counts.tolist()
    assert [row[11] for row in rows] == [str(count) for count in counts.sum(1)]
    recall = 100 * counts.diagonal() / counts.sum(1)
    assert [float(row[12].strip("%")) for row in rows] == pytest.approx(recall.tolist(), abs=0.051)
    assert f"{(labels == taken).sum()} right" in find(report, "#confusion").text


def test_two_cells_disagree_as_their_records_say(report, made, pair):
    (labels, one), (_, two) = (predicted(made, cell) for cell in pair)
    rows = {row[0]: row[1:] for row in rows_of(report, "#two-images")}
    for number in range(10):
        own, a, b = labels == number, one == labels, two == labels
        found = [int(text) for text in rows[f"class {number}"][3:]]
        wanted = [(a & ~b)[own].sum(), (~a & b)[own].sum(), (~a & ~b)[own].sum(), (one != two)[own].sum()]
        assert found == wanted
    wanted = sampling_interval(two == labels, one == labels)
    ends = " to ".join(f"{100 * end:+.2f}".replace("-", "−") for end in (wanted.low, wanted.high))
    assert f"{100 * wanted.mean:+.2f} percentage points, 95% {ends}" in find(report, "#two-images").text


def test_two_cells_numbers_seeds_layers_and_curves(report, made, pair):
    cells = read_cells(made).set_index("cell")
    facts = {row[0]: row[1:] for row in rows_of(report, "#two-facts")}
    difference = 100 * (cells.accuracy[pair[1]] - cells.accuracy[pair[0]])
    assert facts["precision"][:2] == ["int4", "int8"] and facts["test accuracy"][2] == f"{difference:+.2f} points"
    assert facts["weight_bytes"][2] == f"× {cells.weight_bytes[pair[1]] / cells.weight_bytes[pair[0]]:.3g}"
    each = [100 * (cells.accuracy[TWO.format(seed)] - cells.accuracy[ONE.format(seed)]) for seed in range(3)]
    assert f"test {np.mean(each):+.2f} ({', '.join(f'{one:+.2f}' for one in each)})" in find(report, "#two-seeds").text
    layers = rows_of(report, "#two-layers")
    for place, cell in enumerate(pair):
        kept = [str(layer["channels_out"]) for layer in read_record(made, cell)["cost"]["layers"]]
        assert [row[2 + place] for row in layers] == kept
    assert report.execute_script("return document.getElementById('two-curves').data.length") == 8


def test_cells_are_chosen_from_the_table_and_swapped(report, pair):
    find(report, "#filter").send_keys("fp16 r0.50 s1")
    find(report, "[aria-label='Compare with net-digits-taylor-fp16-r0.50-s1']").click()
    wait(report, "document.getElementById('other').value.includes('fp16-r0.50-s1')")
    wait(report, "location.hash.includes('other=net-digits-taylor-fp16-r0.50-s1')")
    assert report.execute_script("return document.activeElement.id") == "two-cells"
    find(report, "#swap").click()
    wait(report, "document.getElementById('first-cell').value.includes('fp16-r0.50-s1')")
    assert find(report, "#other").get_attribute("value") == pair[0]
    assert find(report, "#cell").get_attribute("value") == find(report, "#first-cell").get_attribute("value")


def test_at_first_the_second_is_the_unpruned_fp32_cell_that_is_handed_over(report, made):
    report.execute_script("location.hash = ''")
    dense = handed_over(made, "fp32", 0.0)
    wait(report, f"document.getElementById('other').value === '{dense}'")
    wait(report, "document.querySelectorAll('#two-images tbody tr').length === 10")


def test_each_cost_is_explained_where_it_stands(report):
    """By the keyboard, and on a narrow page too."""

    def shown() -> bool:
        return report.execute_script("return document.getElementById('help').matches(':popover-open')")

    for width, place in ((1400, "#view-controls"), (390, "#table th"), (390, "#limits")):
        set_size(report, width, 900)
        button = find(report, f"{place} [aria-label='What is bit_gflops?']")
        report.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
        button.send_keys(Keys.ENTER)
        assert shown() and find(report, "#help").text == f"bit_gflops: {COST_WORDS['bit_gflops'].text}"
        box = find(report, "#help").rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        button.send_keys(Keys.ESCAPE)
        assert not shown()
    explained = report.execute_script("return [...document.querySelectorAll('#table .help')].map(b => b.ariaLabel)")
    assert explained == [f"What is {name}?" for name in report_costs(report)]
    find(report, "#budget [aria-label='What is M?']").send_keys(Keys.ENTER)
    assert "M: the 80 updates that every network has had after N" in find(report, "#help").text
    set_size(report, 1400, 1000)


def report_costs(driver) -> list[str]:
    return driver.execute_script("return [...document.querySelectorAll('#x option')].map(option => option.value)")


def test_at_many_classes_the_most_confused_pairs_are_listed(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(made_sweep, "CLASSES", 102)
    folder = made_sweep.make_sweep(tmp_path, precisions=("fp32", "int4"), ratios=(0.0, 0.9), seeds=(0,))
    write_report(folder)
    cell = "net-digits-taylor-int4-r0.90-s0"
    open_page(browser, folder / "report.html", f"#cell={cell}")
    wait(browser, "document.querySelector('#confusion table')")
    labels, taken = predicted(folder, cell)
    wrong = labels[labels != taken]
    most = np.bincount(wrong, minlength=102).max()
    rows = rows_of(browser, "#confusion")
    assert len(rows) == 15 and int(rows[0][2]) == most and rows[0][1] == f"class {(int(rows[0][0][6:]) + 1) % 102}"
    find(browser, "#confusion summary").click()
    wait(browser, "document.querySelectorAll('#confusion details tbody tr').length === 102")
    set_size(browser, 390, 900)
    wait(browser, "document.documentElement.scrollWidth <= 390")  # charts follow a little later
    assert errors(browser) == []


def test_records_of_an_older_qprune_have_no_classes(browser, tmp_path):
    folder = made_sweep.make_sweep(tmp_path, precisions=("fp32",), ratios=(0.0, 0.5), seeds=(0,), old=True)
    write_report(folder)
    open_page(browser, folder / "report.html")
    wait(browser, "document.getElementById('two-images').textContent.includes('an older qprune')")
    assert "an older qprune" in find(browser, "#confusion").text
    assert len(browser.find_elements(By.CSS_SELECTOR, "#two-facts tbody tr")) > 8
    assert errors(browser) == []


def test_the_page_carries_the_classes_of_handed_over_cells_as_far_as_there_is_room(made, monkeypatch):
    def carried() -> tuple[list[str], dict]:
        data = report_data([made])
        rows = [data["details"]["rows"][place] for place in data["details"]["predicted"]["rows"]]
        return [data["cells"]["cell"]["names"][data["cells"]["cell"]["index"][row]] for row in rows], data["details"][
            "predicted"
        ]

    points = operating_points(read_cells(made))
    cells, tables = carried()
    assert sorted(cells) == sorted(points.cell) and len(tables["sets"]) == 1
    labels, taken = predicted(made, cells[3])
    differences = unpack_classes(tables["differences"][3], len(labels))
    assert ((labels + differences) % 10 == taken).all() and tables["sets"][0]["names"][9] == "class 9"
    monkeypatch.setattr(classes, "CELLS", 5)
    few, _ = carried()
    assert few == cells[:5] and handed_over(made, "fp32", 0.0) in few
    monkeypatch.setattr(classes, "CHARACTERS", sum(map(len, tables["differences"][:2])))
    assert carried()[0] == cells[:2]


def test_the_classes_of_100_cells_of_10000_images_fit():
    """With 100 classes and 70% right: the worst that is usual."""
    draws = np.random.default_rng(0)
    wrong = np.where(draws.random(10_000) < 0.7, 0, draws.integers(1, 100, 10_000))
    assert 100 * len(pack_classes(wrong)) < classes.CHARACTERS
    assert len(json.dumps(pack_classes(wrong))) == len(pack_classes(wrong)) + 2
