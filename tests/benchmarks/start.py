"""What commands cost that compute nothing: modules that are imported, and seconds of the processor; medians of 3 runs.

python tests/benchmarks/start.py [--before COMMIT]

The sweep is finished, so that it has nothing to do; that of a plan with work left has a seed more; the refused file has a bad
value. Each command has been run once before, so that what it keeps is there. --before: also of the package at that commit, in
turn, each with a results folder and a home of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import write

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from started import HEAVY, start
from tiny_sweep import TINY

HERE = Path(__file__).parents[2]
ROUNDS = 3
TORCHVISION = """\
name: torchvision
data: {name: digits, subset: 64}
model: torchvision:resnet18
seeds: 0
train: {updates: 1, batch_size: 16, lr: 0.01}
prune: {ratios: [0, 0.5], channels_per_step: 50%, updates_between: 1}
finetune: {updates: 1}
quantize: {updates: 1}
precisions: [fp32, int4]
protocol: classic
"""
COMMANDS = {
    "--help": ["--help"],
    "status": ["status", "results/tiny"],
    "pick": ["pick", "results/tiny", "--max", "weight_bytes=1e9"],
    "report": ["report", "results/tiny"],
    "plan (finished)": ["plan", "tiny.yaml"],
    "plan (torchvision, finished)": ["plan", "torchvision.yaml"],
    "plan (work left)": ["plan", "tiny.yaml", "--set", "seeds=[0,1,2]"],
    "sweep (finished)": ["sweep", "tiny.yaml"],
    "sweep (torchvision, finished)": ["sweep", "torchvision.yaml"],
    "sweep (refused file)": ["sweep", "bad.yaml"],
}


def check_out(commit: str, folder: Path) -> Path:
    """The package at a commit, in a new folder."""
    folder.mkdir()
    packed = subprocess.run(["git", "archive", commit, "qprune"], cwd=HERE, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", help="a commit")
    before = parser.parse_args().before
    with tempfile.TemporaryDirectory() as base:
        packages = {"here": HERE}
        if before:
            packages = {before: check_out(before, Path(base) / "package"), **packages}
        for label, package in packages.items():
            folder = Path(base) / label
            folder.mkdir()
            (folder / "tiny.yaml").write_text(TINY)
            (folder / "bad.yaml").write_text(TINY.replace("lr: 0.1", "lr: -1"))
            (folder / "torchvision.yaml").write_text(TORCHVISION)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package), "HOME": str(folder)}
            for file in ("tiny.yaml", "torchvision.yaml"):
                sweep = f"import sys; from qprune.cli import app; app(['sweep', '{file}'])"
                run = [sys.executable, "-c", sweep]
                subprocess.run(run, cwd=folder, env=environment, check=True, capture_output=True)
            for command in COMMANDS.values():
                start(*command, cwd=folder, package=package, home=folder)
        found: dict[tuple[str, str], list] = {(command, label): [] for command in COMMANDS for label in packages}
        for _ in range(ROUNDS):
            for (command, label), runs in found.items():
                folder = Path(base) / label
                ran = start(*COMMANDS[command], cwd=folder, package=packages[label], home=folder)
                assert ran.code == (2 if "refused" in command else 0)
                runs.append(ran)
    write(
        "start",
        [
            {
                "what": command,
                "package": label,
                "modules": max(len(ran.modules) for ran in runs),
                "cpu_seconds": f"{statistics.median(ran.seconds for ran in runs):.2f}",
                **{name: name in runs[0].heavy for name in HEAVY},
            }
            for (command, label), runs in found.items()
        ],
    )


if __name__ == "__main__":
    main()
