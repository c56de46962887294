"""Any sweep file is planned, or refused with one clear error: never a traceback, never a hang.

Generated files go through what every command does first, load_config and make_plan. A short form runs with the suite;
the full one, 2,000 files in about a minute:

    QPRUNE_FUZZ=2000 pytest tests/settings/test_fuzz.py -s

-s shows how many files were planned, and where the others were refused.
"""

import collections
import os
import re
import signal
import textwrap
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qprune.methods import facts
from qprune.registry.errors import UserError
from qprune.settings.config import TEMPLATE, SweepConfig, load_config
from qprune.settings.yaml_source import MAX_BYTES
from qprune.sweep.plan import MAX_CELLS, MAX_NETWORKS, make_plan

ROOT = Path(__file__).parents[2]
FILES = int(os.environ.get("QPRUNE_FUZZ", "300"))
HANGS_AFTER = 20  # seconds
FUZZ = settings(
    max_examples=FILES // 2,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

HOSTILE = """
import sys
import numpy as np
from torch import nn

def net(num_classes, image_size, hidden=4):
    return nn.Sequential(nn.Conv2d(1, hidden, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
                         nn.Linear(hidden, num_classes))
def none(): pass
def raises(): raise KeyError("a line\\nand another")
def leaves(): sys.exit(3)
def recurses(): return recurses()
def branches():
    class Branching(nn.Module):
        def forward(self, x): return x.mean((2, 3)).repeat(1, 10) if x.sum() > -1 else None
    return Branching()
def unprunable(num_classes): return nn.Sequential(nn.Flatten(1), nn.Linear(64, num_classes))
def pairs(size=8, classes=4):
    part = lambda n: (np.zeros((n, size, size), np.uint8), np.arange(n) % classes)
    return {"train": part(40), "test": part(8)}
def one(): return {"train": (np.zeros((1, 8, 8), np.uint8), [0]), "test": (np.zeros((1, 8, 8), np.uint8), [0])}
def empty(): return {"train": (np.zeros((0, 8, 8), np.uint8), []), "test": (np.zeros((0, 8, 8), np.uint8), [])}
def ragged(): return {"train": ([[1], [1, 2]], [0, 1]), "test": 5}
def great(): return {"train": (np.zeros((9, 8, 8), np.uint8), np.full(9, 2**62)), "test": (np.zeros((1, 8, 8), np.uint8), [0])}
"""
FUNCTIONS = re.findall(r"^def (\w+)", HOSTILE, re.M)


class Hang(BaseException):
    """The deadline is over."""


@contextmanager
def deadline(seconds: int):
    def over(*_):
        raise Hang(f"still busy after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory: hostile modules, pictures that are none, no network, no data sets in the cache."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "hostile.py").write_text(HOSTILE)
    (folder / "exits.py").write_text("raise SystemExit(4)\n")
    (folder / "broken.py").write_text("def (:\n")
    for name in ("cats", "dogs"):
        (folder / "pictures" / name).mkdir(parents=True)
        (folder / "pictures" / name / "1.png").write_text("no picture")
    (folder / "loop").mkdir()
    (folder / "loop" / "again").symlink_to(folder / "loop")
    (folder / "itself").symlink_to(folder / "itself")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("QPRUNE_DATA", str(folder / "cache"))
        patch.setenv("HOME", str(folder / "home"))  # where sweep files have their data sets: ~/.cache/qprune/...

        def no_network(*_, **__):
            raise urllib.error.URLError("no network")

        patch.setattr(urllib.request, "urlopen", no_network)
        yield folder


ends = collections.Counter()  # how many files ended where


def plan_or_one_error(place: Path, content: bytes, *overrides: str) -> str:
    """Where it ended: "planned", "not planned: why" or "refused: why" (by load_config); fails where it ended otherwise."""
    file = place / "f.yaml"
    file.write_bytes(content)
    end, why = "refused", ""
    try:
        with deadline(HANGS_AFTER):
            config = load_config("f.yaml", overrides)
            end = "not planned"
            planned = make_plan(config)
    except UserError as error:
        why = f": {error}"
        check_message(str(error))
    else:
        end = "planned"
        assert planned.cells and len({cell.id for cell in planned.cells}) == len(planned.cells)
        assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", cell.id) for cell in planned.cells)
        assert all(len(cell.id) < 240 for cell in planned.cells)  # 255 bytes is the longest name of a file
    ends[end] += 1
    return end + why


def check_message(message: str) -> None:
    """One line per problem, each from its place on; nothing that a terminal would obey."""
    assert message.strip() and "Traceback" not in message and len(message) < 20_000
    assert all(character.isprintable() or character == "\n" for character in message), repr(message)
    message.encode()
    for line in message.split("\n"):
        assert re.match(r"f\.yaml:\d+:\d+: .|f\.yaml: .|--set .|\.\.\. and \d+ more problems$", line), repr(message)


# Structured: every key, with values good and bad ---------------------------------------------------------------------

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.sampled_from([10**9, 2**32, 2**63, 10**39, 10**60, -1, 0, 1e308, 1e-320, -0.0, 1e16])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", " ", "..", "../../x", "/abs", "a/b", "~nobody/x", "\x1b[2J", "\u202e", "a\nb", "9" * 300,
                       "x" * 5000, "é", "\U0001f600", "stages", "null", "1%", "taylor", "digits"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
WHOLE = st.sampled_from([1, 2, 3, 8, 100, 10**9])
RATE = st.sampled_from([1e-3, 0.1, 1, 1e300, 1e-300])
RATIO = st.sampled_from([0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1e-9, 1e-320])


def some(values: st.SearchStrategy) -> st.SearchStrategy:
    """One value, or a list."""
    return values | st.lists(values, min_size=1, max_size=3, unique_by=str)


def options(name: str, **values: st.SearchStrategy) -> st.SearchStrategy:
    """{name: ..., some of the options}"""
    return st.fixed_dictionaries({"name": st.just(name)}, optional=values)


USER = st.sampled_from([f"hostile:{name}" for name in FUNCTIONS])
MODULES = ["exits:x", "broken:x", "nowhere:x", ".hostile:net", "..:x", "a:b:c", "builtins:print", "sys:exit", "os:sep"]
MODEL = (
    st.just("vgg_tiny")
    | options("vgg_tiny", width=st.sampled_from([0.5, 1, 1.5, 2]))
    | options("vgg_tiny", width=st.sampled_from([1e-9, 0.01, 25, 99, 101, 1e9, 1e30, 10**38, -1, 0, "1", None]))
    | options("hostile:net", hidden=st.sampled_from([1, 5, 0, -1, "x", 10**30, None]), depth=JUNK)
    | options("torchvision:resnet18", weights=st.sampled_from(["x" * 5000, "~nobody/x.pt", "no.pt", "DEFALT", "", 3]))
    | USER
    | st.sampled_from([*MODULES, "vgg_tinny", "torchvision:resnet", "torchvision:", "resnet20", "vgg7"])
)
ROOTS = st.sampled_from(["pictures", "loop", "itself", "nowhere", "f.yaml", "x" * 5000, "x/" * 2100, "~nobody/x", "/proc",
                         ".", "..", "", " ", "/dev/zero", "../" * 50])  # fmt: skip
SUBSET = st.sampled_from([1, 2, 64, 256, 1078, 1079, 0, -1, 10**30, 1.5, "all"])
AUGMENT = some(st.sampled_from(["none", "flip", "crop", "crop2", "shift1", "crop99", "crop100", "flop", 3]))
DATA = (
    st.just("digits")
    | options("digits", subset=SUBSET, augment=AUGMENT)
    | options("imagefolder", root=ROOTS, image_size=st.sampled_from([8, 0, 10**9, 10**30, -3, 8.0]))
    | options("mnist", root=ROOTS, download=st.booleans(), subset=SUBSET)
    | st.sampled_from(["fashion_mnist", "digts", *MODULES])
    | USER
    | options("hostile:pairs", size=st.sampled_from([8, 1, 0, -1, 10**9]), classes=st.sampled_from([1, 4, 0, 200]))
)
LAYERS = st.sampled_from(["conv1", "conv6", "bn2", "relu3", "pool1", "average", "flatten", "linear", "normalize", "x"])
GOOD = {
    "name": st.sampled_from(["a", "A-b_c.d", "x" * 100, "CON"]),
    "data": some(DATA),
    "model": some(MODEL),
    "seeds": some(st.integers(0, 2**32 - 1)),
    "train": st.fixed_dictionaries(
        {},
        optional={"epochs": WHOLE, "updates": WHOLE, "batch_size": WHOLE, "lr": RATE, "momentum": RATE, "weight_decay": RATE,
                  "optimizer": st.sampled_from(["sgd", "adamw"]), "checkpoint": st.sampled_from(["f.yaml", ".", "x" * 300])},
    ),
    "prune": st.fixed_dictionaries(
        {},
        optional={
            "criterion": some(st.sampled_from(["taylor", "random", "weight_norm", "activation"])), "ratios": some(RATIO),
            "channels_per_step": st.sampled_from(["1%", "100%", "0.000000000001%", 1, 10**9]), "updates_between": WHOLE,
            "until": RATIO, "lr": RATE, "linear": st.booleans(), "min_channels": WHOLE, "round_to": WHOLE,
            "normalize": st.sampled_from(["l2", "flops", "layer", {"name": "flops", "power": 2}, "flop", {"power": 1}]),
            "max_layer_ratio": RATIO, "of": st.sampled_from(["maps", "macs", "params"]),
            "ignore": some(LAYERS),
        },
    ),
    "finetune": st.fixed_dictionaries({}, optional={"epochs": WHOLE, "updates": WHOLE, "lr": RATE}),
    "quantize": st.fixed_dictionaries(
        {}, optional={"epochs": WHOLE, "lr": RATE, "first_last_bits": st.sampled_from([2, 8, None])}
    ),
    "precisions": some(st.sampled_from(["fp32", "fp16", "int8", "int4", "w2a2", "w8a8", "w3a7"])),
    "keep": st.sampled_from(["all", "front", "none"]),
}  # fmt: skip
SECTIONS = {name: list(f.annotation.model_fields) for name, f in SweepConfig.model_fields.items() if "Axis" not in str(f)
            and hasattr(f.annotation, "model_fields")}  # fmt: skip
START_TREE = st.fixed_dictionaries(
    {"name": GOOD["name"], "data": st.just("digits") | USER, "model": st.just("vgg_tiny") | USER}
)


@st.composite
def structured(draw) -> bytes:
    """A file with some keys of the right kind, up to two of them junk, up to one unknown."""
    tree = draw(START_TREE)
    for key in draw(st.lists(st.sampled_from(["data", "model", "prune", *GOOD]), min_size=1, max_size=4)):
        tree[key] = draw(GOOD[key])
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        key = draw(st.sampled_from(list(GOOD)))
        if key in SECTIONS and isinstance(tree.get(key, {}), dict) and draw(st.booleans()):
            tree[key] = {**tree.get(key, {}), draw(st.sampled_from(SECTIONS[key])): draw(JUNK)}
        else:
            tree[key] = draw(JUNK)
    if draw(st.integers(0, 9)) == 9:
        tree[draw(st.text(max_size=8))] = draw(JUNK)
    text = yaml.safe_dump(tree, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.booleans()), width=10**9)
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(structured())
def test_a_generated_file_is_planned_or_refused(place, content):
    plan_or_one_error(place, content)


# Mutated: the files that are shipped, with characters, lines and indentation changed ---------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghi"
)
NASTY = [
    "&a", "*a", "&a [*a]", "<<: *a", "!!python/object/apply:os.system [touch planted]", "!!python/name:os.system", "!!binary x",
    "!x", "!!map", "!!str", "!!null x", BOMB, "\t", "\r", "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff",
    "\ufffe", "\ud800", '"\\ud800"', '"\\x00"', '"\\UFFFFFFFF"', "'", '"', "[" * 3000, "{a: " * 3000, "- " * 3000, "? " * 500,
    "x" * 30_000, "9" * 30_000, "'" * 2001, "#" * 30_000, "\n" * 3000, " " * 3000, "|", ">-", "%YAML 9.9\n---", "---", "...", ":",
    "]", "}", "é", "\U0001f600", ".nan", "-.inf", "1e999", "0x10", "1_0", "~", "[]", "{}", "[[]]", "{name: }", "name: a",
]  # fmt: skip
TEXTS = [path.read_text() for path in (*sorted((ROOT / "sweeps").glob("*.yaml")), TEMPLATE)]


@st.composite
def mutated(draw) -> bytes:
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        lines = text.split("\n")
        line = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["delete", "double", "swap", "insert", "value", "cut", "line", "indent", "end"]))
        if change == "delete":
            text = text[:at] + text[at + draw(st.integers(1, 12)) :]
        elif change == "double":
            text = text[:at] + text[max(0, at - draw(st.integers(1, 40))) :]
        elif change == "swap":
            text = text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
        elif change == "insert":
            text = text[:at] + draw(st.sampled_from(NASTY) | st.text(max_size=3)) + text[at:]
        elif change == "end":
            text = text[:at]
        else:
            if change == "cut":
                del lines[line]
            elif change == "line":
                lines.insert(draw(st.integers(0, len(lines))), lines[line])
            elif change == "indent":
                lines[line] = draw(st.sampled_from(["", " ", "    ", "\t"])) + lines[line].lstrip()
            else:  # another value behind a key
                new = draw(st.sampled_from(NASTY))
                lines[line] = re.sub(r": [^#}]*", lambda _, new=new: f": {new}", lines[line], count=1)
            text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(mutated())
def test_a_mutated_file_is_planned_or_refused(place, content):
    plan_or_one_error(place, content)
    assert not (place / "planted").exists()


def test_the_generated_files_reach_every_end():
    """Else the two tests above would say little. Runs after them; alone it has nothing to look at."""
    if not ends:
        pytest.skip("no file was generated in this run")
    print(f"\n{sum(ends.values())} files: {dict(ends)}")
    assert all(ends[end] > FILES / 100 for end in ("planned", "refused", "not planned"))


# Large, and valid ----------------------------------------------------------------------------------------------------

START = "name: a\ndata: digits\nmodel: vgg_tiny\n"
NUMBERS = ",".join(map(str, range(1, 10_001)))
LARGE = {
    "seeds": (f"seeds: [{NUMBERS}]", f"f.yaml:4:1: 400,000 cells .* more than {MAX_CELLS:,}.*split"),
    "ratios": (
        f"prune: {{ratios: [{','.join(f'{i / 10_000}' for i in range(9000))}]}}\nseeds: [1, 2, 3]",
        r"f\.yaml:4:9: 216,000 cells \(1 network x 1 data set x 3 seeds x 1 criterion x 9,000 ratios x 4 precisions x 2 methods\)",
    ),
    "networks": (
        f"model: [{','.join(f'{{name: vgg_tiny, width: {i / 1000}}}' for i in range(1, MAX_NETWORKS + 2))}]",
        f"f.yaml:3:1: {MAX_NETWORKS + 1} networks on data sets are more than {MAX_NETWORKS}",
    ),
    "widths": ("model: {name: vgg_tiny, width: 100}", "f.yaml:3:1: .*width is 100.0.* parameters"),
    "pictures": (
        "data: {name: imagefolder, root: pictures, image_size: 1000000000}",
        "f.yaml:2:1: .*image_size is 1000000000",
    ),
    "unknown keys": ("\n".join(f"k{i}: 1" for i in range(9_000)), "k0: unknown key 'k0'"),
    "names": (f"precisions: [{','.join(f'p{i}' for i in range(5_000))}]", "unknown precision 'p0'"),
    "modules": (f"model: [{','.join(f'm{i}:f' for i in range(2_000))}]", "there is no module 'm0'"),
    "ignored": (f"prune: {{ignore: [{','.join(f'p{i}' for i in range(5_000))}]}}", "no layer 'p0'"),
    "spaces": ("seeds: " + " " * (MAX_BYTES - 100), "null is not a whole number"),
    "quotes": ("seeds: '" + "'" * (MAX_BYTES - 101), "is not a whole number"),
    "dashes": ("seeds: " + "- " * 90_000, "not valid YAML"),
    "question marks": ("? " * 90_000, "not valid YAML"),
    "anchors": ("seeds: [" + ",".join(f"&a{i} {i}" for i in range(6_000)) + "]", "240,000 cells"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_file_is_refused_in_good_time(place, kind):
    added, expected = LARGE[kind]
    key = added.partition(":")[0]
    text = "".join(line for line in START.splitlines(True) if not line.startswith(f"{key}:"))
    if key in ("data", "model"):
        lines = START.splitlines(True)
        lines[1 if key == "data" else 2] = added + "\n"
        text, added = "".join(lines), ""
    assert re.search(expected, plan_or_one_error(place, (text + added).encode()))


@pytest.mark.long
def test_the_largest_grid_is_planned(place):
    """As many cells as are allowed, in one path per seed."""
    seeds = list(range(MAX_CELLS // 20))
    (place / "f.yaml").write_text(START + f"seeds: {seeds}\nbaselines: []\n")
    facts.gather_facts.cache_clear()
    with deadline(4 * HANGS_AFTER):
        assert len(make_plan(load_config("f.yaml")).cells) == MAX_CELLS


def test_a_deadline_ends_a_hang():
    with pytest.raises(Hang), deadline(1):
        while True:
            pass


def test_the_hostile_module_has_a_network_and_a_data_set_that_work(place):
    assert (
        plan_or_one_error(place, b"name: a\ndata: hostile:pairs\nmodel: hostile:net\nprune: {ratios: [0, 0.5]}")
        == "planned"
    )
    assert textwrap.dedent(HOSTILE) == HOSTILE
