"""What a command keeps for the next one is found by all that it follows from, or not at all."""

import os
import time

import pytest

from qprune.storage import kept as module
from qprune.storage.kept import keep, kept

FOLLOWS_FROM = {"model": {"name": "vgg_tiny", "width": 0.5}, "shape": (1, 8, 8)}


@pytest.fixture
def one():
    """The file of something that is kept."""
    keep("facts", FOLLOWS_FROM, {"maps": 112})
    (file,) = module.PLACE.iterdir()
    return file


def test_it_is_found_by_what_it_follows_from(one):
    assert kept("facts", FOLLOWS_FROM) == {"maps": 112}
    assert kept("timings", FOLLOWS_FROM) is None
    assert kept("facts", FOLLOWS_FROM | {"shape": (1, 8, 9)}) is None
    assert kept("facts", FOLLOWS_FROM | {"model": {"name": "vgg_tiny", "width": 1}}) is None


@pytest.mark.parametrize("changed", ["qprune", "python", "torch", "torchvision", "brevitas", "pillow"])
def test_other_code_finds_it_out_anew(one, monkeypatch, changed):
    code = module.code()
    monkeypatch.setattr(module, "code", lambda: code | {changed: "other"})
    assert kept("facts", FOLLOWS_FROM) is None
    keep("facts", FOLLOWS_FROM, {"maps": 3})
    assert kept("facts", FOLLOWS_FROM) == {"maps": 3}
    monkeypatch.undo()


def test_a_changed_line_of_the_package_is_other_code(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "sub/one.py").write_text("a = 1")
    monkeypatch.setattr(module.qprune, "__file__", str(tmp_path / "__init__.py"))
    before = module.source_hash.__wrapped__()
    (tmp_path / "sub/one.py").write_text("a = 2")
    assert module.source_hash.__wrapped__() != before


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_damage_is_passed_over_and_mended(one, content):
    whole = one.read_bytes()
    one.write_bytes(content or whole[:-2])
    assert kept("facts", FOLLOWS_FROM) is None
    keep("facts", FOLLOWS_FROM, {"maps": 112})
    assert kept("facts", FOLLOWS_FROM) == {"maps": 112}


def test_another_ones_file_under_the_same_name_is_not_taken(one, monkeypatch):
    keep("facts", "another", {"maps": 5})
    (other,) = set(module.PLACE.iterdir()) - {one}
    one.write_bytes(other.read_bytes())
    assert kept("facts", FOLLOWS_FROM) is None and kept("facts", "another") == {"maps": 5}


def test_a_home_that_cannot_be_written_to_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "PLACE", tmp_path / "file/known")
    keep("facts", FOLLOWS_FROM, {"maps": 112})
    assert kept("facts", FOLLOWS_FROM) is None


def test_what_is_old_is_deleted_as_something_is_kept(one):
    old = time.time() - (module.KEPT_DAYS + 1) * 24 * 3600
    os.utime(one, (old, old))
    keep("facts", "another", {"maps": 5})
    assert not one.exists() and kept("facts", "another") == {"maps": 5}
