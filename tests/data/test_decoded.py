"""Decoded pictures in files: the same images as in memory, made once, whole or not at all, and never trusted unseen."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import PIL
import pytest
import torch
from filelock import FileLock
from photos import write_photos
from processes import wait_until
from small_disk import Disk
from tiny_sweep import SMALL, command, run_inline, run_workers, tiny_config

import qprune.data
from qprune.data import data_fingerprint, decoded, load_data
from qprune.recipe import Recipe
from qprune.registry.errors import UserError
from qprune.storage.durable import StorageError
from qprune.storage.results import read_cells, read_record
from qprune.training import minibatch

SIDE, OF_A_CHUNK = 16, 4
SETTINGS = {"name": "imagefolder", "image_size": SIDE}
PICTURES = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "photos"
    write_photos(root, PICTURES // 3)
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache's folder, empty; all pictures are large, and a chunk is of 4."""
    monkeypatch.setenv("QPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "LEAST_BYTES", 0)
    monkeypatch.setattr(decoded, "CHUNK_BYTES", OF_A_CHUNK * 3 * SIDE * SIDE)
    return tmp_path / "cache" / "decoded"


def load(root, **settings):
    qprune.data._load.cache_clear()
    return load_data({**SETTINGS, "root": str(root), **settings})


@pytest.fixture
def decodes(monkeypatch):
    """The files that are decoded, in order."""
    seen, plain = [], decoded.decode_pictures

    def decode(files, how):
        seen.extend(files)
        return plain(files, how)

    monkeypatch.setattr(decoded, "decode_pictures", decode)
    return seen


def in_memory(root, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoded, "LEAST_BYTES", sys.maxsize)
        return load(root, **settings)


def assert_same(one, other):
    for part in ("train", "val", "test"):
        a, b = getattr(one, part), getattr(other, part)
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert (one.mean, one.std, one.notes) == (other.mean, other.std, other.notes)


def mapped_files() -> set[Path]:
    return {
        Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".npy")
    }


@pytest.mark.parametrize("settings", [{}, {"subset": 7}, {"preprocess": {"filter": "bicubic"}}])
def test_they_are_the_images_that_memory_would_hold(photos, cache, settings):
    data = load(photos, **settings)
    (folder,) = cache.glob("[!.]*")
    assert {folder / f"{part}.npy" for part in ("train", "val", "test")} <= mapped_files()
    assert_same(data, in_memory(photos, **settings))
    data.train.images[0] = 0  # what a process writes is its own
    assert_same(load(photos, **settings), in_memory(photos, **settings))


def test_small_sets_stay_in_memory(photos, cache, monkeypatch):
    monkeypatch.setattr(decoded, "LEAST_BYTES", PICTURES * 3 * SIDE * SIDE + 1)
    load(photos)
    assert not cache.exists()


def test_each_is_decoded_once(photos, cache, decodes):
    load(photos)
    assert len(decodes) == len(set(decodes)) == PICTURES
    load(photos)
    load(photos, augment="flip")
    assert len(decodes) == PICTURES
    load(photos, subset=5)
    assert len(decodes) == PICTURES + 5 + 18  # of a smaller training split, beside it; 6 val, 12 test


def test_what_changes_the_images_changes_the_name(photos, cache, tmp_path, monkeypatch):
    load(photos)
    load(photos, preprocess={"resize": "squash"})
    monkeypatch.setattr(PIL, "__version__", "0.0")
    load(photos)
    shutil.copytree(photos, tmp_path / "photos")
    load(tmp_path / "photos")  # the same content elsewhere
    assert len(list(cache.glob("[!.]*"))) == 3
    next((tmp_path / "photos").rglob("*.bmp")).unlink()
    load(tmp_path / "photos")
    assert len(list(cache.glob("[!.]*"))) == 4


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("harm", [flip, lambda file: os.truncate(file, 500), lambda file: file.unlink()])
def test_damaged_ones_are_found_and_made_anew(photos, cache, decodes, capsys, harm, part):
    load(photos)
    (folder,) = cache.glob("[!.]*")
    harm(folder / f"{part}.npy")
    assert_same(load(photos), in_memory(photos))
    assert "are damaged; decoded anew" in capsys.readouterr().err
    assert len(decodes) == 3 * PICTURES  # the last of them in memory


def test_a_damaged_seal_says_nothing(photos, cache, decodes):
    load(photos)
    flip(next(cache.glob("*/seal.json")))
    load(photos)
    assert len(decodes) == 2 * PICTURES


def test_what_was_only_copied_is_read_once_and_kept(photos, cache, decodes, monkeypatch):
    load(photos)
    shutil.copytree(cache.parent, cache.parent.with_name("copy"), copy_function=shutil.copyfile)
    monkeypatch.setenv("QPRUNE_CACHE", str(cache.parent.with_name("copy")))
    checks, plain = [], decoded.is_whole
    monkeypatch.setattr(decoded, "is_whole", lambda *given: checks.append(given) or plain(*given))
    load(photos)
    load(photos)
    assert len(decodes) == PICTURES and len(checks) == 1


class Stop(Exception):
    pass


def stopped(monkeypatch, root, chunks, **settings):
    """Begin to decode, and stop after so many chunks."""
    with monkeypatch.context() as patch:
        left, plain = [None] * chunks, decoded.decode_pictures

        def decode(files, how):
            if not left:
                raise Stop
            left.pop()
            return plain(files, how)

        patch.setattr(decoded, "decode_pictures", decode)
        with pytest.raises(Stop):
            load(root, **settings)


def harmless(draft):
    pass


def torn(draft):
    for file, rest in ((draft / "test.npy", b"half a picture"), (draft / "test.sums", b"abc")):
        with open(file, "ab") as end:
            end.write(rest)


def harmed(draft):
    content = bytearray((draft / "test.npy").read_bytes())
    content[128 + OF_A_CHUNK * 3 * SIDE * SIDE] ^= 1  # the first byte of the second chunk
    (draft / "test.npy").write_bytes(content)


def no_header(draft):
    (draft / "test.npy").write_bytes(b"")


@pytest.mark.parametrize("harm, kept", [(harmless, 8), (torn, 8), (harmed, 4), (no_header, 0)])
def test_what_is_decoded_survives_a_stop(photos, cache, decodes, monkeypatch, harm, kept):
    """Whatever the machine left of it, what is as it was written is not decoded again, and nothing else is trusted."""
    stopped(monkeypatch, photos, chunks=2)
    (draft,) = cache.glob(".*.part")
    assert not list(cache.glob("[!.]*"))
    harm(draft)
    decodes.clear()
    data = load(photos)
    assert len(decodes) == PICTURES - kept and not draft.exists()
    assert_same(data, in_memory(photos))


def forked(action) -> int:
    """A process that does it and ends."""
    child = os.fork()
    if not child:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


def log_and_wait(log, seconds):
    plain = decoded.decode_pictures

    def decode(files, how):
        with open(log, "a") as file:
            file.write("".join(f"{name}\n" for name in files))
        time.sleep(seconds)
        return plain(files, how)

    decoded.decode_pictures = decode


def test_killed_while_it_decodes(photos, cache, decodes, tmp_path):
    log = tmp_path / "log"
    log.touch()

    def action():
        log_and_wait(log, 0.2)
        load(photos)

    child = forked(action)
    wait_until(lambda: len(log.read_text().splitlines()) > 3 * OF_A_CHUNK, 60)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    data = load(photos)
    assert 0 < len(decodes) <= PICTURES - 3 * OF_A_CHUNK
    assert_same(data, in_memory(photos))


def test_two_processes_at_once_decode_once(photos, cache, tmp_path):
    log = tmp_path / "log"

    def action():
        log_and_wait(log, 0.05)
        load(photos)

    children = [forked(action), forked(action)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    names = log.read_text().splitlines()
    assert len(names) == len(set(names)) == PICTURES


def test_no_room_is_said_before_and_a_disk_that_fills_up_loses_nothing(photos, cache, decodes, tmp_path, monkeypatch):
    with Disk(tmp_path / "disk") as disk:
        disk.mount("size=32k")
        check_a_full_disk(disk, photos, decodes, monkeypatch)


def check_a_full_disk(disk, photos, decodes, monkeypatch):
    monkeypatch.setenv("QPRUNE_CACHE", str(disk.folder))
    with pytest.raises(
        StorageError, match=r"take 0.0 MB more, and 0.0 MB are free; free some space there or name .* --cache"
    ):
        load(photos)
    assert not decodes
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1e9, 0, 1e9))
        with pytest.raises(StorageError, match="can't be written: No space left on device; free some space there"):
            load(photos)
    assert 0 < len(decodes) < PICTURES
    disk.remount("size=1m")
    done = len(decodes)
    assert_same(load(photos), in_memory(photos))
    assert (
        len(decodes) <= 2 * PICTURES + OF_A_CHUNK and done > OF_A_CHUNK
    )  # only what met the full disk was decoded twice


def test_a_cache_that_can_t_be_written_is_named_with_the_remedy(photos, cache, tmp_path, monkeypatch):
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("QPRUNE_CACHE", str(tmp_path / "a_file"))
    with pytest.raises(StorageError, match="a_file.* can't be written: .*; name another folder with --cache"):
        load(photos)


def test_a_picture_that_can_t_be_decoded_is_named(photos, cache, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    bad = sorted((tmp_path / "photos").rglob("*.webp"))[0]
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{bad.name} can't be decoded"):
        load(tmp_path / "photos")


def test_all_bad_pictures_are_named_at_once(photos, cache, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    bad = sorted((tmp_path / "photos").rglob("*.jpg"))[:25]
    for file in bad:
        file.write_bytes(file.read_bytes()[:200])
    for ask in (load, in_memory):
        with pytest.raises(UserError, match="25 pictures can't be read.*And 5 more") as told:
            ask(tmp_path / "photos")
        assert sum(str(file) in str(told.value) for file in bad) == 20


def test_the_command_lists_checks_and_clears(photos, cache, monkeypatch, tmp_path):
    def run(*options):
        done = command("cache", *options, cwd=tmp_path)
        return done.returncode, done.stdout

    assert run() == (0, f"{cache.parent}: 0 sets of decoded pictures, 0 MB\n")
    load(photos)
    stopped(monkeypatch, photos, chunks=2, subset=9)
    whole, draft = sorted(cache.glob("[!.]*"))[0], next(cache.glob(".*.part"))
    code, text = run("--check")
    assert code == 0 and "2 sets" in text and f"60 pictures of 16x16, 0 MB, from {photos}" in text
    assert f"{draft.name}: unfinished" in text
    flip(whole / "val.npy")
    assert run("--cache", tmp_path / "elsewhere", "--check")[0] == 0
    code, text = run("--check")
    assert code == 1 and f"damaged, deleted (the next sweep decodes them anew): {whole.name}" in text
    assert not whole.exists() and draft.exists() and run("--check")[0] == 0
    with FileLock(decoded._lock_of(whole.with_name(draft.name[1:-5]))):
        assert f"in use, so left: {draft.name}" in run("--clear")[1]
    code, text = run("--clear")
    assert code == 0 and "0 sets" in text and not list(cache.glob("*.part"))


def test_what_a_process_has_mapped_it_keeps(photos, cache):
    data = load(photos)
    (kept,) = decoded.kept()
    assert decoded.clear(kept) and decoded.kept() == []
    assert_same(data, in_memory(photos))


def test_records_are_those_without_it_by_any_number_of_workers(photos, cache, tmp_path):
    settings = (*SMALL, f"data={{name: imagefolder, root: {photos}, image_size: {SIDE}}}", "train.batch_size=8")
    runs = {}
    for name in ("memory", "inline", "workers"):
        (tmp_path / name).mkdir()
        config, out = tiny_config(tmp_path / name, *settings), tmp_path / name / "results"
        qprune.data._load.cache_clear()
        if name == "workers":  # which are other processes, and map whatever is there
            code, text = run_workers(config, out, workers=2)
        else:
            with pytest.MonkeyPatch.context() as patch:
                if name == "memory":
                    patch.setattr(decoded, "LEAST_BYTES", sys.maxsize)
                code, _, text = run_inline(config, out)
        assert code == 0, text
        runs[name] = networks_of(out)
    assert len(runs["memory"]) == 4 and runs["memory"] == runs["inline"] == runs["workers"]


def networks_of(out) -> dict:
    """Cell -> what its record says of the network and of its answers."""
    cells = read_cells(out / "tiny").cell
    records = [read_record(out / "tiny", cell) for cell in cells]
    return {one["cell"]: (one["network_sha256"], one["validation"], one["test"], one["cost"]) for one in records}


def test_larger_ones_are_kept_for_crops(photos, cache):
    settings = {"store_size": 24, "augment": ["resized_crop", "flip"]}
    data = load(photos, **settings)
    (folder,) = cache.glob("[!.]*")
    assert folder / "stored.npy" in mapped_files() and data.train.stored.shape == (42, 3, 24, 24)
    larger = load(photos, image_size=24)
    assert torch.equal(data.train.stored, larger.train.images) and torch.equal(data.train.labels, larger.train.labels)
    plain, memory = load(photos), in_memory(photos, **settings)
    assert_same(data, plain)
    assert torch.equal(memory.train.stored, data.train.stored)
    few = load(photos, subset=9, **settings)
    assert torch.equal(few.train.stored, load(photos, subset=9, image_size=24).train.images)
    assert data_fingerprint({**SETTINGS, "root": str(photos)}) == data_fingerprint(
        {**SETTINGS, "root": str(photos), "store_size": None}
    )

    recipe = Recipe(batch_size=8, augment=data.augment)
    images, labels = minibatch(data.train, recipe, 0, 0)
    assert images.shape == (8, 3, SIDE, SIDE) and 0 <= images.min() < images.max() <= 1
    plain_images, plain_labels = minibatch(plain.train, recipe, 0, 0)
    assert torch.equal(labels, plain_labels) and not torch.equal(images, plain_images)
    some = data.train.chosen(torch.tensor([3, 1]))
    assert torch.equal(some.stored, data.train.stored[[3, 1]]) and len(data.train.first(2).stored) == 2


@pytest.mark.parametrize("settings, told", [
    ({"store_size": 16}, "store_size is 16; it must be more than image_size 16"),
    ({"store_size": 24}, "store_size is for crops: give augment: .resized_crop, flip."),
    ({"store_size": "24"}, "store_size is '24'; it must be a whole number"),
])  # fmt: skip
def test_a_size_that_nothing_uses_is_refused(photos, settings, told):
    with pytest.raises(UserError, match=told):
        data_fingerprint({**SETTINGS, "root": str(photos), **settings})
