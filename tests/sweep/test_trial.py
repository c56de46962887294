"""What can't be finished is known before anything trains: one error for the network, or the cells of one precision."""

import dataclasses
import io

import pandas as pd
import pytest
import torch
from rich.console import Console
from tiny_sweep import SMALL, count_kinds, run_inline, tiny_config

from qprune.deploy import onnx_file
from qprune.deploy.formats import FORMATS
from qprune.networks import build_model
from qprune.registry import packages
from qprune.registry.errors import UserError
from qprune.sweep import rehearsal, trial
from qprune.sweep.forecast import show_plan
from qprune.sweep.plan import make_plan
from qprune.sweep.trial import Trial, try_all

FINE = Trial()

CODE = """\
import qprune
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, num_classes, end, norm=True):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, track_running_stats=norm)
        self.b, self.end = nn.Conv2d(8, 8, 3, padding=1), end
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.end(F.relu(self.b(F.relu(self.norm(self.a(x)))))))


class Squeeze(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True).squeeze()


class Counting(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * (x.size(1) - 7)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft2(x).abs().mean((2, 3))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def uncounted(num_classes):
    return Net(num_classes, Spectrum())


def squeezes(num_classes):
    return Net(num_classes, Squeeze())


def counting(num_classes):
    return Net(num_classes, Counting())


def by_batch(num_classes):
    return Net(num_classes, Mean(), norm=False)


def fine(num_classes):
    return Net(num_classes, Mean())


class Infinite(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * 1e38 * 1e38


def infinite(num_classes):
    return Net(num_classes, Infinite())


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.i1(x)


qprune.register_operation(Odd, macs=0)


def odd(num_classes):
    return Net(num_classes, nn.Sequential(Odd(), Mean()))


def transposed(num_classes):
    return nn.Sequential(Net(8, Mean()), nn.Unflatten(1, (8, 1, 1)), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(),
                         nn.Linear(16, num_classes))
"""


@pytest.fixture(autouse=True)
def nothing_has_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "PASSED", tmp_path / "passed")


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    """A module of a user's own under a name that no other test has imported."""
    (tmp_path / f"tried_{tmp_path.name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return f"tried_{tmp_path.name}".replace("-", "_")


@pytest.mark.parametrize("build, words", [
    ("squeezes", "squeeze() without a dimension drops the batch of one"),
    ("by_batch", "Give norm running statistics"),
    ("counting", "removing channels changes the outputs"),
])  # fmt: skip
def test_a_network_that_can_be_had_at_no_precision_is_one_error_before_training(tmp_path, user_code, build, words):
    config = tiny_config(tmp_path, *SMALL, f"model={user_code}:{build}")
    with pytest.raises(UserError) as error:
        run_inline(config, tmp_path / "results")
    assert words in str(error.value) and str(error.value).startswith("--set model=")
    stages = [path.name for path in (tmp_path / "results/stages").iterdir() if not path.name.startswith(".")]
    assert stages == []


def test_a_network_that_cannot_be_had_costs_no_other_its_cells(tmp_path, user_code):
    config = tiny_config(tmp_path, *SMALL, f"model=[{user_code}:squeezes,{user_code}:infinite,{user_code}:fine]")
    code, _, said = run_inline(config, tmp_path / "results")
    rows = pd.read_csv(tmp_path / "results/tiny/cells.csv", comment="#").groupby("model")
    assert code == 1 and {model: set(own.status) for model, own in rows} == {
        f"{user_code}_squeezes": {"failed"}, f"{user_code}_infinite": {"failed"}, f"{user_code}_fine": {"done"},
    }  # fmt: skip
    assert said.count("drops the batch of one") == 4 and said.count("logits that are not finite") == 4


def test_a_network_that_cannot_be_counted_costs_no_other_its_forecast(tmp_path, user_code):
    """Its memory format can't be chosen by its weights, nor its updates be timed: no cell of it can be made."""
    config = tiny_config(tmp_path, *SMALL, f"model=[{user_code}:uncounted,{user_code}:fine]")
    text = io.StringIO()
    show_plan(config, tmp_path / "results", Console(file=text, width=300))
    assert text.getvalue().count("2 cells can't be made") == 2  # a precision each
    assert "worker(s) of 1 thread" in text.getvalue()  # the minutes of the other
    code, _, _ = run_inline(config, tmp_path / "results")
    rows = pd.read_csv(tmp_path / "results/tiny/cells.csv", comment="#").groupby("model")
    assert code == 1 and {model: set(own.status) for model, own in rows} == {
        f"{user_code}_uncounted": {"failed"}, f"{user_code}_fine": {"done"},
    }  # fmt: skip


def test_the_cells_of_one_precision_are_marked_and_the_rest_runs(tmp_path, monkeypatch):
    real = trial.finish_at

    def finish_at(rehearsal, network, precision):
        if precision == "int4":
            raise UserError("layer conv1 bears no 4 bits")
        return real(rehearsal, network, precision)

    monkeypatch.setattr(trial, "finish_at", finish_at)
    config, out = tiny_config(tmp_path, *SMALL), tmp_path / "results"
    text = io.StringIO()
    show_plan(config, out, Console(file=text, width=200))
    assert "vgg_tiny on digits: 2 cells can't be made, int4: layer conv1 bears no 4 bits" in text.getvalue()
    code, computed, said = run_inline(config, out)
    rows = pd.read_csv(out / "tiny/cells.csv", comment="#").set_index("precision")
    assert code == 1 and set(rows.status["fp32"]) == {"done"} and set(rows.status["int4"]) == {"failed"}
    assert count_kinds(computed)["quantize"] == 2  # fp32's two: nothing was trained for int4
    assert said.count("int4: layer conv1 bears no 4 bits") == 2
    monkeypatch.undo()
    assert run_inline(config, out)[0] == 0  # mended, the same command goes on


def test_a_fault_of_a_library_is_a_sentence(tmp_path, user_code):
    """Brevitas' form of a transposed convolution is missing here; FP32 has none of that."""
    config = tiny_config(tmp_path, *SMALL, f"model={user_code}:transposed", "prune.ignore=['2']")
    faults = try_all(make_plan(config)).faults
    assert [place[2] for place in faults] == ["int4"] and "ConvTranspose2d" in next(iter(faults.values()))


@pytest.mark.parametrize("seed", range(3))
def test_rounding_is_no_dependence_on_the_batch(tmp_path, seed):
    """Sums of another order, as batches of another size have them, fall on the other side of a tie at 16 bits or 4."""
    torch.manual_seed(seed)
    config = tiny_config(
        tmp_path, "model=torchvision:squeezenet1_1", "data={name: digits, subset: 64}", "precisions=[fp16,int4]"
    )
    spec = dataclasses.replace(make_plan(tiny_config(tmp_path)).facts["vgg_tiny", "digits"].spec, image_size=64, in_channels=3,
                               model=config.model[0].settings, mean=(0.5,) * 3, std=(0.2,) * 3)  # fmt: skip
    tried = trial.Rehearsal(spec, "", 0.0, False, (), 1, 1, None, 8)
    network = trial.cut(tried)
    for precision in ("fp16", "int4"):
        trial.finish_at(tried, network, precision)


def test_what_passed_is_tried_once(tmp_path, monkeypatch):
    plan, calls = make_plan(tiny_config(tmp_path)), []
    real = trial.finish_at
    monkeypatch.setattr(trial, "finish_at", lambda *args: calls.append(args[2]) or real(*args))
    assert try_all(plan) == FINE and calls == ["fp32", "fp16", "int8", "int4"]
    assert try_all(plan) == FINE and len(calls) == 4
    smaller = make_plan(tiny_config(tmp_path, "prune.ratios=[0,0.25]"))
    assert try_all(smaller) == FINE and len(calls) == 8  # cut less far: another network
    first = next((tmp_path / "passed").iterdir())
    first.unlink()
    assert try_all(plan) == try_all(smaller) == FINE and len(calls) == 9


def test_what_was_exported_is_tried_once(tmp_path, monkeypatch):
    """Each precision in each format that bears it, and again where only another format has passed."""
    plan, calls = make_plan(tiny_config(tmp_path)), []
    real = trial.try_export
    monkeypatch.setattr(
        trial, "try_export", lambda made, form: calls.append((made.spec.precision, form.name)) or real(made, form)
    )
    onnx = [(precision, "onnx") for precision in ("fp32", "fp16", "int8", "w4a4")]
    assert try_all(plan) == FINE and not calls
    assert try_all(plan, ["onnx"]) == FINE and calls == onnx
    assert try_all(plan, ["onnx"]) == FINE and len(calls) == 4
    assert try_all(plan, FORMATS.names()) == FINE
    assert sorted(set(calls[4:])) == sorted(
        [(precision, "torch") for precision, _ in onnx] + [("fp32", "pt2"), ("fp16", "pt2"), ("w4a4", "qonnx")]
    )
    assert len(calls) == 4 + 7
    assert try_all(plan, FORMATS.names()) == FINE and len(calls) == 4 + 7


def test_a_format_whose_packages_are_missing_is_not_tried(tmp_path, monkeypatch):
    find_spec = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    monkeypatch.setattr(trial, "try_export", lambda made, form: pytest.fail(form.name))
    config = tiny_config(tmp_path, *SMALL)
    assert try_all(make_plan(config), ["onnx"]) == FINE
    monkeypatch.setattr(trial, "try_export", lambda made, form: None)
    said = planned(config, tmp_path, exports=True)
    assert "not tried: onnx, which needs onnx, onnxoptimizer, onnxruntime (pip install 'qprune[onnx]')" in said
    assert "not tried: qonnx" in said and "pt2" not in said


def planned(config, folder, **options) -> str:
    text = io.StringIO()
    show_plan(config, folder / "results", Console(file=text, width=200), **options)
    return text.getvalue()


def test_what_cannot_be_exported_is_said_and_measured_all_the_same(tmp_path, user_code):
    """The layer by name, a line for each precision; the sweep says it once at its start."""
    config = tiny_config(tmp_path, *SMALL, f"model={user_code}:odd")
    lines = [line for line in planned(config, tmp_path).splitlines() if line.startswith("tried ")]
    assert [line.partition(": layer")[0] for line in lines] == [
        f"tried {user_code}_odd on digits, {precision}: can't be written as onnx" for precision in ("fp32", "int4")
    ]
    for line in lines:
        assert "layer end.0 (Odd): " in line and "special_i1" in line and "--format torch holds every network" in line
    code, _, said = run_inline(config, tmp_path / "results")
    assert code == 0 and said.count("can't be written as onnx") == 2
    assert set(pd.read_csv(tmp_path / "results/tiny/cells.csv", comment="#").status) == {"done"}
    assert "can't be written" not in run_inline(config, tmp_path / "results")[2]  # nothing is left to do
    more = [line for line in planned(config, tmp_path, exports=True).splitlines() if line.startswith("tried ")]
    assert [line.partition(": layer")[0].partition("digits, ")[2] for line in more] == [
        "fp32: can't be written as onnx", "int4: can't be written as onnx", "int4: can't be written as qonnx",
    ]  # fmt: skip


def test_a_file_that_gives_other_logits_is_found(tmp_path, monkeypatch):
    """Another network's in each precision; the trial of a network whose logits are other ones by rounding passes (see
    deploy.export.try_export)."""
    write = onnx_file.write

    def write_other(made, path):
        torch.manual_seed(1)
        other = made.spec.number_format
        other = other.finish(other.prepare(made.spec.build(), trial.images_of(made.spec)))
        write(dataclasses.replace(made, network=other.eval()), path)

    monkeypatch.setattr(onnx_file, "write", write_other)
    unwritten = try_all(make_plan(tiny_config(tmp_path)), ["onnx"]).unwritten
    assert [line.partition(": ")[0].partition("digits, ")[2] for line in unwritten] == ["fp32", "fp16", "int8", "int4"]
    assert all("the file gives other logits than the untrained network, by" in line for line in unwritten)


def test_the_trial_takes_no_randomness(tmp_path):
    plan = make_plan(tiny_config(tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    try_all(plan)
    assert torch.equal(torch.rand(1), expected)


def test_a_checkpoint_that_does_not_fit_is_found_at_plan(tmp_path):
    wrong = build_model({"name": "vgg_tiny", "width": 0.25}, 1, 10, 8)
    torch.save(wrong.state_dict(), tmp_path / "wrong.pt")
    start = f"train={{checkpoint: {tmp_path / 'wrong.pt'}, updates: 5, batch_size: 32}}"
    with pytest.raises(UserError, match="--set train=.*conv1.weight is"):
        show_plan(tiny_config(tmp_path, start), tmp_path / "results", Console(file=io.StringIO()))
