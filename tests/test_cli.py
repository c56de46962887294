"""The real command, as a user types it: what it prints, its exit code, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from processes import group_is_empty, heed_ctrl_c, members, wait_until
from started import start
from tiny_sweep import COMMAND, TINY, F, N, P, Q, command, environment, run_inline, tiny_config, write_tiny

import qprune
from qprune.settings.config import load_config, write_template
from qprune.storage.results import read_cells

# Help and small commands --------------------------------------------------------------------------------------------


def test_help_imports_no_torch():
    code = """
import sys
from qprune.cli import app
for arguments in ([], ["init"], ["plan"], ["sweep"], ["status"]):
    try:
        app([*arguments, "--help"])
    except SystemExit as end:
        assert end.code == 0, end.code
heavy = {"torch", "torchvision", "brevitas", "pandas", "sklearn", "numpy"} & sys.modules.keys()
print("heavy:", *sorted(heavy))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Usage:") == 5
    assert run.stdout.splitlines()[-1].strip() == "heavy:"


@pytest.mark.parametrize(
    ("arguments", "code", "imported"),
    [
        (["status", "results/tiny"], 0, []),
        (["pick", "results/tiny", "--max", "weight_bytes=1e9"], 0, []),
        (["report", "results/tiny", "--answers"], 0, []),
        (["plan", "bad.yaml"], 2, []),
        (["sweep", "bad.yaml"], 2, []),
        (["plan", "tiny.yaml"], 0, ["torch"]),  # builds the network, for the number of its maps
        (["sweep", "tiny.yaml"], 0, ["torch"]),
    ],
)
def test_what_computes_nothing_starts_light(resumable, arguments, code, imported):
    (resumable / "bad.yaml").write_text(TINY.replace("lr: 0.1", "lr: -1"))
    started = start(*arguments, cwd=resumable, home=resumable)
    assert started.code == code and started.heavy == imported
    assert "torch._dynamo" not in started.modules
    again = start(*arguments, cwd=resumable, home=resumable)  # the facts of the first time are kept
    assert again.code == code and not again.heavy and again.seconds < 4
    assert "scipy" not in again.modules or arguments[0] == "report"


def test_the_plan_of_what_is_left_is_light_the_second_time(resumable):
    """Networks have been tried, updates timed, layers counted. What was timed under load is timed again where there is none."""
    arguments = ("plan", "tiny.yaml", "--set", "seeds=[0,1,2]")
    for _ in range(4):
        again = start(*arguments, cwd=resumable, home=resumable)
        if not again.heavy:
            break
    assert again.code == 0 and not again.heavy and again.seconds < 4
    other = start(*arguments, "--set", "model={name: vgg_tiny, width: 0.25}", cwd=resumable, home=resumable)
    assert "torch" in other.heavy


def test_help_names_the_commands(tmp_path):
    run = command("--help", cwd=tmp_path)
    assert run.returncode == 0
    assert all(name in run.stdout for name in ("init", "plan", "sweep", "status"))


def test_init_writes_a_file_that_plan_accepts_and_never_overwrites(tmp_path):
    run = command("init", "my.yaml", cwd=tmp_path)
    assert run.returncode == 0 and "qprune plan my.yaml" in run.stdout
    written = (tmp_path / "my.yaml").read_text()
    planned = command("plan", "my.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "108 cells, 0 done" in planned.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["my.yaml"]  # a plan writes nothing
    (tmp_path / "my.yaml").write_text(written + "# mine\n")
    again = command("init", "my.yaml", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert (tmp_path / "my.yaml").read_text() == written + "# mine\n"


def test_init_names_the_sweep_as_its_file(tmp_path):
    for file, name in (("my.yaml", "my"), ("on.yaml", "on"), ("a b.yaml", "a_b"), ("stages.yml", "my_sweep")):
        write_template(tmp_path / file)
        assert load_config(tmp_path / file).name == name
        assert f"results go to results/{name}\n" in (tmp_path / file).read_text()


def test_version(tmp_path):
    started = start("--version", cwd=tmp_path)
    assert started.code == 0 and not started.heavy
    run = command("--version", cwd=tmp_path)
    assert run.stdout.startswith(f"qprune {qprune.__version__} (Python ") and f"torch {version('torch')}" in run.stdout


def test_plan_follows_the_flow(finished, tmp_path):
    """Cells, data, what was tried, updates, stages in their order, costs, time, disk."""
    place = (finished / "tiny.yaml", "--out", finished / "results")
    done = command("plan", *place, cwd=tmp_path).stdout
    assert "16 cells, 16 done" in done and done.endswith("nothing is left to compute\n")
    run = command("plan", *place, "--workers", "3", "--set", "seeds=[0,1,2]", cwd=tmp_path)
    marks = ("24 cells, 16 done", "digits train", "updates of each cell: ", "│ dense", "│ prune",
             "│ finetune", "│ quantize", "│ evaluate", "bit_gflops", "with 3 worker(s)", "disk:")  # fmt: skip
    places = [run.stdout.index(mark) for mark in marks]
    assert places == sorted(places), run.stdout
    assert f"{N + P + F + Q} = N {N} + P {P} + F {F} + Q {Q}" in run.stdout


def test_status(finished, tmp_path):
    run = command("status", finished / "results/tiny", cwd=tmp_path)
    assert run.returncode == 0 and "16 done, 0 failed, 0 pending" in run.stdout
    cells = read_cells(finished / "results/tiny")
    lines = [[entry.strip() for entry in line.split("│")[1:-1]] for line in run.stdout.splitlines() if "│" in line]
    half = next(entries for entries in lines if entries[0] == "50%")
    expected = []
    for precision in ("fp32", "fp16", "int8", "int4"):
        rows = cells[(cells.pruning_ratio == 0.5) & (cells.precision == precision)]
        low, high = 100 * rows.accuracy.min(), 100 * rows.accuracy.max()
        expected.append(f"{(low + high) / 2:.1f} ± {(high - low) / 2**0.5:.1f}")  # sd of two values
    assert half[1:] == expected

    cells.loc[3:5, ["status", "accuracy"]] = ["pending", None]
    cells.loc[0, ["status", "accuracy"]] = ["failed", None]
    (tmp_path / "half").mkdir()
    cells.to_csv(tmp_path / "half/cells.csv", index=False)
    run = command("status", "half", cwd=tmp_path)
    assert run.returncode == 0 and "12 done, 1 failed, 3 pending" in run.stdout


@pytest.mark.parametrize("content", [None, b"", b"a,b\n1,2\n", b"\xff\xfe\x00"])
def test_status_of_what_is_no_sweep(tmp_path, content):
    if content is not None:
        (tmp_path / "cells.csv").write_bytes(content)
    run = command("status", ".", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and "cells.csv" in run.stderr and "Traceback" not in run.stderr


# Errors: one message, its place, the nearest name, exit code 2, nothing written -------------------------------------


def refused(tmp_path, *arguments) -> str:
    before = sorted(tmp_path.rglob("*"))
    run = command(*arguments, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stderr and run.stdout == ""
    assert run.stderr.count("error:") == 1 and run.stderr.startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before
    return run.stderr.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("seeds:", "sedes:", "4:1", ["sedes", "'seeds'"]),
        ("lr: 0.1", "learning_rate: 0.1", "5:38", ["learning_rate"]),
        ("updates: 40", "updates: many", "5:9", ["train.updates", "'many'", "whole number"]),
        ("updates: 40", "updates: -1", "5:9", ["train.updates", "-1", "from 1"]),
        ("[0, 0.5]", "[0, 1.5]", "6:21", ["prune.ratios[1]", "1.5", "below 1"]),
        ("name: vgg_tiny", "name: vgg_tinny", "3:1", ["vgg_tinny", "'vgg_tiny'"]),
        ("width: 0.5", "widht: 0.5", "3:1", ["widht", "'width'"]),
        ("name: digits", "name: digitz", "2:1", ["digitz", "'digits'"]),
        ("fp16, int8", "fp16, in8", "9:26", ["in8", "'int8'"]),
        ("prune: {", "prune: {criterion: tailor, ", "6:9", ["tailor", "'taylor'"]),
        ("{name: digits, subset: 256}", "{name: mnist, root: nowhere}", "2:1", ["mnist", "nowhere"]),
        ("{name: digits, subset: 256}", "{name: imagefolder, root: nowhere, image_size: 8}", "2:1", ["nowhere"]),
        ("lr: 0.1", "lr: 0.1, checkpoint: no.pt", "5:47", ["no such file", "no.pt"]),
        ("{name: vgg_tiny, width: 0.5}", "no_module:build", "3:1", ["no_module"]),
        ("[0, 0.5]", "[0, 0.5", "6:", ["not valid YAML"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, old, new, place, words):
    assert TINY.count(old) == 1 or old == "updates: 40"
    (tmp_path / "q.yaml").write_text(TINY.replace(old, new))
    message = refused(tmp_path, "sweep", "q.yaml")
    assert message.startswith(f"q.yaml:{place}"), message
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("what", ["plan", "sweep"])
def test_a_missing_file_and_a_wrong_override(tmp_path, what):
    write_tiny(tmp_path)
    message = refused(tmp_path, what, "tinny.yaml")
    assert message.startswith("tinny.yaml: no such file") and "'tiny.yaml'" in message
    message = refused(tmp_path, what, "tiny.yaml", "--set", "prune.ratio=[0,0.5]")
    assert "--set prune.ratio=[0,0.5]" in message and "'ratios'" in message


def test_a_ratio_that_cannot_be_reached(tmp_path):
    """Known only once the network is built: with 20 maps kept, 8 + 8 + 2 x 16 + 2 x 20 stay, so 24 of 112 can go."""
    (tmp_path / "q.yaml").write_text(TINY.replace("ratios: [0, 0.5]", "ratios: [0, 0.5], min_channels: 20"))
    run = command("sweep", "q.yaml", cwd=tmp_path)
    assert run.returncode == 2 and "Traceback" not in run.stderr and run.stderr.count("error: ") == 1
    assert "error: q.yaml:6:21: " in run.stderr
    assert "0.5 can't be reached" in run.stderr and "0.214 of 112" in run.stderr and "min_channels" in run.stderr
    assert not (tmp_path / "results").exists()


def test_a_ratio_beyond_the_paths_end(resumable):
    before = {file: file.stat().st_mtime_ns for file in resumable.rglob("*")}
    run = command("sweep", "tiny.yaml", "--set", "prune.ratios=[0,0.5,0.75]", cwd=resumable)
    assert run.returncode == 2 and "Traceback" not in run.stderr and run.stderr.count("error: ") == 1
    assert "error: --set prune.ratios=[0,0.5,0.75]: " in run.stderr
    assert "0.75" in run.stderr and "until: 0.5" in run.stderr and "new `name`" in run.stderr
    assert {file: file.stat().st_mtime_ns for file in resumable.rglob("*")} == before


def test_an_out_folder_that_is_a_file(tmp_path):
    write_tiny(tmp_path)
    (tmp_path / "taken").write_text("")
    run = command("sweep", "tiny.yaml", "--out", "taken", cwd=tmp_path)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert "error: taken/tiny can't be written: Not a directory; name another folder with --out" in run.stderr


# Runs that fail, resume, are interrupted ----------------------------------------------------------------------------


def test_damage_is_said_and_mended(resumable):
    cells = read_cells(resumable / "results/tiny").set_index("cell")
    stages = resumable / "results/stages"
    pruned, other = (cells.loc[f"vgg_tiny-digits-taylor-fp32-r{ratio}-s1"] for ratio in ("0.50", "0.00"))
    tensors = stages / pruned.stage_finetune / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.write_bytes(content)
    (stages / other.stage_evaluate / "stage.json").write_text("{")
    run = command("sweep", "tiny.yaml", "--workers", "1", cwd=resumable)
    assert run.returncode == 0, run.stderr
    assert f"{pruned.stage_finetune}/tensors.safetensors is damaged" in run.stdout
    assert f"{other.stage_evaluate}/stage.json is damaged" in run.stdout
    assert "16 of 16 cells done; 2 stages computed" in run.stdout
    assert len(list((stages / "damaged").iterdir())) == 2
    pd.testing.assert_frame_equal(read_cells(resumable / "results/tiny").set_index("cell"), cells)


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_ctrl_c_and_sigterm_stop_cleanly_and_the_same_command_goes_on(tmp_path, sent):
    write_tiny(tmp_path)
    settings = ["precisions=fp32", "train.updates=200", "seeds=[0,1,2]"]
    sets = [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen(
        [*COMMAND, "sweep", "tiny.yaml", "--workers", "2", *sets], cwd=tmp_path, env=environment(), start_new_session=True, preexec_fn=heed_ctrl_c, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        stages = tmp_path / "results/stages"
        wait_until(lambda: list(stages.glob("dense-*/stage.json")), 300, process)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does: to the workers, too
        else:
            process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=60)
        wait_until(lambda: group_is_empty(process.pid), 60)
    finally:
        if not group_is_empty(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + sent, stderr
    assert "Traceback" not in stdout + stderr and "leaked" not in stderr
    resume = "qprune sweep tiny.yaml --workers 2 --set precisions=fp32 --set train.updates=200 --set 'seeds=[0,1,2]'"
    assert resume in stderr
    half = read_cells(tmp_path / "results/tiny")
    assert len(half) == 6 and set(half.status) <= {"done", "pending"} and "pending" in set(half.status)
    kept = {folder: folder.stat().st_mtime_ns for folder in stages.glob("[!.]*-*")}
    assert kept
    code, _, again = run_inline(tiny_config(tmp_path, *settings), tmp_path / "results")
    assert code == 0 and "6 of 6 cells done" in again
    assert all(folder.stat().st_mtime_ns == changed for folder, changed in kept.items())
    assert set(read_cells(tmp_path / "results/tiny").status) == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["as it starts", "as it imports", "as workers start"])
def test_ctrl_c_before_the_first_stage(tmp_path, moment):
    write_tiny(tmp_path)
    process = subprocess.Popen(
        [*COMMAND, "sweep", "tiny.yaml", "--set", "train.updates=100000"], cwd=tmp_path, text=True,
        env={**environment(), "HOME": str(tmp_path)}, start_new_session=True, preexec_fn=heed_ctrl_c, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        if moment == "as it imports":
            wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), 300, process)
        if moment == "as workers start":
            wait_until(lambda: any("forkserver" in line for line in members(process.pid).values()), 300, process)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        wait_until(lambda: group_is_empty(process.pid), 60)
    finally:
        if not group_is_empty(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert not list((tmp_path / "results").rglob("stage.json"))
    if moment == "as workers start":  # what there is to be done is known from then on
        assert "0 done, 0 failed, 16 pending" in command("status", "results/tiny", cwd=tmp_path).stdout
    if moment == "as it starts":  # Python itself may be told
        assert process.returncode in (130, -signal.SIGINT), (process.returncode, stderr)
    else:
        assert process.returncode == 130 and "Traceback" not in stdout + stderr, (process.returncode, stderr)


def test_the_printed_paths_and_table(resumable):
    run = command("sweep", "tiny.yaml", cwd=resumable)
    assert run.returncode == 0
    assert "16 of 16 cells done; 0 stages computed" in run.stdout
    for path in ("results/tiny/cells.csv", "results/tiny/cells", "results/tiny/networks"):
        assert path in run.stdout
    assert "mean ± sd over 2 seed(s)" in " ".join(run.stdout.split())
