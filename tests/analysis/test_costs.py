"""The words of the columns of costs: every cost has some, and the documentation's table has the same."""

import re
from pathlib import Path

import pytest

from qprune.analysis.costs import COST_WORDS, cost_words
from qprune.analysis.front import COSTS

HOUSE = Path(__file__).parents[2]


def test_every_cost_has_words():
    assert set(COSTS) <= set(COST_WORDS)
    with pytest.raises(KeyError):
        cost_words("bit_glops")


def test_the_table_of_the_documentation_has_the_same_words():
    """README.md or sweeps/README.md: a row's first cell names columns, its second says what they count."""
    pages = "".join(page.read_text() for page in (HOUSE / "README.md", *HOUSE.glob("sweeps/README.md")))
    found = {}
    for columns, text in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", pages, re.M):
        found |= dict.fromkeys(re.findall(r"`(\w+)`", columns), text.replace("`", ""))
    shared = set(found) & set(COST_WORDS)
    assert {"bit_gflops", "gflops", "weight_bytes"} <= shared
    for column in shared:
        assert found[column] == COST_WORDS[column].text, column


def test_a_latency_of_a_device_names_it():
    words = cost_words("latency_ms@pi")
    assert words.title == "measured latency in ms on pi" and "on pi" in words.text and words.unit == "ms"
