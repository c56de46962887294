"""How far `qprune plan`'s minutes are from what the sweep then takes: ten of the files in sweeps/, each made small by --set.

python tests/benchmarks/forecast.py [--only NAME ...]

On an idle machine, with as many workers as cores. Nothing is known of before: each plan times its updates itself. Digits come
with scikit-learn; Fashion-MNIST as Debian's dataset-fashion-mnist has it; vgg7's digits at 32 pixels are written first.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import write

ROOT = Path(__file__).parents[2]
FASHION = "root: /usr/share/datasets/fashion-mnist"
SWEEPS = {
    "quickstart": ["seeds=[0]", "budget.epochs=24"],
    "worth_digits": ["seeds=[20]"],
    "review_a": ["seeds=[0,1]"],
    "review_b": ["seeds=[0]"],
    "review_c": ["seeds=[0]", "prune.ratios=[0,0.5]"],
    "review_c_ptq": ["seeds=[0,1]", "prune.ratios=[0,0.25,0.5]"],
    "review_a_fashion": ["seeds=[0]", f"data={{name: fashion_mnist, subset: 1500, {FASHION}}}", "prune.ratios=[0,0.5]"],
    "review_b_fashion": ["seeds=[0]", f"data={{name: fashion_mnist, subset: 1000, {FASHION}}}", "prune.ratios=[0,0.5]"],
    "fashion_mnist": [
        "train.epochs=1",
        f"data={{name: fashion_mnist, subset: 1500, {FASHION}}}",
        "prune.ratios=[0,0.5]",
    ],
    "edge_digits_32": ["budget.updates=60"],
}


def run(folder: Path, command: str, name: str, settings: list[str]) -> str:
    sets = [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder / "home"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "qprune", command, str(ROOT / "sweeps" / f"{name}.yaml"), *sets], cwd=folder, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def measured(name: str, settings: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "home").mkdir()
        if name == "edge_digits_32":
            digits = [
                sys.executable,
                "-m",
                "qprune",
                "data",
                str(ROOT / "sweeps/quickstart.yaml"),
                "--write",
                "digits_png",
            ]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(digits, cwd=folder, env=environment, check=True, capture_output=True)
        plan = run(folder, "plan", name, settings)
        planned = 60 * float(re.search(r"about ([\d.]+) minutes", plan)[1])
        took = float(re.search(r"stages computed in (\d+) s", run(folder, "sweep", name, settings))[1])
    row = {"sweep": name, "set": " ".join(settings), "planned_seconds": round(planned), "seconds": round(took)}
    return row | {"error": round(planned / took - 1, 3), "loaded": "loaded" in plan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=list(SWEEPS), choices=list(SWEEPS))
    rows = [measured(name, SWEEPS[name]) for name in parser.parse_args().only]
    median = statistics.median(abs(row["error"]) for row in rows)
    print(f"median of the absolute errors: {median:.0%}")
    write("forecast", rows)


if __name__ == "__main__":
    main()
