"""A sweep on 20,000 pictures: memory of 1, 2 and 4 workers, seconds until its first and second run are done.

python tests/benchmarks/decoded.py [--pictures 20000] [--package FOLDER --named before]

--package: the folder of another version of qprune, whose rows are put beside those that are there. Memory is each process's
share of what is mapped (PSS), once it no longer grows. The runs that are timed make two cells of a few updates,
each in a results folder of its own; the first of them with an empty cache.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from bench import RESULTS, write
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from processes import group_is_empty, members, memory_share, running, wait_until  # noqa: E402

from qprune.storage.store import Store  # noqa: E402

CLASSES, SIDE = 10, 96
SWEEP = """\
name: decoded
data: {{name: imagefolder, root: {root}, image_size: {side}}}
model: {{name: vgg_tiny, width: 0.25}}
seeds: [0, 1, 2, 3]
precisions: [fp32]
prune: {{ratios: [0]}}
train: {{updates: 100000, batch_size: 8, lr: 0.01}}
finetune: {{updates: 1}}
protocol: classic
"""
SHORT = ("train.updates=4", "seeds=[0,1]")


def write_pictures(root: Path, count: int) -> None:
    """Smooth JPEGs of 128 x 112 pixels, in folders of splits and classes; few to validate and to test on."""
    random = np.random.RandomState(0)
    for number in range(count):
        part = {0: "val", 1: "test"}.get(number // CLASSES % 100, "train")
        folder = root / part / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.randint(0, 256, (7, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((128, 112), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def start(folder: Path, package: Path, cache: Path, name: str, workers: int, *settings: str) -> subprocess.Popen:
    sets = [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package), "QPRUNE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-m", "qprune", "sweep", "decoded.yaml", "--out", name, "--workers", str(workers), *sets],
        cwd=folder, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def memory_of(folder: Path, package: Path, cache: Path, workers: int) -> dict[str, float]:
    """MB of all processes, and of a worker."""
    process = start(folder, package, cache, f"memory{workers}", workers)
    store = Store(folder / f"memory{workers}" / "stages")
    try:
        wait_until(lambda: len(running(store)) == workers, 600, process)
        seen: list[dict[int, float]] = []
        while len(seen) < 5 or sum(seen[-1].values()) > 1.01 * sum(seen[-4].values()):  # it still grows
            time.sleep(5)
            seen.append({pid: memory_share(pid) for pid in members(process.pid)})
        found = seen[-1]
        own = [found[pid] for pid in running(store)]
    finally:
        if not group_is_empty(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"mb_in_all": round(sum(found.values())), "mb_per_worker": round(sum(own) / len(own))}


def seconds_of(folder: Path, package: Path, cache: Path, name: str) -> float:
    """Of a whole run with few updates, by two workers."""
    begun = time.perf_counter()
    process = start(folder, package, cache, name, 2, *SHORT)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return round(time.perf_counter() - begun, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--named", default="now")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place), Path(place) / "cache"
        write_pictures(folder / "pictures", given.pictures)
        (folder / "decoded.yaml").write_text(SWEEP.format(root=folder / "pictures", side=SIDE))
        time.sleep(3)  # files that have just changed are read again
        package = given.package.resolve()
        common = {"version": given.named, "pictures": given.pictures, "side": SIDE}
        first = seconds_of(folder, package, cache, "first")
        second = seconds_of(folder, package, cache, "second")
        rows = [{**common, "what": "seconds", "workers": 2, "first_run": first, "second_run": second}]
        for workers in (1, 2, 4):
            rows.append({**common, "what": "memory", "workers": workers, **memory_of(folder, package, cache, workers)})
            shutil.rmtree(folder / f"memory{workers}")
    names = ["version", "pictures", "side", "what", "workers", "first_run", "second_run", "mb_in_all", "mb_per_worker"]
    table = pd.DataFrame(rows, columns=names)
    if (RESULTS / "decoded.csv").is_file():
        before = pd.read_csv(RESULTS / "decoded.csv")[names]
        table = pd.concat([before[before.version != given.named], table])
    write("decoded", table.astype(object).where(table.notna(), "").to_dict("records"))


if __name__ == "__main__":
    main()
