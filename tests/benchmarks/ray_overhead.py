"""What an executor adds to a stage: the same stages in this process, in one local worker, on one Ray node with a CPU.

"already done": stages whose files are there, so that all there is to do is to take the lock, look and say so.
"evaluation": of a tiny network on the digits.

python tests/benchmarks/ray_overhead.py
"""

import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

import torch  # noqa: E402
from bench import interleaved, ratio, write  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from tiny_sweep import Inline, tiny_config  # noqa: E402

from qprune.executors.base import Executor, run_stages  # noqa: E402
from qprune.executors.local import LocalExecutor  # noqa: E402
from qprune.executors.ray_tasks import RayExecutor  # noqa: E402
from qprune.stages import Stage  # noqa: E402
from qprune.storage.store import Store  # noqa: E402
from qprune.sweep.plan import make_plan  # noqa: E402

STAGES = {"already done": 100, "evaluation": 20}
ROUNDS = 9


def made_stores(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, Store], dict]:
    """Stores that hold a cell but for its evaluation; and copies of that evaluation, under ids of their own."""
    config = tiny_config(folder, "seeds=0", "prune.ratios=0", "precisions=fp32")
    plan = make_plan(config)
    *needed, last = plan.cells[0].stages.values()
    first = Store(folder / names[0])
    with Inline(first.folder) as executor:
        run_stages({name: plan.stages[name] for name in needed}, executor, first, lambda event: None)
    for name in names[1:]:
        shutil.copytree(first.folder, folder / name)
    copies = [named(plan.stages[last], f"evaluate-{number:04d}") for number in range(max(STAGES.values()))]
    return {name: Store(folder / name) for name in names}, {copy.id: copy for copy in copies}


def named(stage: Stage, name: str) -> Stage:
    """A copy under another id."""
    copy = dataclasses.replace(stage)
    vars(copy)["id"] = name  # in front of the cached property
    return copy


def run_all(executor: Executor, store: Store, stages: dict, anew: bool) -> None:
    if anew:
        for name in stages:
            shutil.rmtree(store.folder / name, ignore_errors=True)
    run_stages(stages, executor, store, lambda event: None)
    assert all(store.done(name) for name in stages)


def measured(executors: dict[str, Executor], stores: dict[str, Store], work: str, stages: dict) -> list[dict]:
    """One row for each executor."""
    actions = {
        name: lambda name=name: run_all(executors[name], stores[name], stages, work == "evaluation")
        for name in executors
    }
    seconds = interleaved(actions, ROUNDS)
    rows = []
    for name in executors:
        median, least, largest = ratio(seconds, name, "local")
        added = [one - base for one, base in zip(seconds[name], seconds["this process"], strict=True)]
        rows.append(
            {
                "stage": work,
                "executor": name,
                "stages": len(stages),
                "ms_per_stage": round(1000 * statistics.median(seconds[name]) / len(stages), 2),
                "added_ms": round(1000 * statistics.median(added) / len(stages), 2),
                "ratio_median": round(median, 3),
                "ratio_min": round(least, 3),
                "ratio_max": round(largest, 3),
                "rounds": ROUNDS,
            }
        )
    return rows


def main() -> None:
    torch.set_num_threads(1)
    names = ("this process", "local", "ray")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with tempfile.TemporaryDirectory() as folder:
            stores, stages = made_stores(Path(folder), names)
            with (
                Inline(stores["this process"].folder) as inline,
                LocalExecutor(1, 1, stores["local"].folder) as local,
                RayExecutor(1, stores["ray"].folder, cluster.address) as ray,
            ):
                executors = dict(zip(names, (inline, local, ray), strict=True))
                rows = []
                for work in ("evaluation", "already done"):
                    rows += measured(executors, stores, work, dict(list(stages.items())[: STAGES[work]]))
    finally:
        cluster.shutdown()
    write("ray_overhead", rows)


if __name__ == "__main__":
    main()
