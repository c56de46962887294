"""results/README.md quotes what is in the tables beside it.

A number that is a link to a table says in the link's title what it is there:

    [87.3](review_c/cells.csv "accuracy: precision=int4, pruning_ratio=0.5")
        the mean over the rows, in percent where the column is an accuracy; [87.3 [86.9, 87.7]] with its 95% interval over seeds
    [+0.4 [0.1, 0.7]](review_c/cells.csv "accuracy: precision=int4, pruning_ratio=0 - precision=fp32, pruning_ratio=0")
        of differences, paired by seed
    [0.74](benchmarks/memory_format.csv "min ratio_median: pruned=0, values_per_weight>=1")
        min, max, median or count of the rows
"""

import operator
import re
from pathlib import Path

import pandas as pd
import pytest

from qprune.analysis.statistics import interval
from qprune.analysis.studies import paired_differences

RESULTS = Path(__file__).parents[1] / "results"
LINK = re.compile(r'\[((?:[^\[\]]|\[[^\[\]]*\])+)\]\(([\w/.-]+\.csv) "([^"]+)"\)')
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
TERM = re.compile(rf"(\w+)({'|'.join(OPERATORS)})(.+)")
SUMMARIES = {"min": min, "max": max, "median": lambda values: values.median(), "count": len}
SHARES = ("accuracy", "recall", "baseline")  # in a column's name: a share of 1, quoted in percent


def rows_where(table: pd.DataFrame, terms: str) -> pd.DataFrame:
    """The rows that fulfil "column=value, column>=value ..."; ValueError where one of them says nothing of the table."""
    for term in filter(None, map(str.strip, terms.split(","))):
        column, sign, text = TERM.fullmatch(term).groups()
        if column not in table:
            raise ValueError(f"no column {column}")
        numeric = pd.api.types.is_numeric_dtype(table[column]) and not pd.api.types.is_bool_dtype(table[column])
        own = table[column] if numeric else table[column].astype(str)
        table = table[OPERATORS[sign](own, float(text) if numeric else text)]
    if table.empty:
        raise ValueError(f"no row with {terms}")
    return table


def values_of(table: pd.DataFrame, title: str) -> tuple[float, ...]:
    """(value,) or (mean, low, high) that a title stands for."""
    what, _, terms = title.partition(":")
    summary, column = what.split() if " " in what else ("", what)
    scale = 100 if any(name in column for name in SHARES) else 1
    if summary:
        return (scale * SUMMARIES[summary](rows_where(table, terms)[column]),)
    first, _, second = terms.partition(" - ")
    sides = [rows_where(table, side) for side in (first, second) if side]
    if "seed" not in table:
        (rows,) = sides
        return (scale * rows[column].mean(),)
    by_seed = [dict(zip(side.seed, scale * side[column], strict=True)) for side in sides]
    assert all(len(own) == len(side) for own, side in zip(by_seed, sides, strict=True)), f"a seed twice: {title}"
    found = interval(list(by_seed[0].values()) if len(sides) == 1 else paired_differences(*by_seed))
    return found.mean, found.low, found.high


def as_quoted(value: float, text: str) -> str:
    """A value with as many decimals as the number that quotes it."""
    return f"{value:.{len(text.partition('.')[2])}f}"


def disagreements(page: str, folder: Path) -> list[str]:
    """What a page quotes otherwise than its tables have it."""
    found, tables = [], {}
    for text, path, title in LINK.findall(page):
        if path not in tables:
            tables[path] = pd.read_csv(folder / path, comment="#")
        quoted = [number.replace(",", "").lstrip("+") for number in NUMBER.findall(text)]
        values = [
            as_quoted(value, number) for value, number in zip(values_of(tables[path], title), quoted, strict=False)
        ]
        if not quoted or [float(value) for value in values] != [float(number) for number in quoted]:
            found.append(f'{text} ({path} "{title}") is {", ".join(values)}')
    return found


def test_the_page_quotes_its_tables():
    page = (RESULTS / "README.md").read_text()
    assert len(LINK.findall(page)) >= 10
    assert disagreements(page, RESULTS) == []


@pytest.fixture
def table(tmp_path) -> Path:
    rows = [("int4", 0.5, seed, accuracy) for seed, accuracy in enumerate((0.90, 0.92, 0.94))]
    rows += [("fp32", 0.0, seed, accuracy) for seed, accuracy in enumerate((0.95, 0.96, 0.97))]
    frame = pd.DataFrame(rows, columns=["precision", "pruning_ratio", "seed", "accuracy"])
    frame.assign(bytes=range(1000, 7000, 1000)).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "title", "right"),
    [
        ("92.0", "accuracy: precision=int4", True),
        ("92", "accuracy: precision=int4, pruning_ratio=0.5", True),
        ("92.1", "accuracy: precision=int4", False),
        ("92.0 [87.0, 97.0]", "accuracy: precision=int4", True),  # +- 4.303 x 2 / sqrt(3)
        ("92.0 [87.1, 97.0]", "accuracy: precision=int4", False),
        ("-4.0 [-6.5, -1.5]", "accuracy: precision=int4 - precision=fp32", True),
        ("+4.0", "accuracy: precision=fp32 - precision=int4", True),
        ("97%", "max accuracy: pruning_ratio<0.5", True),
        ("2,000", "median bytes: precision=int4", True),
        ("3", "count bytes: precision!=fp32", True),
        ("no number", "accuracy: precision=int4", False),
    ],
)
def test_a_quotation_by_hand(table, text, title, right):
    assert bool(disagreements(f'is [{text}](t.csv "{title}") here', table)) is not right


@pytest.mark.parametrize("title", ["accuracy: precision=int5", "accuracy: width=4", "speed: precision=int4"])
def test_a_quotation_of_nothing_is_an_error(table, title):
    with pytest.raises((ValueError, KeyError)):
        disagreements(f'[92.0](t.csv "{title}")', table)


def test_a_seed_twice_is_an_error(table):
    with pytest.raises(AssertionError, match="a seed twice"):
        disagreements('[92.0](t.csv "accuracy: seed>=0")', table)
