"""Widths chosen per layer: the knapsack against brute force, the budget by count_cost, and what is stored of it."""

import itertools
import json

import numpy as np
import pytest
import torch
from networks import Depthwise, Plain, Residual, small
from stops import CPU, LONG, Killed, copy_of, killed_at
from tiny_sweep import MAPS, F, N, P, Q, run_inline, tiny_config
from torch import nn

import qprune
from qprune.cost import count_cost
from qprune.data import load_data
from qprune.deploy.cells import load_network, open_cell
from qprune.deploy.export import export_cell
from qprune.deploy.formats import FORMATS, check_pair
from qprune.networks.graph import with_normalize
from qprune.precision import WIDTHS, get_precision, mixed
from qprune.precision.brevitas_qat import place
from qprune.precision.mixed import knapsack, tied_layers
from qprune.registry.errors import UserError
from qprune.stages import partial
from qprune.stages.saved import NetworkSpec
from qprune.stages.work import compute
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan
from qprune.training import evaluate

KINDS = (Plain, Residual, Depthwise)
GREY = (1, 8, 8)


# The knapsack -------------------------------------------------------------------------------------------------------


def brute_force(losses, costs, budget):
    """The least sum of losses within the budget, over all choices."""
    rows = range(len(losses))
    return min(
        sum(losses[row, column] for row, column in zip(rows, choice, strict=True))
        for choice in itertools.product(range(losses.shape[1]), repeat=len(losses))
        if sum(costs[row, column] for row, column in zip(rows, choice, strict=True)) <= budget
    )


@pytest.mark.parametrize("seed", range(12))
def test_knapsack_against_brute_force(seed):
    draws = np.random.default_rng(seed)
    rows, columns = draws.integers(1, 6), draws.integers(2, 6)
    macs = draws.integers(10, 10**6, (rows, 1)).astype(float)
    costs = macs * np.arange(2, 2 + columns) ** 2
    losses = np.sort(draws.random((rows, columns)) ** 3, 1)[:, ::-1] if seed % 2 else draws.random((rows, columns))
    budget = costs[:, columns // 2].sum()  # exactly that of a uniform choice, as in use
    chosen = knapsack(losses, costs, budget)
    spent = sum(costs[row, column] for row, column in enumerate(chosen))
    found = sum(losses[row, column] for row, column in enumerate(chosen))
    assert spent <= budget and found == pytest.approx(brute_force(losses, costs, budget), abs=1e-9)


def test_a_choice_that_costs_a_millionth_too_much_is_not_taken():
    """The solver's own tolerance would let it pass."""
    costs = np.array([[1.0, 1e7 + 1.0], [1.0, 2.0]])
    losses = np.array([[5.0, 0.0], [1.0, 0.5]])
    assert knapsack(losses, costs, 1e7 + 1.0) == [0, 1]
    assert knapsack(losses, costs, 1e7 + 2.0) == [1, 0]
    assert knapsack(losses, costs, 1e7 + 3.0) == [1, 1]
    with pytest.raises(ValueError, match="cheapest"):
        knapsack(losses, costs, 1.5)


# Widths of a network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_last", [8, None])
def test_cost_is_at_most_that_of_the_uniform_network(kind, first_last):
    network, images, _ = small(kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for bits in (3, 4):
        precision = get_precision(f"mixed{bits}", first_last).choose(network, images)
        cost = count_cost(precision.prepare(network, images), GREY)
        uniform = get_precision(f"w{bits}a{bits}", first_last).prepare(network, images)
        assert cost.bops <= count_cost(uniform, GREY).bops
        widths = {layer.name: (layer.w_bits, layer.a_bits) for layer in cost.layers}
        assert widths == {name: (each, each) for name, each in precision.layer_bits.items()}
        ends = [cost.layers[0].w_bits, cost.layers[-1].w_bits]
        assert ends == [8, 8] if first_last else all(each in WIDTHS for each in ends)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", ["mixed2.5", "mixed3.5"])
def test_chosen_widths_against_brute_force(kind, budget):
    """Every assignment of 2 to 4 bits to the layers between, its cost by count_cost and its sensitivities one by one."""
    network, images, _ = small(kind)
    names = [layer.name for layer in count_cost(network, GREY).layers][1:-1]
    precision = get_precision(budget).choose(network, images)
    with torch.no_grad():
        reference = network.eval()(images).double().log_softmax(1)

        def sensitivity(name, bits):
            found = place(network, images, {name: (bits, bits)}).eval()(images).double().log_softmax(1)
            return (reference.exp() * (reference - found)).sum(1).mean().item()

    table = {(name, bits): sensitivity(name, bits) for name in names for bits in WIDTHS}
    macs = {layer.name: layer.macs for layer in count_cost(network, GREY).layers}
    allowed = sum(macs[name] for name in names) * float(budget.removeprefix("mixed")) ** 2
    best = min(
        sum(table[pair] for pair in zip(names, choice, strict=True))
        for choice in itertools.product(WIDTHS, repeat=len(names))
        if sum(macs[name] * bits**2 for name, bits in zip(names, choice, strict=True)) <= allowed
    )
    found = sum(table[name, precision.layer_bits[name]] for name in names)
    assert found == pytest.approx(best, rel=1e-6)


class Fork(nn.Module):
    """Two convolutions read the images, two one inner tensor; the last of these runs again on its own output."""

    def __init__(self):
        super().__init__()
        self.first, self.beside = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 1)
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.alone, self.fc = nn.Conv2d(4, 2, 1), nn.Linear(11 * 64, 5)

    def forward(self, x):
        shared = torch.relu(self.first(x) + self.beside(x))
        right = torch.relu(self.right(shared))
        left, again = torch.relu(self.left(shared)), self.right(right)
        alone = torch.relu(self.alone(left))
        joined = torch.cat([left, again, alone, alone], 1)
        return self.fc(torch.flatten(joined, 1))


@pytest.mark.parametrize("first_last", [8, None])
def test_layers_that_read_one_tensor_share_a_width(first_last):
    torch.manual_seed(0)
    network, images = with_normalize(Fork(), (0.5,), (0.25,)).eval(), torch.rand(16, 1, 8, 8)
    groups = {frozenset(node.target for node in group) for group in tied_layers(network)}
    assert groups == {frozenset(names) for names in (("first", "beside"), ("left", "right"), ("alone",), ("fc",))}
    for bits in (3, 5):
        precision = get_precision(f"mixed{bits}", first_last).choose(network, images)
        chosen = precision.layer_bits
        assert chosen["left"] == chosen["right"] and (first_last is None or chosen["first"] == 8)
        uniform = get_precision(f"w{bits}a{bits}", first_last).prepare(network, images)
        assert count_cost(precision.prepare(network, images), GREY).bops <= count_cost(uniform, GREY).bops


def test_a_network_of_two_layers_has_nothing_to_choose():
    torch.manual_seed(0)
    network = with_normalize(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2)), (0.5,), (0.25,))
    precision = get_precision("mixed3").choose(network, torch.rand(8, *GREY))
    assert precision.layer_bits == {"1": 8, "3": 8}


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_has_widths_without_measuring(kind, monkeypatch):
    network, images, _ = small(kind)
    monkeypatch.setattr(mixed, "_divergence", None)
    trial = get_precision("mixed4", 8).choose_unmeasured(network)
    names = [node.target for group in tied_layers(network) for node in group]
    assert sorted(trial.layer_bits) == sorted(set(names)) and len(set(trial.layer_bits.values())) > 1
    trial.finish(trial.prepare(network, images))


def test_widths_come_first():
    network, images, _ = small(Plain)
    with pytest.raises(ValueError, match=r"choose\(\)"):
        get_precision("mixed4").prepare(network, images)
    plain = get_precision("w4a4")
    assert plain.choose(network, images) is plain and plain.layer_bits == {}


# In a sweep ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    config = tiny_config(folder, "seeds=0", "precisions=[w3a3,mixed3,mixed2.5]")
    code, _, text = run_inline(config, folder / "results", report=True)
    assert code == 0, text
    return folder / "results/tiny", config


def test_cells_cost_at_most_the_uniform_ones_and_have_the_same_updates(swept):
    folder, _ = swept
    cells = read_cells(folder)
    assert set(cells.status) == {"done"} and set(cells.total_updates) == {N + P + F + Q}
    table = cells.pivot(index="pruning_ratio", columns="precision", values="bit_gflops")
    assert (table["mixed3"] <= table["w3a3"]).all() and (table["mixed2.5"] < table["w3a3"]).all()
    assert set(cells.achieved_ratio) == {0, 56 / MAPS}


def test_load_network_gives_the_evaluated_accuracy(swept):
    folder, config = swept
    test = load_data({"name": "digits", "subset": 256}).test
    for cell in make_plan(config).cells:
        record = read_record(folder, cell.id)
        network = load_network(folder, cell.id)
        assert evaluate(network, test).accuracy == record["accuracy"]
        stored = record["network"]["layer_bits"]
        counted = {layer["name"]: (layer["w_bits"], layer["a_bits"]) for layer in record["cost"]["layers"]}
        if cell.precision == "w3a3":
            assert stored == {}
        else:
            assert counted == {name: (bits, bits) for name, bits in stored.items()}


def test_an_older_record_has_no_widths(swept):
    folder, config = swept
    values = read_record(folder, make_plan(config).cells[0].id)["network"]
    del values["layer_bits"]
    assert NetworkSpec.from_json(json.loads(json.dumps(values)), (), "").layer_bits == {}


@pytest.mark.parametrize("form", ["torch", "onnx", "qonnx"])
def test_exported_files_give_what_was_evaluated(swept, form, tmp_path):
    if form != "torch":
        pytest.importorskip("onnxoptimizer")
        pytest.importorskip("onnxruntime")
    folder, config = swept
    name = next(cell.id for cell in make_plan(config).cells if (cell.precision, cell.ratio) == ("mixed3", 0.5))
    check_pair(FORMATS.get(form), "mixed3", name)
    parity = export_cell(open_cell(folder, name), FORMATS.get(form), tmp_path / "file").parity
    assert parity.holds and parity.evaluated_accuracy == read_record(folder, name)["accuracy"]


def test_pt2_is_refused_with_the_formats_that_work():
    with pytest.raises(
        UserError, match="mixed3, which pt2 can't hold.*--format onnx or --format qonnx or --format torch"
    ):
        check_pair(FORMATS.get("pt2"), "mixed3", "cell")


def test_the_forecast_leaves_open_what_is_not_chosen_yet(tmp_path):
    from qprune.sweep import forecast

    config = tiny_config(tmp_path, "seeds=0", "precisions=[fp32,mixed3]", "prune.ratios=0")
    plan = make_plan(config)
    measured = forecast.measure(plan)
    costs = forecast.forecast_costs(plan, Store(tmp_path / "stages"), measured)
    assert [costs[cell.id] is None for cell in plan.cells] == [False, True]
    (timing,) = measured.values()
    assert timing.precision_update["mixed3"] > 0 and timing.precision_start["mixed3"] > 0


def test_quantize_first_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"precisions\[1\]: quantize_first prunes what has its widths already"):
        tiny_config(tmp_path, "precisions=[fp32,mixed4]", "order=[prune_first,quantize_first]")


def test_with_ptq_the_widths_are_those_of_the_trained_network(tmp_path):
    config = tiny_config(tmp_path, "seeds=0", "precisions=mixed4", "prune.ratios=0", "quantize.method=ptq")
    code, _, text = run_inline(config, tmp_path / "results")
    assert code == 0, text
    record = read_record(tmp_path / "results/tiny", make_plan(config).cells[0].id)
    assert len(record["network"]["layer_bits"]) == len(record["cost"]["layers"])


def test_a_killed_stage_keeps_the_widths_that_it_was_trained_with(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "SAVING_SHARE", float("inf"))
    model = "model={name: vgg_tiny, width: 0.5}"
    plan = make_plan(tiny_config(tmp_path, *LONG, model, "precisions=mixed3", "prune.ratios=0"))
    stages = [plan.stages[name] for name in plan.cells[0].stages.values()]
    stage = next(stage for stage in stages if stage.kind == "quantize")
    original = Store(tmp_path / "whole")
    for each in stages[: stages.index(stage) + 1]:
        compute(each, original, CPU)
    store = copy_of(original, stage.inputs, tmp_path / "stages")
    with pytest.raises(Killed):
        compute(stage, store, CPU, killed_at(11))
    monkeypatch.setattr(mixed, "choose", lambda *_, **__: pytest.fail("widths were chosen twice"))
    compute(stage, store, CPU)
    left, right = store.tensors(stage.id), original.tensors(stage.id)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert store.meta(stage.id)["network"] == original.meta(stage.id)["network"]


# In a notebook ------------------------------------------------------------------------------------------------------


def test_quantize_a_model_of_ones_own():
    network, images, labels = small(Residual)
    options = {"updates": 4, "batch_size": 8}
    found = qprune.quantize(network, images, labels, "mixed3", **options)
    uniform = qprune.quantize(network, images, labels, "w3a3", **options)
    assert qprune.count_cost(found, GREY).bit_gflops <= qprune.count_cost(uniform, GREY).bit_gflops
