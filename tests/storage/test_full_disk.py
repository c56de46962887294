"""A disk that is full or read-only: one clear error, what is finished stays, and the same command goes on after."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import members, wait_until
from same import check_complete, leftovers
from small_disk import Disk
from tiny_sweep import COMMAND, SMALL, environment, run_inline, tiny_config, write_tiny

from qprune.stages import partial
from qprune.storage.durable import StorageError
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store

PAGE = 4096
FULL = re.compile(
    r"(\S+) can't be written: No space left on device; free some space there\. What is finished is kept: "
)
READ_ONLY = re.compile(r"(\S+) can't be written: Read-only file system; make it writable or name another folder with ")
EPOCHS = (  # more than one epoch of 8 updates, so that some is saved; few pages of tensors, each of which is waited for
    *(*SMALL, "train.updates=20", "quantize.updates=10"),
    "model={name: vgg_tiny, width: 0.25}",
)


@pytest.fixture
def disk(tmp_path):
    with Disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_inline(tiny_config(folder, *EPOCHS), folder / "results")[0] == 0
    return folder


def check_whole(results: Path) -> list[str]:
    """Whatever is in place is whole and readable; returns the cells whose records are there."""
    store, sweep = Store(results / "stages"), results / "tiny"
    for stage in store.folder.glob("[!.]*"):
        store.verify(stage.name)
    cells = [file.stem for file in (sweep / "cells").glob("[!.]*.json")]
    for cell in cells:
        read_record(sweep, cell)
    if (sweep / "cells.csv").exists():
        read_cells(sweep)
    assert not [name for name in leftovers(results) if not re.search(r"^stages/\.(locks|partial)/[^.]", name)]
    return cells


def writer(results: Path, path: str) -> str:
    """What kind of file couldn't be written."""
    parts = Path(path).relative_to(results).parts
    if parts[0] == "stages" and len(parts) > 1:
        return parts[1] if parts[1].startswith(".") else "stage"
    return parts[min(1, len(parts) - 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "start", "steps", "saving", "hit"),
    [
        ("size", PAGE, (PAGE, 256 * PAGE), float("inf"), {"stage", ".partial", "report.html"}),
        pytest.param(
            "size", PAGE, (PAGE, 256 * PAGE), partial.SAVING_SHARE, {"stage", "cells", "cells.csv", "report.html"},
            marks=pytest.mark.long,
        ),
        ("nr_inodes", 2, (1, 1), float("inf"),
         {"stages", "tiny", "sweep.json", "stage", ".locks", ".partial", "cells", "cells.csv", "networks"}),
    ],
)  # fmt: skip
def test_a_disk_that_is_full_wherever_that_happens(disk, undisturbed, monkeypatch, what, start, steps, saving, hit):
    """Its space (bytes, or files) grows little by little: each time the sweep gets a little further."""
    monkeypatch.setattr(partial, "SAVING_SHARE", saving)  # unfinished work: every epoch, or none at all
    config, results = tiny_config(undisturbed, *EPOCHS), disk.folder / "results"
    space, found, cells = start, set(), []
    disk.mount(f"{what}={space}")
    while True:
        try:
            code, _, text = run_inline(config, results, report=True)
            break
        except StorageError as error:
            assert (told := FULL.match(str(error))), error
            assert told[1].startswith(str(results)), error
        found.add(writer(results, told[1]))
        before, cells = cells, check_whole(results) if results.exists() else []
        assert set(before) <= set(cells)
        space += steps[told[1].endswith("report.html")]
        disk.remount(f"{what}={space}")
    assert code == 0, text
    assert "mended:" not in text and "failed" not in text
    assert hit <= found, found
    check_complete(disk.folder, undisturbed, "tiny")


def refused(disk: Disk, told: re.Pattern, *arguments: str, **variables: str) -> str:
    """The real command ends with one line of error, and with no process left; returns what can't be written."""
    process = subprocess.Popen(
        [*COMMAND, "sweep", "tiny.yaml", "--workers", "2", *arguments], cwd=disk.folder.parent, text=True,
        env={**environment(), **variables}, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 2, stdout + stderr
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert (match := told.match(stderr.removeprefix("error: "))), stderr
    assert match[1].startswith("disk/results")
    assert "Traceback" not in stdout and "failed" not in stdout, stdout
    wait_until(lambda: not members(process.pid), 60)  # Python's own helper process ends a moment later
    return match[1]


@pytest.mark.slow
def test_the_command_on_a_disk_that_fills_up(disk, finished, tmp_path):
    """The workers' own temporary files are on the full disk, too."""
    write_tiny(tmp_path)
    blocks = {file.stat().st_ino: file.stat().st_blocks * 512 for file in (finished / "results/stages").rglob("*")}
    disk.mount(f"size={int(0.85 * sum(blocks.values())) // PAGE * PAGE}")
    (disk.folder / "tmp").mkdir()
    refused(disk, FULL, "--out", "disk/results", TMPDIR=str(disk.folder / "tmp"))
    before = check_whole(disk.folder / "results")
    assert before  # cells were finished, and are in place
    disk.remount("size=100m")
    code, _, text = run_inline(tiny_config(tmp_path), disk.folder / "results")
    assert code == 0 and not re.search("mended:|failed", text), text
    check_complete(disk.folder, finished, "tiny")


def test_the_command_on_a_disk_that_is_full_from_the_start(disk, tmp_path):
    write_tiny(tmp_path)
    disk.mount("size=64k")
    with pytest.raises(OSError, match="No space"), open(disk.folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(PAGE))
    assert refused(disk, FULL, "--out", "disk/results") == "disk/results/tiny/sweep.json"
    (disk.folder / "filler").unlink()
    assert check_whole(disk.folder / "results") == []


def test_the_command_on_a_disk_that_cannot_be_written(disk, tmp_path):
    write_tiny(tmp_path)
    disk.mount("size=1m,ro")
    refused(disk, READ_ONLY, "--out", "disk/results")


@pytest.mark.parametrize("retry_failed", [False, True])
@pytest.mark.parametrize("state", ["finished", "draft", "pending", "failed", "damaged"])
def test_a_disk_that_has_become_read_only(disk, undisturbed, state, retry_failed):
    """Whatever it was in the middle of."""
    disk.mount("size=100m")
    results = disk.folder / "results"
    shutil.copytree(undisturbed / "results", results)
    config = tiny_config(undisturbed, *EPOCHS)
    stages = results / "stages"
    evaluated = next(stages.glob("evaluate-*"))
    if state == "draft":
        for folder in (results / "tiny", results / "tiny/cells", stages / ".failed"):
            folder.mkdir(exist_ok=True)
            (folder / ".a.json.4194304").touch()  # no process can have this number
    if state in ("pending", "failed"):
        shutil.rmtree(evaluated)
    if state == "failed":
        Store(stages).fail(evaluated.name, "no luck")
        assert run_inline(config, results)[0] == 1
    if state == "damaged":
        (evaluated / "stage.json").write_text("{")
    before = {file: file.stat().st_mtime_ns for file in results.rglob("*")}
    disk.remount("ro")
    with pytest.raises(StorageError, match=READ_ONLY):
        run_inline(config, results, retry_failed=retry_failed)
    assert {file: file.stat().st_mtime_ns for file in results.rglob("*")} == before
    disk.remount("rw")
    code, _, text = run_inline(config, results, retry_failed=True)
    assert code == 0, text
    assert set(read_cells(results / "tiny").status) == {"done"}
