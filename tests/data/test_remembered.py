"""What was read of files is looked up by size and times, and never where it could have changed."""

import os

import pytest

import qprune.data.files as files
from qprune.data import remembered
from qprune.storage.durable import StorageError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "MANY", 3)
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def named(tmp_path):
    (tmp_path / "files").mkdir()
    for name in ("a", "b", os.fsdecode(b"\xff")):
        (tmp_path / "files" / name).write_text(f"content of {name!r}")
    return [(path.name, path) for path in sorted((tmp_path / "files").iterdir())]


@pytest.fixture
def reads(monkeypatch):
    """The paths that are read, in order."""
    seen, plain = [], files._hash_content.__wrapped__
    monkeypatch.setattr(files, "_hash_content", lambda path, *state: seen.append(path) or plain(path, *state))
    return seen


def hashed(named) -> str:
    with remembered.remembering(len(named)):
        return files.hash_files(named)


def test_nothing_is_read_twice_but_what_has_changed(cache, named, reads):
    first = hashed(named)
    assert hashed(named) == first and len(reads) == 3
    status = named[1][1].stat()
    named[1][1].write_text("CONTENT of 'b'")
    os.utime(named[1][1], ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size, and made to look as old
    assert hashed(named) != first and reads[3:] == [str(named[1][1])]
    named[1][1].write_text("content of 'b'")
    assert hashed(named) == first and len(reads) == 5


def test_it_is_the_hash_of_the_files(cache, named):
    assert hashed(named) == hashed(named) == files.hash_files(named)


def test_few_files_are_read_each_time(cache, named, reads):
    hashed(named[:2])
    hashed(named[:2])
    assert len(reads) == 4 and not cache.exists()


def test_what_has_just_changed_is_not_remembered(cache, named, reads, monkeypatch):
    monkeypatch.setattr(remembered, "SETTLED_NS", 10**12)
    hashed(named)
    hashed(named)
    assert len(reads) == 6


def test_what_an_interrupted_run_has_read_is_kept(cache, named, reads, monkeypatch):
    monkeypatch.setattr(remembered, "AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt), remembered.remembering(3):
        for _, path in named[:2]:
            files.hash_content(path)
        raise KeyboardInterrupt
    hashed(named)
    assert len(reads) == 3


@pytest.mark.parametrize("harm", [b"", b"no table at all, but longer than a header of sqlite's would be" * 20])
def test_a_damaged_table_is_made_anew(cache, named, reads, harm):
    first = hashed(named)
    (cache / "files.sqlite").write_bytes(harm)
    assert hashed(named) == first and len(reads) == 6
    assert hashed(named) == first and len(reads) == 6


def test_a_folder_that_can_t_be_written_is_named_with_the_remedy(tmp_path, named, cache, monkeypatch):
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("QPRUNE_CACHE", str(tmp_path / "a_file"))
    with pytest.raises(StorageError, match="a_file.* can't be written: .*--cache"):
        hashed(named)
    monkeypatch.setenv("QPRUNE_CACHE", str(cache))
    (cache / "files.sqlite").mkdir(parents=True)
    with pytest.raises(StorageError, match="files.sqlite can't be written: .*--cache"):
        hashed(named)
