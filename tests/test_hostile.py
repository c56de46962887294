"""What wants to do harm, and what fails by itself: planted pickles, names that leave a folder, downloads that break."""

import ast
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_cifar, write_idx, write_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from tiny_sweep import TINY, command, environment, run_inline, tiny_config, write_tiny

import qprune
from qprune.data import data_fingerprint, files, flowers102, load_data
from qprune.deploy import load_torch
from qprune.deploy.cells import load_network, open_cell
from qprune.networks import build_model, load_checkpoint
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.settings.config import load_config
from qprune.storage.results import record_file
from qprune.storage.seal import read_sealed_json, sealed_json
from qprune.sweep.plan import make_plan, short_names

PACKAGE = Path(qprune.__file__).parent


# Pickles ------------------------------------------------------------------------------------------------------------


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def plant(path: Path, kind: str, harm: Path) -> None:
    """A file that writes `harm` for whoever unpickles it: a bare pickle, or one in the zip of torch.save."""
    if kind == "zip":
        torch.save({"conv1.weight": Planted(harm)}, path)
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": Planted(harm)}))


@pytest.mark.parametrize("kind", ["bare", "zip"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors", ""])
def test_a_planted_pickle_is_refused_and_never_run(tmp_path, kind, suffix):
    harm, file = tmp_path / "harm", tmp_path / f"network{suffix}"
    plant(file, kind, harm)
    config = load_config(write_tiny(tmp_path), [f"train.checkpoint={file}"])
    make_plan(config)  # which takes its hash
    with pytest.raises(
        UserError, match=f"weights: {file} is damaged, or holds pickled objects.*A state dict is wanted"
    ) as error:
        load_checkpoint(build_model({"name": "vgg_tiny"}, 1, 10, 8), file)
    assert str(error.value).isprintable()
    if suffix:
        with pytest.raises(UserError, match="holds pickled objects"):
            build_model({"name": "torchvision:squeezenet1_1", "weights": str(file)}, 3, 10, 64)
    assert not harm.exists()


@pytest.mark.parametrize("kind", ["bare", "zip"])
def test_the_planted_pickle_does_harm_where_it_is_unpickled(tmp_path, kind):
    """Else the test above would show nothing."""
    plant(tmp_path / "f.pt", kind, tmp_path / "harm")
    torch.load(tmp_path / "f.pt", weights_only=False) if kind == "zip" else pickle.loads(
        (tmp_path / "f.pt").read_bytes()
    )
    assert (tmp_path / "harm").exists()


def test_a_planted_cifar_batch_is_never_opened(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, 100)
    plant(tmp_path / "cifar-100-python/train", "bare", tmp_path / "harm")
    with pytest.raises(UserError, match="cifar-100-python/train is damaged"):
        load_data({"name": "cifar100", "root": str(tmp_path)})
    assert not (tmp_path / "harm").exists()


NEVER = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}  # modules that run what they read


def unsafe(tree: ast.AST) -> list[str]:
    """What in a module reads objects that can run code, or runs text: "line: what"."""
    found = []
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            text = next((name for name in names if name.split(".")[0] in NEVER), "")
        elif isinstance(node, ast.Attribute):
            text = (
                ast.unparse(node)
                if node.attr in ("UnsafeLoader", "FullLoader", "unsafe_load", "full_load", "read_pickle")
                else ""
            )
            text = text or (ast.unparse(node) if ast.unparse(node) in ("yaml.Loader", "yaml.load", "os.system") else "")
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            wrong = (
                called in ("eval", "exec", "compile", "__import__")
                or (called == "torch.load" and given.get("weights_only") != "True")
                or (called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False")
                or (called.startswith("subprocess.") and given.get("shell", "False") != "False")
                or (called.endswith("extractall") and given.get("filter") != "'data'")
            )
            text = called if wrong else ""
        if text:
            found.append(f"{node.lineno}: {text}")
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_module_unpickles_or_runs_text(file):
    assert unsafe(ast.parse(file.read_text())) == []


BAD_CODE = [
    "import pickle", "from pickle import load", "import yaml; yaml.load(f, yaml.Loader)", "yaml.unsafe_load(f)",
    "class L(yaml.FullLoader): pass", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)",
    "eval(text)", "exec(text)", "os.system(text)", "subprocess.run(text, shell=True)", "tar.extractall(folder)",
]  # fmt: skip


@pytest.mark.parametrize("code", BAD_CODE)
def test_unsafe_code_would_be_found(code):
    assert unsafe(ast.parse(code))


def test_a_results_folder_names_no_code_that_is_run(finished, tmp_path, monkeypatch):
    """A record, a stage or an exported file may come from anyone, and whoever writes it can seal it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    shutil.copytree(finished / "results", folder)
    cell = "vgg_tiny-digits-taylor-fp32-r0.00-s0"
    evil = {"name": "subprocess:getoutput", "cmd": "touch harm"}
    record = read_sealed_json(record_file(folder / "tiny", cell))
    record["network"]["model"] = evil
    record_file(folder / "tiny", cell).write_bytes(sealed_json(record))
    stage = folder / "stages" / record["stages"]["finetune"]["id"] / "stage.json"
    meta = read_sealed_json(stage)
    meta["network"]["model"] = evil
    stage.write_bytes(sealed_json(meta))
    exported = tmp_path / "network.safetensors"
    save_file({}, exported, {"qprune.network": json.dumps(record["network"])})
    for load in (
        lambda: load_network(folder / "tiny", cell),
        lambda: open_cell(folder / "tiny", cell),
        lambda: load_torch(exported),
    ):
        with pytest.raises(UserError, match="names subprocess:getoutput, code that using it would run.*--trust"):
            load()
    for name in record["stages"]["quantize"]["id"], record["stages"]["evaluate"]["id"]:
        shutil.rmtree(folder / "stages" / name)
    code, _, text = run_inline(tiny_config(tmp_path), folder)
    assert code == 1 and "names subprocess:getoutput" in text
    assert not (tmp_path / "harm").exists()


def test_code_that_is_trusted_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, num_classes))\n"
    )
    small = (
        "seeds=0",
        "precisions=fp32",
        "prune.ratios=0",
        "train.updates=5",
        "finetune={updates: 2}",
        "quantize.updates=2",
    )
    assert run_inline(tiny_config(tmp_path, *small, "model=mine:build"), tmp_path / "results")[0] == 0
    folder, cell = tmp_path / "results/tiny", "mine_build-digits-taylor-fp32-r0.00-s0"
    with pytest.raises(UserError, match="names mine:build"):
        open_cell(folder, cell)
    assert open_cell(folder, cell, trust=["mine:build"]).name == cell
    done = command("export", folder, cell, "--format", "torch", "--trust", "mine:build", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_torch(folder / "exports" / f"{cell}.safetensors", trust=["mine:build"]) is not None


# Names --------------------------------------------------------------------------------------------------------------

NAMES = [
    "../../x",
    "/abs",
    "..",
    ".",
    "a/b",
    "a\\b",
    ".hidden",
    "a\0b",
    "a\nb",
    "stages",
    "Stages",
    "~",
    "",
    " ",
    "a b",
    "ﬀ",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_is_not_named_out_of_its_folder(tmp_path, name):
    file = tmp_path / "q.yaml"
    file.write_text(TINY.replace("name: tiny", f"name: {json.dumps(name)}"))
    with pytest.raises(UserError) as error:
        load_config(file)
    message = str(error.value)
    assert message.startswith(f"{file}:1:") and message.isprintable()
    with pytest.raises(UserError, match="^--set name="):
        load_config(write_tiny(tmp_path), [f"name={json.dumps(name)}"])


def test_the_shared_store_is_reserved_by_name(tmp_path):
    with pytest.raises(
        UserError, match="'stages' is the folder of the stages that all sweeps share; name the sweep otherw"
    ):
        load_config(write_tiny(tmp_path), ["name=stages"])


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    *[
        st.lists(
            st.text(max_size=90) | st.sampled_from(["../../x", "/abs", "..", ".", "", "a/b:c", "a_b:c", "\0", "é:f", "x" * 300]),
            min_size=1, max_size=5, unique=True,
        )
    ] * 2
)  # fmt: skip
def test_names_in_cell_ids_stay_in_their_folder(models, data):
    """short_names of whatever names: fit for a file, and different where the choices are."""
    axes = [[Choice(name, json.dumps({"name": name, "root": "../../x"})) for name in names] for names in (models, data)]
    config = types.SimpleNamespace(model=tuple(axes[0]), data=tuple(axes[1]))
    short = short_names(config)
    folder = Path("/results/sweep/networks")
    for axis in axes:
        assert len({short[choice] for choice in axis}) == len(axis)
    for name in short.values():
        assert (
            len(name) <= 67 and all(character.isalnum() or character in "_." for character in name) and name.isascii()
        )
        file = folder / f"{name}-{name}-taylor_element-fp32-r{1 / 3!r}-s{2**32 - 1}.safetensors"
        assert Path(os.path.normpath(file)).parent == folder and len(file.name) < 255 and not name.startswith(".")


def test_the_ids_of_a_real_plan_are_names_of_files(tmp_path, monkeypatch):
    for package in ("a" * 60, "b" * 60):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    module = tmp_path / ("a" * 60) / ("b" * 60)
    module.with_suffix(".py").write_text(
        "from torch import nn\nfrom qprune.networks.vgg_tiny import build as " + "f" * 60 + "\n"
    )
    for name in ("cat", "dog"):
        for i in range(10):
            write_picture(tmp_path / "pictures" / name / f"{i}.png", (8, 8), "L", 20 * i)
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = "data=[{name: imagefolder, root: ../pictures, image_size: 8}, {name: imagefolder, root: ../deep/../pictures, image_size: 9}]"
    model = f"model={'a' * 60}.{'b' * 60}:{'f' * 60}"
    cells = make_plan(load_config(write_tiny(tmp_path), [data, model])).cells
    assert len({cell.id for cell in cells}) == 2 * 16
    for cell in cells:
        assert len(cell.id) < 240 and "/" not in cell.id and ".." not in cell.id


# Downloads ----------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Gives out contents by name. fault: what it does to `broken`, the name of one file."""

    daemon_threads = True

    def __init__(self, contents: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.fault, self.broken, self.asked = contents, None, None, []
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.sent_half, self.go_on = threading.Event(), threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        self.server.asked.append(name)
        content = self.server.contents[name]
        fault = self.server.fault if name == self.server.broken else None
        if fault == "missing":
            return self.send_error(404)
        if fault == "wrong":
            content = b"<html>sign in first</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.server.sent_half.set()
            if fault in ("silent", "slow"):
                self.server.go_on.wait(60 if fault == "silent" else 1)
            if fault != "short":
                self.wfile.write(content[len(content) // 2 :])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Starts a server; it is stopped at the test's end."""
    servers = []

    def start(contents: dict[str, bytes]) -> Server:
        servers.append(Server(contents))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.go_on.set()
        server.shutdown()
        server.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def archive_of(folder: Path) -> bytes:
    """The .tar.gz of a folder, under its own name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return stream.getvalue()


def offer_mnist(made: Path, serve, monkeypatch) -> Server:
    from torchvision.datasets import MNIST

    write_idx(made)
    server = serve({file.name: file.read_bytes() for file in made.iterdir()})
    monkeypatch.setattr(MNIST, "mirrors", [server.url])
    names = [name for name, _ in MNIST.resources]
    monkeypatch.setattr(MNIST, "resources", [(name, md5(server.contents[name])) for name in names])
    return server


def offer_cifar100(made: Path, serve, monkeypatch) -> Server:
    from torchvision.datasets import CIFAR100

    write_cifar(made, monkeypatch, 100)
    archive = archive_of(made / "cifar-100-python")
    server = serve({CIFAR100.filename: archive})
    monkeypatch.setattr(CIFAR100, "url", server.url + CIFAR100.filename)
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(archive))
    return server


def offer_flowers102(made: Path, serve, monkeypatch) -> Server:
    from scipy.io import savemat

    for number in range(1, 31):
        write_picture(made / "jpg" / f"image_{number:05d}.jpg", (30, 20), "L", number * 8)
    savemat(made / "imagelabels.mat", {"labels": np.arange(1, 31)})
    savemat(made / "setid.mat", {"trnid": [3, 1, 2], "valid": [5, 4], "tstid": list(range(6, 31))})
    contents = {name: (made / name).read_bytes() for name in flowers102.MATRICES}
    server = serve({**contents, flowers102.ARCHIVE: archive_of(made / "jpg")})
    monkeypatch.setattr(flowers102, "URL", server.url)
    monkeypatch.setattr(flowers102, "MD5", {name: md5(content) for name, content in server.contents.items()})
    return server


SETS = {
    "mnist": (offer_mnist, ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"], 90),
    "cifar100": (offer_cifar100, ["cifar-100-python.tar.gz"], 180),
    "flowers102": (offer_flowers102, ["imagelabels.mat", "102flowers.tgz"], 3),
}  # what offers it, its files to break (the first and the last fetched), its training images
CASES = [(name, file) for name, (_, broken, _) in SETS.items() for file in broken]


@pytest.fixture
def offered(tmp_path, serve, monkeypatch):
    """Offers a data set on a server of this machine: name -> (server, its settings, how many training images)."""
    monkeypatch.setattr(files, "TIMEOUT", 0.5)

    def offer(name: str) -> tuple[Server, dict, int]:
        make, _, images = SETS[name]
        (tmp_path / "made").mkdir()
        server = make(tmp_path / "made", serve, monkeypatch)
        return server, {"name": name, "root": str(tmp_path / "root"), "download": True}, images

    return offer


def left_in(root: Path) -> list[str]:
    """Files that a failed download has left, but for the lock."""
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".download.lock"]


@pytest.mark.parametrize("fault", ["short", "wrong", "missing", "silent"])
@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_broken_download_is_one_error_and_the_next_attempt_works(offered, tmp_path, name, file, fault):
    server, settings_, images = offered(name)
    server.fault, server.broken = fault, file
    for ask in (load_data, data_fingerprint):
        with pytest.raises(UserError) as error:
            ask(settings_)
        message = str(error.value)
        assert message.startswith(f"data {name}: the download into {tmp_path}/root") and file in message
        assert "try again" in message and "root:" in message and message.isprintable()
        whole = [hashlib.md5(server.contents[other]).hexdigest() for other in server.contents]
        for left in left_in(tmp_path / "root"):
            assert md5((tmp_path / "root" / left).read_bytes()) in whole, left  # not a half one
    server.fault = None
    assert len(load_data(settings_).train) == images
    server.contents.clear()
    assert len(load_data({**settings_, "subset": 2}).train) == 2  # nothing is fetched again
    assert not any(".part" in path.name for path in (tmp_path / "root").rglob("*"))


@pytest.mark.parametrize("name", SETS)
def test_a_download_fails_before_anything_is_trained(offered, tmp_path, monkeypatch, name):
    """`plan` and `sweep` ask for the plan first; the error names the place in the file."""
    server, settings_, _ = offered(name)
    server.fault, server.broken = "short", SETS[name][1][0]
    file = write_tiny(tmp_path)
    config = load_config(file, [f"data={json.dumps(settings_)}"])
    with pytest.raises(UserError, match=f"^--set data=.*: data {name}: the download into .*{server.broken}"):
        make_plan(config)


@pytest.mark.parametrize("name", SETS)
def test_without_a_network_the_error_names_file_and_remedy(offered, monkeypatch, name):
    server, settings_, images = offered(name)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match=rf"{name}: the download into .*{SETS[name][1][0]} .*refused.*try again, or set root"
    ):
        load_data(settings_)


@pytest.mark.parametrize("name", SETS)
def test_a_full_disk_is_one_error_and_leaves_nothing_half(offered, tmp_path, monkeypatch, name):
    import torchvision.datasets.utils as utils

    server, settings_, images = offered(name)

    def fill_disk(url, filename, chunk_size=0):
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(filename))

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_urlretrieve", fill_disk)
        with pytest.raises(UserError, match=f"{name}: the download into .*{SETS[name][1][0]}.*No space left on device"):
            load_data(settings_)
    assert left_in(tmp_path / "root") == []
    assert len(load_data(settings_).train) == images


@pytest.mark.parametrize("name", ["cifar100", "flowers102"])
def test_a_disk_that_is_full_while_unpacking_is_one_error(offered, tmp_path, monkeypatch, name):
    server, settings_, images = offered(name)
    whole = tarfile.TarFile.makefile
    made = []

    def fill_disk(self, info, target):
        if made:
            raise OSError(28, "No space left on device", str(target))
        made.append(target)
        whole(self, info, target)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "makefile", fill_disk)
        with pytest.raises(UserError, match="can't be unpacked.*No space left on device"):
            load_data(settings_)
    assert made and not any(".part" in path.name for path in (tmp_path / "root").rglob("*"))
    assert len(load_data(settings_).train) == images


@pytest.mark.parametrize("root", ["{tmp}/file", "{tmp}/file/below", "/proc/no-folder-here"])
@pytest.mark.parametrize("name", SETS)
def test_a_folder_that_cannot_be_written_is_one_error(offered, tmp_path, name, root):
    _, settings_, _ = offered(name)
    (tmp_path / "file").write_text("")
    root = root.format(tmp=tmp_path)
    with pytest.raises(UserError, match=f"{name}: the download into {root} failed: .*{root}.*that can be written to"):
        load_data({**settings_, "root": root})


HALF = {  # what an older attempt, or another program, has left
    "mnist": [
        "MNIST/raw/train-images-idx3-ubyte.gz",
        "MNIST/raw/.t10k-images-idx3-ubyte.gz.part",
        "MNIST/raw/train-labels-idx1-ubyte",
    ],
    "cifar100": [
        "cifar-100-python.tar.gz",
        ".cifar-100-python.tar.gz.part",
        "cifar-100-python/train",
        "cifar-100-python/meta",
    ],
    "flowers102": ["flowers-102/102flowers.tgz", "flowers-102/setid.mat", "flowers-102/.jpg.part/jpg/image_00001.jpg"],
}


@pytest.mark.parametrize("name", SETS)
def test_half_files_in_the_folder_are_not_taken_for_whole(offered, tmp_path, name):
    server, settings_, images = offered(name)
    for file in HALF[name]:
        (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / file).write_bytes(server.contents.get(Path(file).name, b"whatever")[:200])
    assert len(load_data(settings_).train) == images
    assert data_fingerprint(settings_) == data_fingerprint({**settings_, "download": False})


def test_half_of_every_mnist_file_is_fetched_again(offered, tmp_path):
    """All four are there, as a download that was killed while unpacking leaves them."""
    server, settings_, images = offered("mnist")
    raw = tmp_path / "root/MNIST/raw"
    raw.mkdir(parents=True)
    for name, content in server.contents.items():
        (raw / name).write_bytes(content[:-1])
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(content)[:-1])
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte announces|train-images-idx3-ubyte announces"):
        load_data({**settings_, "download": False})
    assert len(load_data(settings_).train) == images


FETCH = """
import json, sys
from torchvision.datasets import MNIST
from qprune.data import data_fingerprint, load_data
MNIST.mirrors, MNIST.resources, settings = json.loads(sys.argv[1])
print(len(load_data(settings).train), data_fingerprint(settings), flush=True)
"""


def start_fetching(settings_: dict) -> subprocess.Popen:
    from torchvision.datasets import MNIST

    told = json.dumps([MNIST.mirrors, MNIST.resources, settings_])
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, told],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_download_that_is_killed_is_not_taken_for_whole(offered, tmp_path):
    server, settings_, images = offered("mnist")
    server.fault, server.broken = "silent", "t10k-labels-idx1-ubyte.gz"
    process = start_fetching(settings_)
    draft = tmp_path / "root/MNIST/raw/.t10k-labels-idx1-ubyte.gz.part"
    try:
        until = time.monotonic() + 60
        while not (draft.is_file() and server.asked.count(server.broken) > 1) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert draft.is_file()
    server.fault = None
    assert len(load_data(settings_).train) == images and not draft.exists()


def test_two_processes_that_fetch_at_once_do_not_spoil_each_other(offered):
    server, settings_, images = offered("mnist")
    server.fault, server.broken = "slow", "train-images-idx3-ubyte.gz"
    both = [start_fetching(settings_) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert told[0][0] == told[1][0] == f"{images} {data_fingerprint(settings_)}\n", told
    assert {name: server.asked.count(name) for name in server.contents} == dict.fromkeys(server.contents, 2)
    # twice by one process: torchvision asks first where the address leads to


# Local files that are cut short ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".webp"])
def test_a_picture_that_is_cut_short_is_named(tmp_path, suffix):
    """At every tenth place; what can still be decoded (a rim that is missing) is no error."""
    noise = np.random.RandomState(0).randint(0, 256, (24, 24, 3), np.uint8)
    for name in ("cat", "dog"):
        for i in range(5):
            write_picture(tmp_path / name / f"{i}.png", (16, 16), "L", 50)
    bad = tmp_path / "cat" / f"9{suffix}"
    Image.fromarray(noise).convert("L" if suffix == ".pgm" else "RGB").save(bad)
    content = bad.read_bytes()
    refused = 0
    for length in [*range(0, len(content), max(1, len(content) // 10)), len(content)]:
        bad.write_bytes(content[:length])
        try:
            load_data({"name": "imagefolder", "root": str(tmp_path), "image_size": 8})
        except UserError as error:
            refused += 1
            assert str(bad) in str(error) and "Remove or replace" in str(error)
            assert length < len(content)
    assert refused >= 8


@pytest.mark.parametrize("name", SETS)
def test_local_files_that_are_cut_short_are_named(offered, tmp_path, name):
    server, settings_, images = offered(name)
    assert len(load_data(settings_).train) == images
    settings_["download"] = False
    read = {"mnist": "*.gz", "cifar100": "cifar-100-python/*", "flowers102": "flowers-102/**/*.[mj][ap][tg]"}[name]
    paths = [path for path in (tmp_path / "root").rglob(read) if path.is_file() and path.name != ".download.lock"]
    assert len(paths) >= 3
    for path in paths:
        content = path.read_bytes()
        for length in (0, 3, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            try:
                load_data(settings_)
            except UserError as error:
                assert str(path) in str(error) and ("emove" in str(error) or "fetch it again" in str(error))
            else:
                assert path.suffix == ".jpg" and length == len(content) - 1  # the last byte ends nothing that is seen
        path.write_bytes(content)


def test_idx_files_that_lie_about_their_size_are_refused(tmp_path):
    """Sizes whose product overflows 64 bits, sizes beyond any memory, and a gzip that unpacks to far more than it says."""
    write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    header = bytes((0, 0, 8, 3))
    for shape, values in [((2**31, 2**31, 4), b""), ((2**32 - 1,) * 3, b"x"), ((1, 1, 1), bytes(10))]:
        path.write_bytes(header + np.array(shape, ">u4").tobytes() + values)
        with pytest.raises(UserError, match=f"{path} announces"):
            load_data({"name": "mnist", "root": str(tmp_path)})
    path.unlink()
    with gzip.open(f"{path}.gz", "wb", compresslevel=1) as file:
        file.write(header + np.array((1, 28, 28), ">u4").tobytes())
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(UserError, match=f"{path}.gz announces 1x28x28 = 784 values and holds {784 + 2**20} or more"):
        load_data({"name": "mnist", "root": str(tmp_path)})


def test_folders_and_files_that_never_end_are_refused(tmp_path):
    for name in ("cat", "dog"):
        for i in range(5):
            write_picture(tmp_path / name / f"{i}.png", (16, 16), "L", 50)
    settings_ = {"name": "imagefolder", "root": str(tmp_path), "image_size": 8}
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    with pytest.raises(
        UserError, match="cat/again is a link to a folder that it lies in|again/.* is a link to a folder"
    ):
        load_data(settings_)
    (tmp_path / "cat" / "again").unlink()
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "dog")  # not a circle
    assert sum(len(split) for split in (load_data(settings_).train, load_data(settings_).test)) > 10
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    with pytest.raises(UserError, match="pipe.png is no regular file"):
        load_data(settings_)
    (tmp_path / "dog" / "pipe.png").unlink()
    (tmp_path / "dog" / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="zero.png is no regular file"):
        load_data(settings_)
