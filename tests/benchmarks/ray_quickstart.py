"""The quickstart on a Ray cluster of three local nodes, one of them killed halfway, against a local run.

python tests/benchmarks/ray_quickstart.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

import pandas as pd  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from tiny_sweep import COMMAND, environment  # noqa: E402

from qprune.settings.config import load_config  # noqa: E402
from qprune.storage.seal import read_sealed_json  # noqa: E402
from qprune.sweep.plan import make_plan  # noqa: E402

QUICKSTART = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
OF_THE_RUN = ["seconds", "host", "device", "threads", "versions", "checksum"]  # columns that may differ


def sweep(folder: Path, *options: str) -> subprocess.Popen:
    folder.mkdir()
    return subprocess.Popen([*COMMAND, "sweep", str(QUICKSTART), *options], cwd=folder, env=environment())


def ended(process: subprocess.Popen) -> None:
    if code := process.wait():
        sys.exit(f"the sweep ended with exit code {code}")


def on_three_nodes(folder: Path, stages: int) -> None:
    """The sweep; a node without the driver is killed as soon as half of the stages are done."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**NODE)
        doomed = cluster.add_node(**NODE)
        process = sweep(folder, "--executor", "ray", "--address", cluster.address)
        while process.poll() is None and (done := len(list(folder.glob("results/stages/*/stage.json")))) < stages / 2:
            time.sleep(0.2)
        if process.poll() is None:
            cluster.remove_node(doomed, allow_graceful=False)
            print(f"one of three nodes killed when {done} of {stages} stages were done", flush=True)
        ended(process)
    finally:
        cluster.shutdown()


def main() -> None:
    stages = len(make_plan(load_config(QUICKSTART)).stages)
    with tempfile.TemporaryDirectory() as base:
        places = {name: Path(base) / name for name in ("ray", "local")}
        seconds = {}
        for name, run in (
            ("ray", lambda: on_three_nodes(places["ray"], stages)),
            ("local", lambda: ended(sweep(places["local"], "--workers", "2"))),
        ):
            start = time.monotonic()
            run()
            seconds[name] = time.monotonic() - start
        results = {name: place / "results/quickstart" for name, place in places.items()}
        tables = {name: pd.read_csv(folder / "cells.csv").set_index("cell") for name, folder in results.items()}
        left, right = (table.drop(columns=OF_THE_RUN) for table in tables.values())
        pd.testing.assert_frame_equal(left, right, check_exact=True)
        for cell in left.index:
            ray, local = (read_sealed_json(folder / "cells" / f"{cell}.json") for folder in results.values())
            assert all(ray[key] == local[key] for key in ("network_sha256", "test", "validation", "cost")), cell
        done = (left.status == "done").sum()
        print(
            f"{done} of {len(left)} cells done on Ray, all {len(left.columns)} columns equal to those of the local run,"
        )
        print("networks and per-image results too;", ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()))


if __name__ == "__main__":
    main()
