"""Entries by name, and the one checker of their options."""

import math
from fractions import Fraction

import pytest

from qprune.registry import Entry, Registry
from qprune.registry.errors import UserError
from qprune.registry.options import Option, as_float, fill, identity_of, is_number, is_whole, one_of, split_name, switch


def test_entries_are_looked_up_by_name_and_imported_on_first_use():
    kinds = Registry("number", Entry("pi", "math:pi", version=3), Entry("mathematics", "math"))
    assert kinds.names() == ["pi", "mathematics"] and "pi" in kinds and "tau" not in kinds and ["pi"] not in kinds
    assert kinds.get("pi").version == 3 and kinds.load("pi") == math.pi and kinds.load("mathematics") is math
    Registry("number", Entry("later", "no_such_module:thing"))  # nothing is imported to register it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fractoin", r"^unknown number 'fractoin'; did you mean 'fraction'\? \(valid: fraction\)$"),
        ("x" * 200, r"^unknown number 'x{56}\.\.\. \(valid: fraction\)$"),
        (None, "^unknown number null"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, message):
    kinds = Registry("number", Entry("fraction", "fractions:Fraction"))
    for ask in (kinds.get, kinds.load):
        with pytest.raises(UserError, match=message):
            ask(name)


def test_a_name_is_registered_once():
    kinds = Registry("number", Entry("pi", "math:pi"))
    with pytest.raises(ValueError, match="number 'pi' is registered twice: math:pi and cmath:pi"):
        kinds.add(Entry("pi", "cmath:pi"))
    assert kinds.load("pi") == math.pi


def test_entries_can_be_there_for_a_while():
    kinds = Registry("number", Entry("pi", "math:pi"))
    with pytest.raises(ZeroDivisionError), kinds.temporarily(Entry("fraction", "fractions:Fraction")):
        assert kinds.load("fraction") is Fraction
        with pytest.raises(ValueError, match="twice"), kinds.temporarily(Entry("e", "math:e"), Entry("pi", "math:e")):
            pass
        assert kinds.names() == ["pi", "fraction"]
        raise ZeroDivisionError
    assert kinds.names() == ["pi"]


def _folder(value):
    if value == "nowhere":
        raise ValueError("which isn't there")
    return f"/{value}"


OPTIONS = {
    "scale": Option(1.0, lambda value: is_number(value) and value >= 0, "a number of at least 0", as_float),
    "count": Option(2, lambda value: is_whole(value, 1, 9), "a whole number from 1 to 9"),
    "root": Option("here", lambda value: isinstance(value, str), "a path", _folder),
    "fast": switch(False),
    "way": one_of("left", "right"),
}


def test_options_are_filled_and_brought_into_one_form():
    defaults = {"scale": 1.0, "count": 2, "root": "/here", "fast": False, "way": "left"}
    assert fill("thing a", {}, OPTIONS) == defaults
    given = {"way": "right", "scale": -0.0, "count": 9, "root": "x", "fast": True}
    filled = fill("thing a", given, OPTIONS)
    assert filled == {"scale": 0.0, "count": 9, "root": "/x", "fast": True, "way": "right"}
    assert list(filled) == list(OPTIONS) and math.copysign(1, filled["scale"]) == 1
    assert isinstance(fill("thing a", {"scale": 3}, OPTIONS)["scale"], float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scael": 1}, "thing a: unknown option 'scael'; did you mean 'scale'? (valid: scale, count, root, fast, way)"),
        ({"scale": -1}, "thing a: scale is -1; it must be a number of at least 0"),
        ({"scale": True}, "thing a: scale is true; it must be a number of at least 0"),
        ({"scale": math.nan}, "thing a: scale is nan; it must be a number of at least 0"),
        ({"count": 10}, "thing a: count is 10; it must be a whole number from 1 to 9"),
        ({"count": 2.0}, "thing a: count is 2.0; it must be a whole number from 1 to 9"),
        ({"root": None}, "thing a: root is null; it must be a path"),
        ({"root": "nowhere"}, "thing a: root is 'nowhere', which isn't there"),
        ({"fast": 1}, "thing a: fast is 1; it must be true or false"),
        ({"way": "up"}, "thing a: way is 'up'; it must be one of left, right"),
        ({"way": ["left"]}, "thing a: way is ['left']; it must be one of left, right"),
    ],
)
def test_bad_options_are_refused(given, message):
    with pytest.raises(UserError) as caught:
        fill("thing a", given, OPTIONS)
    assert str(caught.value) == message


def test_settings_are_a_name_and_options():
    settings = {"name": "a", "scale": 1}
    assert split_name("thing", settings, "a") == ("a", {"scale": 1}) and settings["name"] == "a"
    for bad in ({}, {"name": ["a"]}):
        with pytest.raises(UserError, match="thing: the settings {.*} need a name, as in {name: a}"):
            split_name("thing", bad, "a")


def test_an_option_that_came_later_is_no_part_of_the_name_at_the_value_of_before():
    options = {"width": Option(1.0), "root": Option(None, identity=False), "depth": Option(3, before=2)}
    assert identity_of({"width": 1.0, "root": "a", "depth": 2}, options) == {"width": 1.0}
    assert identity_of({"width": 1.0, "root": "a", "depth": 3}, options) == {"width": 1.0, "depth": 3}
