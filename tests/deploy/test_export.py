"""Exported files give what the evaluated network gave, in their own runtimes; what can't is refused; nothing half."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from itertools import groupby

import onnx
import pytest
import torch
from networks import Depthwise, Plain, Residual, small
from tiny_sweep import command, environment, run_inline

import qprune
from qprune.data import Split
from qprune.deploy import load_torch, onnx_file, qonnx_file, torch_file
from qprune.deploy.cells import DeployedCell, open_cell
from qprune.deploy.check import compare, logits_of
from qprune.deploy.commands import UNVERIFIED, export_command
from qprune.deploy.export import export_cell, unverified
from qprune.deploy.fold import fold_batch_norms
from qprune.deploy.formats import FORMATS, Format
from qprune.deploy.half import native_half, stored_half
from qprune.deploy.kit_bench import profile_of
from qprune.precision import get_precision
from qprune.registry import packages
from qprune.registry.errors import UserError
from qprune.settings.config import load_config
from qprune.stages.saved import NetworkSpec
from qprune.storage.seal import read_sealed_json, sealed_json

SWEEP = """\
name: trained
data: digits
model: [{name: vgg_tiny, width: 0.5}, {name: resnet20, width: 0.25}]
seeds: [0]
train: {updates: 150, batch_size: 64, lr: 0.1}
prune: {ratios: [0, 0.5], channels_per_step: 16, updates_between: 5}
finetune: {updates: 60, lr: 0.05}
quantize: {updates: 10}
precisions: [fp32, fp16, int8, w8a8, int4]
protocol: classic
"""
EVERY = [(form, p) for form in FORMATS.entries() for p in ("fp32", "fp16", "int8", "w8a8", "int4")]
PAIRS = [(form.name, precision) for form, precision in EVERY if form.can_hold(precision)]
REFUSED = [(form.name, precision) for form, precision in EVERY if not form.can_hold(precision)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A plain and a residual network at ratio 0 and 0.5 in five precisions, trained until they see digits."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "sweep.yaml").write_text(SWEEP)
    code, _, text = run_inline(load_config(folder / "sweep.yaml"), folder / "results")
    assert code == 0, text
    return folder / "results" / "trained"


@pytest.fixture
def results(resumable):
    """The finished tiny sweep's folder, to write into."""
    return resumable / "results" / "tiny"


def tiny(precision: str, ratio: float = 0.5) -> str:
    return f"vgg_tiny-digits-taylor-{precision}-r{ratio:.2f}-s0"


def small_cell(kind: type, precision: str):
    """A deployed cell around a small network, whose test images are random; and the network before quantisation."""
    network, images, labels = small(kind)
    made = get_precision(precision).choose(network, images)
    trained = made.prepare(network, images)
    finished = made.finish(trained).eval()
    spec = NetworkSpec({"name": "own"}, 1, 8, 5, (0.5,), (0.25,), precision=made.name, layer_bits=made.layer_bits)
    generator = torch.Generator().manual_seed(5)
    test = Split(torch.randint(0, 256, (64, 1, 8, 8), generator=generator).byte(), labels.repeat(4))
    return DeployedCell(f"small-{precision}", {}, spec, trained.state_dict(), finished, test, tuple("abcde"))


# Agreement on trained networks --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0, 0.5])
@pytest.mark.parametrize("model", ["vgg_tiny", "resnet20"])
@pytest.mark.parametrize("form, precision", PAIRS)
def test_agrees_with_the_evaluated_network(trained, tmp_path, form, precision, model, ratio):
    cell = open_cell(trained, f"{model}-digits-taylor-{precision}-r{ratio:.2f}-s0")
    exported = export_cell(cell, FORMATS.get(form), tmp_path / "file")
    parity = exported.parity
    assert parity.images == 449 and parity.holds and parity.agreement >= 0.99
    assert parity.evaluated_accuracy == cell.record["accuracy"] > (0.95 if ratio == 0 else 0.6)
    assert abs(parity.accuracy - parity.evaluated_accuracy) <= 0.01
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    if form == "torch":
        assert parity.largest == 0
    if precision == "fp32":
        assert parity.largest < 1e-4
    if (form, precision) == ("qonnx", "int4"):  # a sum in another order may meet a tie, in an image or two
        run = FORMATS.load(form).load(exported.path, cell)
        differences = (logits_of(run, cell.test) - logits_of(cell.network, cell.test)).abs().amax(1)  # [images]
        assert (differences >= 1e-4).float().mean() <= 0.01
    if ratio == 0.5:  # the physically smaller network
        dense = trained / "networks" / f"{model}-digits-taylor-fp32-r0.00-s0.safetensors"
        assert exported.size < dense.stat().st_size or form == "pt2"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg_tiny", "resnet20"])
def test_what_int8_changes_in_onnx(trained, tmp_path, model):
    """Unfused, ONNX Runtime gives the integers of torch's kernels, up to ties and what follows from them: of the first
    layers' one in ten thousand at most (on some processors none), of any layer's 1% before the average pooling, whose
    ties torch rounds otherwise."""
    import onnxruntime
    from torch import fx

    cell = open_cell(trained, f"{model}-digits-taylor-int8-r0.00-s0")
    onnx_file.write(cell, tmp_path / "file.onnx")
    exported = onnx.load(tmp_path / "file.onnx")
    names = [node.output[0] for node in exported.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        exported.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options)
    images = cell.test.images.float() / 255
    found = [values for values in session.run(names, {"images": images.numpy()}) if values.ndim == 4]
    expected = []

    class Integers(fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if isinstance(result, torch.Tensor) and result.is_quantized and result.dim() == 4:
                integers = result.int_repr().numpy()
                handed_on = isinstance(cell.network.get_submodule(node.target), torch.nn.Identity | torch.nn.MaxPool2d) \
                    if node.op == "call_module" else False  # fmt: skip
                if not handed_on:
                    expected.append(integers)
            return result

    with torch.no_grad():
        Integers(cell.network).run(images)
    shares = {}
    for place, ours in enumerate(expected):
        theirs = next(values for values in found if values.shape == ours.shape and (values != ours).mean() < 0.5)
        shares[place] = float((theirs != ours).mean())
    before_average = list(shares.values())[:-1]
    assert len(before_average) >= 6 and max(before_average) <= 0.01
    assert before_average[0] == 0 and max(before_average[:3]) <= 1e-4


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form, precision", [pair for pair in REFUSED if pair[1] != "w8a8"])
def test_pairs_that_cannot_work_name_a_format_that_does(results, form, precision):
    with pytest.raises(UserError, match=r"can't hold.*--format torch") as caught:
        export_command(results, tiny(precision), form)
    assert f"--format {form}" not in str(caught.value) and "--format onnx" in str(caught.value)
    assert not (results / "exports").exists()


def test_unknown_names_are_told_with_the_nearest(results):
    with pytest.raises(UserError, match=r"unknown format 'onx'; did you mean 'onnx'\?"):
        export_command(results, tiny("fp32"), "onx")
    with pytest.raises(UserError, match=rf"no cell.*did you mean '{tiny('fp32')}'"):
        export_command(results, tiny("fp32").replace("0.50", "0.55"), "onnx")
    with pytest.raises(UserError, match="not a sweep's folder"):
        export_command(results.parent, tiny("fp32"), "onnx")


def test_a_network_that_was_not_kept(results):
    (results / "networks" / f"{tiny('fp32')}.safetensors").unlink()
    with pytest.raises(UserError, match="keep"):
        export_command(results, tiny("fp32"), "onnx")


def test_a_pending_cell(results):
    (results / "cells" / f"{tiny('fp32')}.json").unlink()
    with pytest.raises(UserError, match="has no network; run the sweep again"):
        export_command(results, tiny("fp32"), "onnx")


def test_bad_outputs(results, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        export_command(results, tiny("fp32"), "onnx", tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        export_command(results, tiny("fp32"), "onnx", tmp_path / "no" / "file.onnx")


def test_a_missing_package_names_the_extra(results, monkeypatch):
    find_spec = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    with pytest.raises(UserError, match=r"needs onnxruntime; install it with: pip install 'qprune\[onnx\]'"):
        export_command(results, tiny("fp32"), "onnx")
    assert export_command(results, tiny("fp32"), "torch") == 0


def test_the_record_says_what_is_needed_and_not_the_sweep_file(results, capsys):
    path = results / "sweep.json"
    written = read_sealed_json(path)
    written["settings"]["data"] = [{"name": "cifar"}]
    path.write_bytes(sealed_json(written))
    assert export_command(results, tiny("fp32"), "torch") == 0
    path.unlink()
    assert export_command(results, tiny("fp32"), "torch") == 0 and "top-1 agreement 100.00%" in capsys.readouterr().out


def test_an_exporter_that_fails_says_what_works(results, monkeypatch):
    def fail(cell, path):
        path.write_bytes(b"half")
        raise RuntimeError("no symbolic for aten::odd\nmore")

    monkeypatch.setattr(onnx_file, "write", fail)
    with pytest.raises(UserError, match="RuntimeError: no symbolic for aten::odd. .*--format torch"):
        export_command(results, tiny("fp32"), "onnx")
    assert not (results / "exports").exists()


def test_a_format_is_registered_once():
    assert FORMATS.names() == ["onnx", "qonnx", "torch", "pt2"]
    with pytest.raises(ValueError, match="twice"):
        FORMATS.add(Format("onnx", "x", bears=()))
    code = "import sys, qprune.deploy.formats as f; f.FORMATS.get('onnx').can_hold('int4'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_which_precisions_a_format_bears():
    bears = {form: [precision for _, precision in group] for form, group in groupby(PAIRS, lambda pair: pair[0])}
    assert bears == {
        "onnx": ["fp32", "fp16", "int8", "w8a8", "int4"],
        "qonnx": ["w8a8", "int4"],
        "torch": ["fp32", "fp16", "int8", "w8a8", "int4"],
        "pt2": ["fp32", "fp16"],
    }


class Pickled:
    """A format of one's own: the pickled network."""

    SUFFIX = ".pickle"

    def write(cell, path):
        torch.save(cell.network, path)

    def load(path, cell):
        return torch.load(path, weights_only=False)


def test_a_format_of_ones_own_conforms(results, capsys):
    form = Format("pickle", f"{__name__}:Pickled", bears=("torch",), why_not="quantisers don't pickle")
    with FORMATS.temporarily(form):
        for precision in ("fp32", "fp16"):
            assert export_command(results, tiny(precision), "pickle") == 0
            assert "agreement 100.00%" in capsys.readouterr().out
            assert (results / "exports" / f"{tiny(precision)}.pickle").is_file()
        with pytest.raises(UserError, match="pickle can't hold: quantisers don't pickle. Use --format onnx"):
            export_command(results, tiny("int4"), "pickle")
    with pytest.raises(UserError, match="unknown format 'pickle'"):
        export_command(results, tiny("fp32"), "pickle")


# The check ----------------------------------------------------------------------------------------------------------


def break_export(monkeypatch, module):
    """Makes the exporter write another network: the same layers, random weights."""
    import dataclasses

    write = module.write

    def write_other(cell, path):
        torch.manual_seed(1)
        write(dataclasses.replace(cell, network=cell.spec.build().eval()), path)

    monkeypatch.setattr(module, "write", write_other)
    return write


def test_a_file_that_disagrees_is_marked(results, monkeypatch, capsys):
    path = results / "exports" / f"{tiny('fp32')}.onnx"
    write = break_export(monkeypatch, onnx_file)
    assert export_command(results, tiny("fp32"), "onnx") == UNVERIFIED == 4
    printed = capsys.readouterr().out
    assert f"{path}.unverified" in printed and "error: the file disagrees" in printed
    assert [file.name for file in path.parent.iterdir()] == [path.name + ".unverified"]
    monkeypatch.setattr(onnx_file, "write", write)
    assert export_command(results, tiny("fp32"), "onnx") == 0
    beside = {f"{path.stem}.json", f"{path.stem}_check.py"}
    assert {file.name for file in path.parent.iterdir()} == {path.name} | beside  # the mark is gone with its reason
    assert "top-1 agreement 100.00%" in capsys.readouterr().out


def test_exit_code_of_the_command(results):
    """The real command: 0 with path, size, accuracy and agreement; 2 for bad input."""
    done = command("export", results, tiny("int4"), "--format", "onnx", cwd=results)
    assert done.returncode == 0, done.stderr
    path = results / "exports" / f"{tiny('int4')}.onnx"
    accuracy = json.loads((results / "cells" / f"{tiny('int4')}.json").read_text())["accuracy"]
    assert f"{path} (" in done.stdout and "kB)" in done.stdout
    assert f"accuracy {100 * accuracy:.2f}%" in done.stdout and "top-1 agreement" in done.stdout
    refused = command("export", results, tiny("int8"), "--format", "qonnx", cwd=results)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and "Traceback" not in refused.stderr


def test_agreement_counts_what_is_not_a_number_as_different():
    expected = torch.eye(4)
    found = expected.clone()
    found[0, 0] = torch.nan
    parity = compare(found, expected, torch.tensor([0, 1, 2, 0]))
    assert (parity.agreement, parity.accuracy, parity.evaluated_accuracy) == (0.75, 0.5, 0.75)
    assert not parity.holds


def test_one_in_a_hundred_may_differ():
    expected = torch.eye(2).repeat(50, 1)
    found = expected.clone()
    found[0] = found[0].flip(0)
    labels = torch.arange(2).repeat(50)
    assert compare(found, expected, labels).holds
    found[1] = found[1].flip(0)
    assert not compare(found, expected, labels).holds


# Whole or not at all ------------------------------------------------------------------------------------------------

KILLED = """
import os, signal
from itertools import groupby
from pathlib import Path
from qprune.deploy import onnx_file
from qprune.deploy.commands import export_command

def write_half(cell, path):
    path.write_bytes(b"half a network")
    print("half written", flush=True)
    os.kill(os.getpid(), signal.{signal})

onnx_file.write = write_half
export_command(Path({folder!r}), {cell!r}, "onnx")
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_export_leaves_no_half_file(results, tmp_path, name):
    before = sorted(str(path) for path in results.rglob("*"))
    script = KILLED.format(signal=name, folder=str(results), cell=tiny("fp32"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script], env={**environment(), "TMPDIR": str(temporary)}, capture_output=True, text=True
    )
    assert done.stdout == "half written\n" and done.returncode != 0
    assert sorted(str(path) for path in results.rglob("*")) == before
    if name == "SIGINT":
        assert not list(temporary.glob("qprune-export-*"))  # Ctrl-C leaves nothing at all
    else:
        assert done.returncode == -signal.SIGKILL


# The files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "w8a8", "w4a4", "w3a5"])
def test_onnx_of_small_networks(kind, precision, tmp_path):
    """Logits, not only classes: what differs is rounding (of halves between layers, of ties)."""
    cell = small_cell(kind, precision)
    onnx_file.write(cell, tmp_path / "file.onnx")
    expected = logits_of(cell.network, cell.test)
    found = logits_of(onnx_file.load(tmp_path / "file.onnx", cell), cell.test)
    tolerance = {"fp32": 1e-5, "fp16": 5e-3, "w8a8": 5e-2}.get(precision, 1e-3)
    share = (found - expected).abs().le(tolerance).float().mean()
    assert share >= (1.0 if precision == "fp32" else 0.99), (found - expected).abs().max()


@pytest.mark.parametrize("form, precision", [("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "w4a4"), ("qonnx", "w4a4")])
def test_without_torchs_older_exporter(form, precision, tmp_path, monkeypatch, capfd):
    """Its newer one gives the same logits, in one file, at any batch, and says nothing."""
    pytest.importorskip(
        "torch", "2.8", reason="Brevitas wants its newer exporter from 2.8 on; older torch has the older one"
    )
    monkeypatch.setattr(onnx_file, "has_torchscript_exporter", lambda: False)
    cell, module = small_cell(Residual, precision), FORMATS.load(form)
    module.write(cell, tmp_path / "file.onnx")
    expected, found = (logits_of(run, cell.test) for run in (cell.network, module.load(tmp_path / "file.onnx", cell)))
    assert (found - expected).abs().le(5e-3 if precision == "fp16" else 1e-4).float().mean() >= 0.99
    assert [file.name for file in tmp_path.iterdir()] == ["file.onnx"]
    assert "torch.onnx" not in "".join(capfd.readouterr())


def test_what_torchs_newer_exporter_lacks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "has_torchscript_exporter", lambda: False)
    with pytest.raises(
        UserError, match=r"^int8 is written as onnx by torch's TorchScript exporter, which torch .* hasn't; inst"
    ):
        onnx_file.write(small_cell(Plain, "int8"), tmp_path / "file.onnx")
    find_spec = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(UserError, match="writes ONNX by onnxscript; install it with: pip install onnxscript"):
        onnx_file.write(small_cell(Plain, "fp32"), tmp_path / "file.onnx")


def test_an_onnx_file_says_what_it_is_and_takes_any_batch(tmp_path):
    cell = small_cell(Residual, "w4a4")
    onnx_file.write(cell, tmp_path / "file.onnx")
    model = onnx.load(tmp_path / "file.onnx")
    assert {node.domain for node in model.graph.node} == {""}  # standard operators only
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["qprune.cell"] == "small-w4a4" and notes["qprune.classes"].split() == list("abcde")
    (images,) = model.graph.input
    assert [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim] == ["batch", 1, 8, 8]
    run = onnx_file.load(tmp_path / "file.onnx", cell)
    assert [len(run(torch.rand(n, 1, 8, 8))) for n in (1, 7)] == [1, 7]


def test_weights_are_stored_as_narrow_as_onnx_bears(results, tmp_path):
    """fp16: half. int8: INT8. int4: INT4, and INT8 in the first and the last layer. No weight of a layer is left in FP32."""
    half, byte, nibble = onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.INT4
    for precision, wanted in (("fp16", {half}), ("int8", {byte}), ("int4", {byte, nibble})):
        cell = open_cell(results, tiny(precision))
        onnx_file.write(cell, tmp_path / "file.onnx")
        initial = onnx.load(tmp_path / "file.onnx").graph.initializer
        assert {tensor.data_type for tensor in initial if len(tensor.dims) in (2, 4)} == wanted


def test_int8_keeps_biases_in_float(results, tmp_path):
    """Cut to int32 towards zero, as the exporter's own symbolic does it, they moved 17% of a network's logits."""
    cell = open_cell(results, tiny("int8"))
    onnx_file.write(cell, tmp_path / "file.onnx")
    graph = onnx.load(tmp_path / "file.onnx").graph
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    made_by = {node.output[0]: node for node in graph.node}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 7
    for node in layers:
        assert node.input[2] in floats or made_by[node.input[2]].op_type == "Constant"
        assert made_by[node.input[0]].op_type == "DequantizeLinear"


@pytest.mark.parametrize("precision", ["int8", "w8a8"])
def test_onnx_runtime_runs_integer_kernels(precision, results, tmp_path):
    cell = open_cell(results, tiny("int8")) if precision == "int8" else small_cell(Plain, precision)
    onnx_file.write(cell, tmp_path / "file.onnx")
    profile = profile_of(tmp_path / "file.onnx", cell.test.images[:1].float().div(255).numpy(), 1)
    # w8a8: of Plain's layers only the first is followed by a quantiser that ONNX Runtime can move to it
    assert (profile["integer"], profile["layers"]) == ((7, 7) if precision == "int8" else (1, 3))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_load_torch_gives_the_evaluated_network(results, tmp_path, precision):
    cell = open_cell(results, tiny(precision))
    torch_file.write(cell, tmp_path / "file.safetensors")
    images = cell.test.images[:32].float() / 255
    with torch.no_grad():
        network = load_torch(tmp_path / "file.safetensors")
        assert torch.equal(network(images), qprune.load_network(results, tiny(precision))(images))


def test_load_torch_refuses_other_files(results, tmp_path):
    with pytest.raises(UserError, match="no 'qprune.network' in its header"):
        load_torch(results / "networks" / f"{tiny('fp32')}.safetensors")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match="can't be read as safetensors"):
        load_torch(tmp_path / "file")
    with pytest.raises(UserError, match="can't be read as safetensors"):
        load_torch(tmp_path / "none")


def test_a_pt2_file_runs_without_qprune(results, tmp_path):
    from qprune.deploy import pt2_file

    for precision in ("fp32", "fp16"):
        cell = open_cell(results, tiny(precision))
        pt2_file.write(cell, tmp_path / f"{precision}.pt2")
        images = cell.test.images[:5].float() / 255
        with torch.no_grad():
            torch.save({"images": images, "logits": cell.network(images)}, tmp_path / f"{precision}.pt")
    script = """
        import sys, torch
        sys.modules["qprune"] = None
        for precision in ("fp32", "fp16"):
            saved = torch.load(f"{precision}.pt")
            found = torch.export.load(f"{precision}.pt2").module()(saved["images"])
            assert torch.equal(found, saved["logits"]), precision
    """
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_qonnx_of_small_networks(kind, bits, tmp_path):
    cell = small_cell(kind, bits)
    qonnx_file.write(cell, tmp_path / "file.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "file.onnx").graph.node]
    assert kinds.count("Quant") >= 2 * kinds.count("Conv")
    expected, found = (
        logits_of(run, cell.test) for run in (cell.network, qonnx_file.load(tmp_path / "file.onnx", cell))
    )
    assert (found - expected).abs().le(1e-4).float().mean() >= 0.99


# The rewritings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise])
def test_half_networks(kind):
    cell = small_cell(kind, "fp16")
    expected = logits_of(cell.network, cell.test)
    stored = stored_half(cell.network)
    assert torch.equal(logits_of(stored, cell.test), expected)
    native = native_half(cell.network)
    assert torch.allclose(logits_of(native, cell.test), expected, atol=0.02)
    for network in (stored, native):
        weights = [m.weight for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
        assert weights and {weight.dtype for weight in weights} == {torch.float16}
    assert native(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in cell.network.parameters())  # the original stays


def test_folding_keeps_the_network():
    """Also with a negative factor (integers change their signs) and with none (gamma 0)."""
    cell = small_cell(Depthwise, "w8a8")
    network = cell.network
    with torch.no_grad():
        network.bn0.weight[0], network.bn2.weight[1], network.bn1.weight[2] = -0.7, -1.3, 0.0
        for conv in (network.stem, network.depthwise):  # the lowest integer has no negative
            lowest = -127 * conv.weight_quant.tensor_quant.scale.abs()
            conv.weight.copy_(torch.maximum(conv.weight, lowest))
    folded = fold_batch_norms(network)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    expected, found = logits_of(network, cell.test), logits_of(folded, cell.test)
    assert (found - expected).abs().le(1e-4).float().mean() >= 0.95  # the rest: ties, one step of 255
    assert (found - expected).abs().max() < 0.02


def test_what_cannot_be_folded_stays():
    """The lowest integer has no negative at its width."""
    cell = small_cell(Plain, "w8a8")
    with torch.no_grad():
        scale = cell.network.conv1.weight_quant.tensor_quant.scale.abs()
        cell.network.conv1.weight[0] = -128 * scale[0]
        cell.network.bn1.weight[0] = -1.0
    folded = fold_batch_norms(cell.network)
    assert [name for name, m in folded.named_modules() if isinstance(m, torch.nn.BatchNorm2d)] == ["bn1"]
    assert (logits_of(folded, cell.test) - logits_of(cell.network, cell.test)).abs().max() < 1e-2


def test_unverified_name(tmp_path):
    assert unverified(tmp_path / "a.onnx") == tmp_path / "a.onnx.unverified"


# Latency ------------------------------------------------------------------------------------------------------------


def test_bench_of_a_pruned_int8_cell(results, capsys):
    """Each cell in the runtimes whose time means something, against dense FP32 in the same runtime and run."""
    from qprune.deploy import read_latency
    from qprune.deploy.commands import bench_command
    from qprune.deploy.latency import COLUMNS, read_table

    cells = [tiny("int8"), tiny("int4"), tiny("fp32")]
    assert read_latency(results).empty
    assert bench_command(results, cells, (1, 4), threads=1, rounds=3) == 0
    printed = capsys.readouterr().out
    assert "w4a4 emulated in FP32 by PyTorch, so not timed there" in printed and "latency.csv" in printed
    table = read_table(results / "latency.csv")
    assert tuple(table.columns) == COLUMNS and len(table) == 2 * (2 + 1 + 2)
    timed = {(row.cell, row.runtime, row.arithmetic) for row in table.itertuples()}
    assert timed == {
        (tiny("int8"), "torch", "integer"),
        (tiny("int8"), "onnxruntime", "integer in 7 of 7 layers"),
        (tiny("int4"), "onnxruntime", "integer weights, FP32 products"),
        (tiny("fp32"), "torch", "FP32"),
        (tiny("fp32"), "onnxruntime", "FP32"),
    }
    assert (table.latency_ms_q1 <= table.latency_ms).all() and (table.latency_ms <= table.latency_ms_q3).all()
    assert (table.latency_ms > 0).all() and (table.speedup > 0).all() and set(table.threads) == {1}
    assert ((table.images_per_second * table.latency_ms / 1e3 - table.batch).abs() < 1e-3 * table.batch).all()

    bench_command(results, [tiny("int4")], (1,), threads=1, rounds=3)
    again = read_table(results / "latency.csv")
    assert len(again) == len(table)  # measured again, in place of the older row
    key = (again.cell == tiny("int4")) & (again.batch == 1)
    latency = read_latency(results)
    assert sorted(latency.index) == sorted(cells)
    assert latency.latency_ms[tiny("int4")] == again.latency_ms[key].item()
    on_runtime = (again.cell == tiny("int8")) & (again.batch == 1) & (again.runtime == "onnxruntime")
    assert latency.speedup[tiny("int8")] == again.speedup[on_runtime].item()


def test_bench_without_onnx_runtime_times_nothing_that_is_emulated(results, monkeypatch, capsys):
    from qprune.deploy.commands import bench_command

    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="nothing to time"):
        bench_command(results, [tiny("int4")], (1,), rounds=1)
    assert not (results / "latency.csv").exists()
    assert bench_command(results, [tiny("int4"), tiny("fp32")], (1,), rounds=1) == 0
    assert f"not timed: {tiny('int4')}: w4a4 is emulated" in capsys.readouterr().out
    assert tiny("int4") not in (results / "latency.csv").read_text()


def test_interleaved_times_are_those_of_one_call(monkeypatch):
    """By a clock that only the actions move."""
    from qprune.deploy import kit_bench as latency

    clock, calls = [0.0], []

    def action(name: str, seconds: float):
        def act() -> None:
            calls.append(name)
            clock[0] += seconds

        return act

    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    seconds = latency.interleaved({"slow": action("slow", 0.25), "quick": action("quick", 2**-8)}, 2)
    assert seconds == {"slow": [0.25, 0.25], "quick": [2**-8, 2**-8]}
    repeats = round(latency.SAMPLE_SECONDS * 2**8)
    assert repeats > 1  # a quick action is called until the clock shows something
    assert calls == ["slow"] * 2 + ["quick"] * 2 + (["slow"] + ["quick"] * repeats) * 2


def test_the_front_is_the_default(results, monkeypatch):
    from qprune.analysis.front import front_cells
    from qprune.deploy import latency
    from qprune.deploy.commands import bench_command
    from qprune.storage.results import read_cells

    timed = []
    monkeypatch.setattr(latency, "measure", lambda cells, *_: timed.extend(cell.name for cell in cells) or [])
    bench_command(results)
    cells = read_cells(results)
    fronts = [front_cells(cells[cells.precision == precision]) for precision in cells.precision.unique()]
    assert set(timed) == set().union(*fronts) and len({cell.split("-")[3] for cell in timed}) == 4
    for file in (results / "networks").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="has no network of a cell on its front"):
        bench_command(results)


@pytest.mark.parametrize("text", ["0", "1,", "x", "1.5", "-1", ""])
def test_bad_batch_sizes(text):
    from qprune.deploy.commands import batch_sizes

    with pytest.raises(UserError, match="--batch"):
        batch_sizes(text)
    assert batch_sizes("1, 32,1") == (1, 32)
