"""A sweep on pictures of 30 GB decoded, by processes that together may have 2 GB: what it plans, trains and takes.

sudo python tests/benchmarks/larger_than_memory.py [--gigabytes 30] [--limit 2]

The pictures are links to a few files, and what they are decoded to is a file of holes, which reads as zeros and fills memory as any
other: the benchmark is of what is mapped, not of decoding. The limit is a memory cgroup's (version 1), the page cache included,
which the kernel takes back; a process that had to hold the data would be killed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import write
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from processes import members, memory_share  # noqa: E402

from qprune.data import _content, _listing, _resolve, decoded  # noqa: E402
from qprune.data.preprocessing import Preprocessing  # noqa: E402
from qprune.storage.seal import sealed_json  # noqa: E402

SIDE, CLASSES, OTHERS = 160, 100, 10  # images of a class to validate and to test on
LINKS = 30_000  # to one file, of which a file system allows some 65,000
UPDATES, BATCH = 700, 64
SWEEP = f"""\
name: large
data: {{{{name: imagefolder, root: {{root}}, image_size: {SIDE}, augment: flip}}}}
model: strided:build
seeds: [0]
precisions: [fp32]
prune: {{{{ratios: [0]}}}}
train: {{{{updates: {UPDATES}, batch_size: {BATCH}, lr: 0.01}}}}
finetune: {{{{updates: 1}}}}
quantize: {{{{updates: 1}}}}
protocol: classic
"""
MODEL = """\
from torch import nn


def build(num_classes):
    convolutions = nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, num_classes))
"""
GROUP = Path("/sys/fs/cgroup/memory/qprune-benchmark")


def write_links(root: Path, count: int) -> None:
    """So many pictures, in folders of splits and classes."""
    source = root.with_name("one.jpg")
    for number in range(count):
        if number % LINKS == 0:
            source = root.with_name(f"one{number}.jpg")
            Image.fromarray(np.full((8, 8, 3), number // LINKS, np.uint8)).save(source)
        place = number // CLASSES
        part = "val" if place < OTHERS else "test" if place < 2 * OTHERS else "train"
        folder = root / part / f"class{number % CLASSES:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(source, folder / f"{number}.jpg")


def make_holes(settings: dict) -> int:
    """Puts files of holes where the decoded pictures are looked for; returns their bytes."""
    resolved = _resolve(settings)
    how = Preprocessing.of_pictures(SIDE, resolved["options"]["preprocess"])
    listing = _listing(resolved)
    parts = {name: decoded.Part(files, how) for name, (files, _) in listing.parts.items()}
    folder = decoded.cache_folder() / "decoded" / decoded.key_of(parts, _content(resolved))
    folder.mkdir(parents=True)
    for name, part in parts.items():
        with open(folder / f"{name}.npy", "wb") as file:
            header = decoded._header(part.shape)
            file.write(header)
            file.truncate(len(header) + part.bytes)
    seal = {
        "pictures_in": str(listing.root), "made": "2026-01-01", "preprocessing": how.to_json(), "mean": [0.5] * 3, "std": [0.3] * 3,
        "parts": {name: {"shape": part.shape, "chunk_images": 1, "sha256": []} for name, part in parts.items()},
    }  # fmt: skip
    (folder / "seal.json").write_bytes(sealed_json(decoded._stamped(folder, seal)))
    return sum(part.bytes for part in parts.values())


def limited(folder: Path, *arguments: str) -> dict:
    """Run the command in the group; its seconds, and the most memory of a process and of the group (MB)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    (GROUP / "memory.max_usage_in_bytes").write_text("0")
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as text:
        process = subprocess.Popen(
            [sys.executable, "-m", "qprune", *arguments], cwd=folder, env=environment, start_new_session=True, stdout=text,
            stderr=text, preexec_fn=lambda: (GROUP / "cgroup.procs").write_text(str(os.getpid())),
        )  # fmt: skip
        most = 0.0
        while process.poll() is None:
            most = max([most, *(memory_share(pid) for pid in members(process.pid))])
            time.sleep(0.5)
        text.seek(0)
        printed = text.read()
    print(printed)
    assert process.returncode == 0, process.returncode
    found = re.search(r"total_rss (\d+)", (GROUP / "memory.stat").read_text())
    return {
        "what": arguments[0],
        "seconds": round(time.perf_counter() - begun, 1),
        "most_mb_of_a_process": round(most),
        "most_mb_of_all_with_page_cache": round(int((GROUP / "memory.max_usage_in_bytes").read_text()) / 1e6),
        "left_mb": round(int(found[1]) / 1e6) if found else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=30)
    parser.add_argument("--limit", type=float, default=2, help="GB")
    given = parser.parse_args()
    count = int(given.gigabytes * 1e9 / (3 * SIDE * SIDE))
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(int(given.limit * 1e9)))
    rows = []
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            os.environ["QPRUNE_CACHE"] = str(folder / "cache")
            write_links(folder / "pictures", count)
            time.sleep(3)  # files that have just changed are read again
            size = make_holes({"name": "imagefolder", "root": str(folder / "pictures"), "image_size": SIDE})
            (folder / "strided.py").write_text(MODEL)
            (folder / "large.yaml").write_text(SWEEP.format(root=folder / "pictures"))
            for command in ("plan", "sweep", "plan"):
                arguments = (command, "large.yaml", *(("--workers", "1") if command == "sweep" else ()))
                common = {"pictures": count, "decoded_gb": round(size / 1e9, 1), "limit_gb": given.limit}
                read = round(UPDATES * BATCH * 3 * SIDE * SIDE / 1e9, 1) if command == "sweep" else ""
                rows.append({**common, **limited(folder, *arguments), "trained_on_gb": read})
    finally:
        GROUP.rmdir()
    write("larger_than_memory", rows)


if __name__ == "__main__":
    main()
