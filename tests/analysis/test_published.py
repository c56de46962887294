"""Published results beside sweeps: their table, what the terminal says of them, and the page in a real browser."""

import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from browser import errors, find, open_page, set_size, wait
from made_sweep import make_sweep
from selenium.webdriver.common.by import By
from tiny_sweep import command

from qprune.analysis.published import COLUMNS, REQUIRED, Published, read_published, same_name, standing_words, standings
from qprune.cost import count_cost
from qprune.networks import build_model
from qprune.registry.errors import UserError
from qprune.report.build import report_data
from qprune.report.commands import compare_command, print_published
from qprune.report.html import write_page

TABLES = Path(__file__).parents[2] / "results" / "published"
TABLE = TABLES / "cifar10.csv"
AXES = "#x=relative_bops&y=accuracy"
ALIKE = "as qprune: by hand"
ONE = Published("Method", "net", "digits", 0.95, ALIKE, "a repository", "repo", relative_bops=0.01)
TEXTS = {
    "method": "Method", "model": "net", "data": "digits", "accuracy": "0.95", "relative_bops": "0.01", "counting": ALIKE,
    "read_in": "a repository", "verified": "repo",
}  # fmt: skip


def write(path: Path, *rows: dict) -> Path:
    """A table of published results."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return path


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_table_is_read(tmp_path):
    first = write(
        tmp_path / "a.csv",
        TEXTS,
        TEXTS | {"accuracy": " 1 ", "relative_bops": "5e-3", "verified": "no", "gbops": "1e-3", "epochs": "40"},
    )
    second = write(
        tmp_path / "b.csv",
        TEXTS
        | {
            "method": "Ä, <b>",
            "counting": "otherwise",
            "dense_gflops": "1.2",
            "weight_bytes": "26500",
            "baseline": "0.9",
        },
    )
    second.write_bytes(
        b"\xef\xbb\xbf" + second.read_bytes() + b"\r\n,,\r\n"
    )  # a spreadsheet's mark and its empty lines
    assert read_published([first, second]) == [
        ONE,
        replace(ONE, accuracy=1.0, relative_bops=0.005, verified="no", gbops=0.001, epochs=40.0),
        replace(ONE, method="Ä, <b>", counting="otherwise", dense_gflops=1.2, weight_bytes=26500.0, baseline=0.9),
    ]


def test_columns_that_may_be_missing(tmp_path):
    (tmp_path / "t.csv").write_text(",".join((*REQUIRED, "weight_bytes")) + "\nm,n,d,0.5,c,r,no,1000\n")
    assert read_published([tmp_path / "t.csv"]) == [Published("m", "n", "d", 0.5, "c", "r", "no", weight_bytes=1000.0)]


def test_costs_by_hand():
    assert ONE.costs == {"relative_bops": 0.01}
    assert replace(ONE, dense_gflops=1.2).costs == {"bit_gflops": 0.01 * 1.2, "relative_bops": 0.01}
    assert replace(ONE, gbops=0.512).costs == {"bit_gflops": 0.001, "relative_bops": 0.01}
    only = replace(ONE, relative_bops=None, weight_bytes=26500.0)
    assert only.costs == {"weight_bits_bytes": 26500.0} and (only.axis, only.cost) == ("weight_bits_bytes", 26500.0)


def test_the_committed_tables():
    published = {path.stem: read_published([path]) for path in sorted(TABLES.glob("*.csv"))}
    assert {name: len(rows) for name, rows in published.items()} == {"cifar10": 11, "cifar10_resnet8": 19, "mnist": 1}
    vgg7 = [one for one in published["cifar10"] if one.model == "vgg7"]
    assert [(one.method, one.accuracy, one.relative_bops, one.is_checked) for one in vgg7] == [
        ("BayesianBits mu=0.01", 0.9323, 0.0051, True),
        ("BayesianBits mu=0.1", 0.9196, 0.0029, True),
        ("GETA", 0.9257, 0.0041, True),
        ("DJPQ", 0.915, 0.0048, False),
    ]
    assert [one.caveats("vgg7", "cifar10") for one in vgg7] == [[], [], [], ["counted otherwise"]]
    dense = count_cost(build_model({"name": "vgg7"}, 3, 10, 32).eval(), (3, 32, 32))
    pooled = dense.gflops - 2 * (8192 - 512) * 1024 / 1e9  # GETA's head stands behind global average pooling
    expected = [dense.gflops, dense.gflops, pooled, dense.gflops]
    assert [one.dense_gflops for one in vgg7] == pytest.approx(expected, abs=5e-5)
    contested = [one for one in published["cifar10"] if one.model == "resnet20"]
    assert [(one.relative_bops, one.is_checked) for one in contested] == [(0.045, False), (0.0843, False)]
    resnet8 = {(one.method, one.cost): one.accuracy for one in published["cifar10_resnet8"]}
    assert {one.axis for one in published["cifar10_resnet8"]} == {"weight_bits_bytes"}
    assert resnet8["w8a8", 77360.0] == 0.8626 and resnet8["Motetti joint", 26500.0] == 0.844
    assert all(one.caveats("resnet8", "cifar10") == [] for one in published["cifar10_resnet8"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"accuracy": "93.23"}, r"t\.csv:3: accuracy is 93\.23, not a share from 0 to 1; write 93\.23% as 0\.9323"),
        ({"accuracy": "-0.1"}, r"t\.csv:3: accuracy is -0\.1, not a share"),
        ({"accuracy": "nan"}, r"t\.csv:3: accuracy is nan, not a share"),
        ({"accuracy": "93.2%"}, r"t\.csv:3: accuracy is '93\.2%', not a number"),
        ({"relative_bops": "about 0.01"}, r"t\.csv:3: relative_bops is 'about 0\.01', not a number"),
        ({"relative_bops": "0"}, r"t\.csv:3: relative_bops is 0, not a share above 0 to 1"),
        ({"relative_bops": "1.1"}, r"t\.csv:3: relative_bops is 1\.1, not a share"),
        ({"verified": "yes"}, r"t\.csv:3: verified is 'yes'; write one of repo, paper, figure, issue, no"),
        ({"relative_bops": ""}, r"t\.csv:3: no cost; give one of gbops, relative_bops, weight_bytes"),
        ({"weight_bytes": "26.5 kB"}, r"t\.csv:3: weight_bytes is '26\.5 kB', not a number above 0"),
        ({"epochs": "0"}, r"t\.csv:3: epochs is '0', not a number above 0"),
        ({"baseline": "86.1"}, r"t\.csv:3: baseline is 86\.1, not a share"),
        ({"dense_gflops": "0"}, r"t\.csv:3: dense_gflops is '0', not a number above 0; leave it empty"),
        ({"dense_gflops": "inf"}, r"t\.csv:3: dense_gflops is 'inf'"),
        ({"dense_gflops": "1.2 G"}, r"t\.csv:3: dense_gflops is '1\.2 G'"),
        ({"method": " "}, r"t\.csv:3: method is empty"),
        ({"read_in": ""}, r"t\.csv:3: read_in is empty"),
    ],
)
def test_a_bad_row_is_refused(tmp_path, changed, message):
    path = write(tmp_path / "t.csv", TEXTS, TEXTS | changed)
    with pytest.raises(UserError, match=message):
        read_published([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv is empty; a table of published results is"),
        ((",".join(COLUMNS) + "\n").encode(), "no row under its header"),
        (",".join(COLUMNS[:-1]).encode(), "t.csv:1: no column is called verified"),
        (",".join((*COLUMNS, "data")).encode(), "t.csv:1: two columns are called data"),
        ((",".join(COLUMNS) + "\nMethod,net,digits\n").encode(), "t.csv:2: 3 fields under 13 columns"),
        (b"method,\xff\xfe", "can't be read as a table"),
        ((",".join(COLUMNS) + "\n" + "x" * 200_000).encode(), "can't be read as a table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_published([tmp_path / "t.csv"])


def test_a_missing_table_and_one_named_twice_are_refused(tmp_path):
    with pytest.raises(UserError, match="none.csv: no such file"):
        read_published([tmp_path / "none.csv"])
    with pytest.raises(UserError, match="named twice"):
        read_published([TABLE, TABLE])


def test_names_are_the_same_by_letters_and_digits():
    assert same_name("CIFAR-10", "cifar10") and same_name("VGG7", "vgg_7")
    assert not same_name("cifar10", "cifar100") and not same_name("resnet20", "resnet18")


# --- what the sweeps have at that cost -------------------------------------------------------------------------------


POINTS = pd.DataFrame(
    [  # by hand; test accuracy would choose otherwise, and the second and third are equal
        ("one", "net", "digits", 0.50, 0.002, 0.90, 0.99),
        ("one", "net", "digits", 0.25, 0.010, 0.94, 0.93),
        ("one", "net", "digits", 0.75, 0.008, 0.94, 0.935),
        ("one", "net", "digits", 0.00, 0.0101, 0.99, 0.98),
        ("one", "other", "cifar10", 0.00, 0.01, 0.6, 0.5),
        ("two", "Net", "Digits", 0.00, 0.02, 0.99, 0.99),
    ],
    columns=["sweep", "model", "data", "pruning_ratio", "relative_bops", "val_accuracy", "accuracy"],
).assign(precision="int4", criterion="taylor", method="prune_first", seeds=3)
POINTS["bit_gflops"] = POINTS.relative_bops * 2  # of dense networks of 2 GFLOPs


def test_the_step_function_by_hand():
    for limit, place in ((0.0019, None), (0.002, 0), (0.0079, 0), (0.008, 2), (0.01, 2), (0.0101, 3), (1, 3)):
        found = standings(POINTS, replace(ONE, relative_bops=limit))
        assert [(one.sweep, one.model) for one in found] == [("one", "net"), ("one", "other"), ("two", "Net")]
        assert found[0].point == place
        assert found[2].point == (5 if limit >= 0.02 else None)


def test_the_dense_network_makes_costs_absolute():
    """Of a dense network half as large as the sweeps', twice the share costs the same."""
    for share, places in ((0.0039, None), (0.004, 0), (0.016, 2), (0.0202, 3)):
        assert standings(POINTS, replace(ONE, relative_bops=share, dense_gflops=1.0))[0].point == places


def test_a_table_without_the_column_of_that_cost():
    bytes_only = replace(ONE, relative_bops=None, weight_bytes=1e9)
    assert {(one.point, one.counted) for one in standings(POINTS, bytes_only)} == {(None, False)}
    counted = standings(POINTS.assign(weight_bits_bytes=[1e9, 2e9, 2e9, 2e9, 1.0, 1.0]), bytes_only)
    assert [(one.point, one.counted) for one in counted] == [(0, True), (4, True), (5, True)]


def test_on_it_is_within_a_point():
    assert standing_words(0.94 - 0.95) == "on it, -1.00 percentage points"
    assert standing_words(-0.0101) == "below it, -1.01 percentage points"
    assert standing_words(0.0101) == "above it, +1.01 percentage points"


def test_what_is_printed(capsys):
    other = replace(ONE, verified="no", counting="with accumulation", relative_bops=0.001, epochs=40.0, baseline=0.96)
    print_published(POINTS, [ONE, other])
    assert capsys.readouterr().out.splitlines() == [
        "published: Method (net on digits): 95.00% at relative_bops 0.01",
        "  one, net on digits: 93.50% at 0.008 (int4, 75% pruned, taylor, 3 seed(s)): below it, -1.50 percentage points",
        "  one, other on cifar10: 50.00% at 0.01 (int4, 0% pruned, taylor, 3 seed(s)); "
        "not comparable: another data set (digits), another model (net)",
        "  two, Net on Digits: no operating point is that cheap",
        "published: Method (net on digits, unverified, dense FP32 96.00%, 40 epochs): 95.00% at relative_bops 0.001",
        "  one, net on digits: no operating point is that cheap; not comparable: counted otherwise",
        "  one, other on cifar10: no operating point is that cheap; "
        "not comparable: another data set (digits), another model (net), counted otherwise",
        "  two, Net on Digits: no operating point is that cheap; not comparable: counted otherwise",
        "These are test accuracies; each operating point is the best by validation accuracy at no more than that cost. "
        '"On it" is within 1 percentage point: by chance, two networks at 86% differ by so much on 10,000 images.',
        "How the sources count:",
        "  Method: as qprune: by hand; read in a repository (the authors' repository)",
        "  Method: with accumulation; read in a repository (not checked)",
    ]
    print_published(
        POINTS[:1], [replace(ONE, dense_gflops=0.5), replace(ONE, relative_bops=None, weight_bytes=26500.0)]
    )
    assert capsys.readouterr().out.splitlines()[:4] == [
        "published: Method (net on digits): 95.00% at bit_gflops 0.005",
        "  one, net on digits: 99.00% at 0.004 (int4, 50% pruned, taylor, 3 seed(s)): above it, +4.00 percentage points",
        "published: Method (net on digits): 95.00% at weight_bits_bytes 26,500",
        "  one, net on digits: its table has no weight_bits_bytes; it was made by an earlier qprune",
    ]


def test_a_sweep_without_finished_cells(tmp_path, capsys):
    folder = make_sweep(tmp_path, precisions=("fp32",), ratios=(0.0,), seeds=(0,), pending=1)
    compare_command([folder], tmp_path / "page.html", published=[TABLE])
    assert "  no cell of the sweeps is finished yet\n" in capsys.readouterr().out


def test_they_enter_nothing_else(tmp_path):
    folders = [make_sweep(tmp_path / "one"), make_sweep(tmp_path / "two", noise=1)]
    labels = ["one", "two"]
    best = replace(ONE, accuracy=1.0, relative_bops=1e-6)
    without, beside = report_data(folders, labels), report_data(folders, labels, [best])
    assert without.pop("published") == [] and len(beside.pop("published")) == 1
    assert without.pop("written") <= beside.pop("written")
    assert without == beside


def test_the_command(tmp_path):
    folder = make_sweep(tmp_path / "sweep", precisions=("fp32", "int4"), ratios=(0.0, 0.5), seeds=(0,))
    table = write(tmp_path / "t.csv", TEXTS)
    done = command("compare", folder, "--published", table, "--published", TABLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("published: ") == 12 and "hypervolume" not in done.stdout
    assert (tmp_path / "compare.html").is_file()
    done = command("compare", folder, "--published", table, "--figures", tmp_path / "figures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ">Method</text>" in (tmp_path / "figures" / "published.svg").read_text()
    assert ">Method</text>" not in (tmp_path / "figures" / "pareto.svg").read_text()
    write(table, TEXTS | {"accuracy": "95"})
    for arguments, message in (
        ((folder, "--published", table), "t.csv:2: accuracy is 95"),
        ((folder,), "or one and --published FILE"),
        ((folder, "--published", TABLE, "--answers"), "--answers needs two"),
    ):
        done = command("compare", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


# --- the page --------------------------------------------------------------------------------------------------------


ODD = "<b>Odd & Co</b>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """(a page with three published results, one of them of another data set and model; the same without any)."""
    folder = tmp_path_factory.mktemp("page")
    sweep = make_sweep(folder)
    table = write(
        folder / "t.csv",
        TEXTS | {"method": ODD},
        TEXTS | {"method": "Second", "accuracy": "1", "relative_bops": "0.00001", "verified": "no"},
        TEXTS | {"method": "Third", "model": "vgg7", "data": "cifar10", "relative_bops": "0.5"},
    )
    compare_command([sweep], folder / "with.html", published=[table])
    write_page(folder / "without.html", report_data([sweep]))
    return folder / "with.html", folder / "without.html"


@pytest.fixture
def page(browser, pages):
    set_size(browser, 1280, 1000)
    open_page(browser, pages[0], AXES)
    yield browser
    assert errors(browser) == []


def plotted(driver, kind):
    """[name, x, y] of the plot's traces of one kind."""
    script = "return document.getElementById('pareto').data.filter(t => t.meta.kind === arguments[0]).map(t => [t.name, [...t.x], [...t.y]])"
    return driver.execute_script(script, kind)


def labels(driver):
    """The texts that are drawn at the plot's markers."""
    return [text.text for text in driver.find_elements(By.CSS_SELECTOR, "#pareto .textpoint text")]


def test_markers_on_their_axes(page):
    (trace,) = plotted(page, "published")
    assert trace == ["published", pytest.approx([0.01, 1e-5, 0.5]), pytest.approx([95, 100, 95])]
    assert labels(page) == [ODD, "Second", "Third"]
    symbols = "return document.getElementById('pareto').data.find(t => t.meta.kind === 'published').marker.symbol"
    assert page.execute_script(symbols) == ["hexagram", "hexagram-open", "hexagram"]
    assert not page.find_elements(By.ID, "show-published")
    said = find(page, "#published .note").text
    assert "3 published points" in said
    assert "Not comparable – another data set (cifar10), another model (vgg7): Third." in said


@pytest.mark.parametrize("fragment", ["", "#x=relative_bops", "#y=accuracy", "#x=gflops&y=accuracy"])
def test_no_markers_on_other_axes_but_a_button(page, pages, fragment):
    open_page(page, pages[0], fragment)
    assert plotted(page, "published") == [] and labels(page) == []
    assert not page.find_elements(By.CSS_SELECTOR, "[data-key='published:all']")
    button = find(page, "#show-published")
    assert button.text == "3 published points are shown for relative_bops and test accuracy"
    button.click()
    wait(page, "document.querySelectorAll('#pareto .textpoint text').length === 3")
    assert [find(page, f"#{name}").get_attribute("value") for name in ("x", "y")] == ["relative_bops", "accuracy"]
    wait(page, "document.activeElement.dataset.key === 'published:all'")
    wait(page, "location.hash.includes('x=relative_bops') && location.hash.includes('y=accuracy')")


def test_absolute_costs_on_the_absolute_axis(browser, tmp_path):
    """Relative to a dense network of another size they can't be compared; by bit_gflops they can."""
    sweep = make_sweep(tmp_path)
    table = write(tmp_path / "t.csv", TEXTS | {"dense_gflops": "1.25"}, TEXTS | {"method": "Relative"})
    compare_command([sweep], tmp_path / "page.html", published=[table])
    open_page(browser, tmp_path / "page.html", "#x=bit_gflops&y=accuracy")
    (trace,) = plotted(browser, "published")
    assert trace[1:] == [pytest.approx([0.0125]), pytest.approx([95])] and labels(browser) == ["Method"]
    said = find(browser, "#published .note").text
    assert "1 has no bit_gflops." in said and "Not comparable" not in said
    open_page(browser, tmp_path / "page.html", AXES)
    assert labels(browser) == ["Method", "Relative"]
    assert (
        "Not comparable – relative to a dense network of another size: Method."
        in find(browser, "#published .note").text
    )
    assert errors(browser) == []


def test_legend_hides_them(page):
    find(page, "[data-key='published:all']").click()
    wait(page, "document.querySelectorAll('#pareto .textpoint text').length === 0")
    assert plotted(page, "published") == [] and len(plotted(page, "points")) == 4
    assert find(page, "[data-key='published:all']").get_attribute("aria-pressed") == "false"
    find(page, "[data-key='published:all']").click()
    wait(page, "document.querySelectorAll('#pareto .textpoint text').length === 3")


def point_at(driver, number):
    """Move the pointer to the marker of a published result; returns its place."""
    node = f"[...document.querySelectorAll('#pareto .scatterlayer .trace')].find(g => g.__data__[0].trace.name === 'published').querySelectorAll('.points path')[{number}]"
    driver.execute_script("document.getElementById('pareto').scrollIntoView()")
    x, y = driver.execute_script(
        f"const r = {node}.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]"
    )
    for step in (3, 0):
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + step, "y": y})
        driver.execute_async_script("setTimeout(arguments[0], 150)")
    return x, y


def test_hover_says_all_of_one(page):
    before = find(page, "#cell-facts").text
    x, y = point_at(page, 2)
    card = find(page, "#card")
    for text in (
        "Third (published)", "vgg7", "cifar10", "95.00%", "0.5", "a repository", ALIKE, "the authors' repository",
        "another data set (cifar10), another model (vgg7)",
    ):  # fmt: skip
        assert text in card.text
    for kind in ("mousePressed", "mouseReleased"):
        click = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        page.execute_cdp_cmd("Input.dispatchMouseEvent", click)
    page.execute_async_script("setTimeout(arguments[0], 400)")
    assert find(page, "#cell-facts").text == before  # there is no cell to choose
    point_at(page, 1)
    assert "Second (published)" in card.text and "not checked" in card.text and "not comparable" not in card.text


def test_a_table_has_the_same(page):
    find(page, "#published summary").click()
    rows = page.execute_script(
        "return [...document.querySelectorAll('#published tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[0] for row in rows] == [ODD, "Second", "Third"]
    assert rows[1][1:] == ["net", "digits", "100.00%", "", "1e-5", "", "", "", "not checked", ALIKE, "a repository"]


def test_fronts_and_pick_are_as_without_them(page, pages):
    """One of them would dominate all that the sweep has."""
    parts = ("#pick", "#pick-more", "#bears", "#equal")
    seen = [find(page, part).text for part in parts], plotted(page, "front"), plotted(page, "points")
    open_page(page, pages[1], AXES)
    assert ([find(page, part).text for part in parts], plotted(page, "front"), plotted(page, "points")) == seen
    assert plotted(page, "published") == [] and find(page, "#published").text == ""


def test_a_saved_picture_has_them(page):
    find(page, "[aria-label='Save tradeoff as SVG']").click()
    path = page.downloads / "tradeoff.svg"
    for _ in range(200):
        if path.exists():
            break
        wait(page, "new Promise(done => setTimeout(() => done(true), 50))")
    svg = path.read_text()
    assert ">Second</text>" in svg and ">published</text>" in svg
