"""A sweep on a Ray cluster: a node lost, a worker dead, an address where nobody answers."""

import io
import os
import signal
import socket
import subprocess
import threading

import pandas as pd
import pytest
from photos import write_photos
from processes import processes_with, running, wait_until
from rich.console import Console
from tiny_sweep import COMMAND, SMALL, environment, run_inline, tiny_config, write_tiny

ray = pytest.importorskip("ray")

from ray import exceptions  # noqa: E402

from qprune.executors.base import ENDS  # noqa: E402
from qprune.executors.ray_tasks import CONNECT_SECONDS, RayExecutor, ended_by, room, seen  # noqa: E402
from qprune.registry.errors import UserError  # noqa: E402
from qprune.storage.seal import read_sealed_json  # noqa: E402
from qprune.storage.store import Store  # noqa: E402
from qprune.sweep.plan import make_plan  # noqa: E402
from qprune.sweep.run import run_sweep  # noqa: E402

OF_THE_RUN = [
    "seconds",
    "host",
    "device",
    "threads",
    "versions",
    "checksum",
]  # columns that may differ between two runs
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
USER_CODE = """
import os, time
from torch import nn


def small(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, num_classes))


def waits(num_classes):
    # for a file "go", in each worker that has begun with it
    if os.getpid() != DRIVER and not os.path.exists("go"):
        open(f"here-{os.getpid()}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.05)
    return small(num_classes)
"""


# Without a cluster --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.WorkerCrashedError(), "died"),
        (exceptions.OutOfMemoryError("full"), "died"),
        (exceptions.NodeDiedError("gone"), "lost"),
        (exceptions.LocalRayletDiedError(), "lost"),
        (exceptions.ObjectLostError("00" * 28, None, ""), "lost"),
        (exceptions.OwnerDiedError("00" * 28, None, ""), "lost"),
        (exceptions.RayTaskError("f", "the trace", ValueError("unforeseen")), "failed"),
        (exceptions.RuntimeEnvSetupError("no such luck"), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_how_a_task_ended(error, kind):
    event = ended_by(error, "dense-a")
    assert event.kind == kind and event.kind in ENDS and event.stage == "dense-a" and event.reason
    if kind == "failed":
        assert not event.lasting  # it was no fault of the stage


def test_an_unforeseen_error_is_named_as_it_was_raised():
    error = exceptions.RayTaskError("f", "the trace", ValueError("unforeseen"))
    assert ended_by(error, "dense-a").reason == "ValueError: unforeseen"


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "tasks"),
    [
        ({"CPU": 4.0}, 1, 0, 4),
        ({"CPU": 5.0}, 2, 0, 2),
        ({"CPU": 4.0}, 1, 0.25, 0),
        ({"CPU": 16.0, "GPU": 1.0}, 1, 0.25, 4),
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.4, 4),  # two on each: a share is of one GPU
        ({"CPU": 3.0, "GPU": 1.0}, 1, 0.1, 3),
        ({"CPU": 40.0, "GPU": 1.0}, 1, 0.1, 10),
        ({"memory": 1e9}, 1, 0, 0),
    ],
)
def test_room_on_a_node(node, cpus, gpus, tasks):
    assert room(node, cpus, gpus) == tasks


def test_what_another_node_writes_is_waited_for(tmp_path):
    store = Store(tmp_path)
    assert not seen(store, ["dense-a"], seconds=0.2)
    writer = threading.Timer(0.3, lambda: store.write("dense-a", {}, None))
    writer.start()
    assert seen(store, ["dense-a"], seconds=10)
    writer.join()


@pytest.fixture
def silent_port():
    """A port that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_without_a_cluster_is_refused_before_ray_tries_it(tmp_path, monkeypatch):
    """Ray itself would try for minutes: here it isn't asked, or by a process that is ended."""
    tried = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: tried.append("here"))
    ask = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: tried.append(how["timeout"]) or ask(*words, **how))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "ray://127.0.0.1:10001", "localhost:99999", "nonsense"):
        with pytest.raises(UserError, match=rf"--address {address}: .*ray start"), RayExecutor(1, tmp_path, address):
            pass
        assert tried == ([CONNECT_SECONDS] if address == "nonsense" else [])
    assert not list(tmp_path.iterdir())


def test_an_address_that_never_answers_is_given_up(tmp_path, silent_port, monkeypatch):
    monkeypatch.setattr("qprune.executors.ray_tasks.CONNECT_SECONDS", 3)
    with (
        pytest.raises(UserError, match="no Ray cluster takes a driver there within 3 s"),
        RayExecutor(1, tmp_path, f"127.0.0.1:{silent_port}"),
    ):
        pass


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("qprune.registry.packages.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"pip install 'qprune\[ray\]'"), RayExecutor(1, tmp_path):
        pass


# On a cluster -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A head node without CPUs, and one node with one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    (tmp_path / "fickle.py").write_text(f"DRIVER = {os.getpid()}\n{USER_CODE}")
    monkeypatch.chdir(tmp_path)


def rows_of(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "results/tiny/cells.csv").set_index("cell")


def sweep_on(executor_of, folder, *overrides: str) -> tuple[int, str]:
    text = io.StringIO()
    config = tiny_config(folder, *overrides)
    code = run_sweep(config, folder / "results", lambda _, store: executor_of(store), Console(file=text, width=200))
    return code, text.getvalue()


@pytest.mark.long
def test_a_node_is_lost_and_nothing_else(cluster, tmp_path, user_code):
    """Three nodes with one CPU each, one killed while all three compute: the records are those of a local run."""
    nodes = [cluster.add_node(**NODE) for _ in range(2)]

    class Watched(RayExecutor):
        room: list[int] = []

        def free(self) -> int:
            self.room.append(super().free())
            return self.room[-1]

        def events(self, timeout: float):
            if len(nodes) == 2 and len(list(tmp_path.glob("here-*"))) == 3:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            events = super().events(timeout)
            if any(event.kind == "lost" for event in events):  # until then the node's worker may live on, and must wait
                (tmp_path / "go").touch()
            return events

    grid = ("seeds=[0,1,2]", "precisions=[fp32]", "model=fickle:waits", "prune.channels_per_step=1")
    for name in ("ray", "local"):
        (tmp_path / name).mkdir()
    code, text = sweep_on(lambda store: Watched(1, store, cluster.address), tmp_path / "ray", *grid)
    assert len(nodes) == 1 and Watched.room[0] == 3
    cluster.remove_node(nodes.pop())
    assert code == 0 and text.count("the node was lost; trying once more") == 1, text
    assert not list((tmp_path / "ray/results/stages").glob(".cluster-*"))
    assert run_inline(tiny_config(tmp_path / "local", *grid), tmp_path / "local/results")[0] == 0
    left, right = (rows_of(tmp_path / name) for name in ("ray", "local"))
    assert len(left) == 3 * 2 and (left.status == "done").all()
    for cell in left.index:
        ours, theirs = (
            read_sealed_json(tmp_path / name / f"results/tiny/cells/{cell}.json") for name in ("ray", "local")
        )
        assert all(ours[key] == theirs[key] for key in ("network_sha256", "cost", "validation", "test")), cell
    left, right = (rows.drop(columns=OF_THE_RUN) for rows in (left, right))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


STRIDED = """
from torch import nn


def build(num_classes):
    convolutions = nn.Conv2d(3, 8, 16, stride=16), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, num_classes))
"""


@pytest.mark.long
def test_each_node_decodes_once_into_its_own_cache(cluster, tmp_path, monkeypatch):
    """Two nodes that share the results alone: the records are those of a local run."""
    write_photos(tmp_path / "photos", 130)
    (tmp_path / "strided.py").write_text(STRIDED)
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / f"cache{number}" for number in range(2)]
    nodes = [cluster.add_node(**NODE, env_vars={"QPRUNE_CACHE": str(place)}) for place in places]
    cluster.remove_node(next(node for node in cluster.worker_nodes if node not in nodes))
    photos = (
        f"data={{name: imagefolder, root: {tmp_path / 'photos'}, image_size: 256}}"  # 77 MB, so that they go into files
    )
    grid = (*SMALL, photos, "model=strided:build", "seeds=[0,1,2,3]", "train.batch_size=8", "prune.channels_per_step=2")
    for name in ("ray", "local"):
        (tmp_path / name).mkdir()
    code, text = sweep_on(lambda store: RayExecutor(1, store, cluster.address), tmp_path / "ray", *grid)
    assert code == 0, text
    for place in places:
        (decoded,) = (path for path in (place / "decoded").iterdir() if path.is_dir())
        assert not decoded.name.startswith(".") and (decoded / "train.npy").stat().st_size > 50e6
    assert run_inline(tiny_config(tmp_path / "local", *grid), tmp_path / "local/results")[0] == 0
    left, right = (rows_of(tmp_path / name).drop(columns=OF_THE_RUN) for name in ("ray", "local"))
    assert len(left) == 16
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    cluster.add_node(**NODE)
    for node in nodes:
        cluster.remove_node(node)


@pytest.mark.long
def test_a_folder_that_is_not_shared_is_told(cluster, tmp_path, monkeypatch):
    """As if another folder lay under the same path on the node."""
    with RayExecutor(1, tmp_path, cluster.address) as executor:
        executor._token.unlink()
        executor.start(next(iter(make_plan(tiny_config(tmp_path)).stages.values())))
        events = []
        while not events:
            events = executor.events(5)
    (event,) = events
    assert event.kind == "stopped" and f"{tmp_path} isn't the same on the node" in event.reason


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_process(tmp_path):
    """SIGTERM, while stages are computed on a cluster that the sweep started."""
    marker = f"QPRUNE_TEST_RUN={tmp_path}"
    name, _, value = marker.partition("=")
    arguments = [*COMMAND, "sweep", write_tiny(tmp_path), "--executor", "ray", "--set", "train.updates=100000"]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env={**environment(), name: value}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    store = Store(tmp_path / "results/stages")
    wait_until(lambda: running(store), 200, process)
    assert len(processes_with(marker)) > 3  # the cluster's
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM and b"To go on: qprune sweep" in output, output
    wait_until(lambda: not processes_with(marker), 60)
    assert not list(store.folder.glob(".cluster-*"))
    assert not list(store.folder.glob("[!.]*"))  # the stage, of an hour, was not waited for
