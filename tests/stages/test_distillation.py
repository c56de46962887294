"""Knowledge distillation in the updates at a cell's precision: the loss, who learns, and what it enters."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from small_training import classes, small_network
from stops import CPU, LONG, Killed, copy_of, killed_at
from tiny_sweep import F, N, P, Q, run_inline, tiny_config
from torch import nn

import qprune
from qprune.data import Split, load_data
from qprune.deploy.cells import load_network
from qprune.recipe import Recipe, constant, cosine, seed_of
from qprune.registry.identity import plain as as_json
from qprune.stages import partial
from qprune.stages.saved import NetworkSpec
from qprune.stages.work import compute, recipe_of
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep import forecast
from qprune.sweep.plan import make_plan
from qprune.training import distillation_loss, evaluate, make_optimizer, minibatch, train

DISTILL = "quantize.distill=true"


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def by_hand(student, teacher, label, temperature=4.0, share=0.9):
    """One image's loss, from lists of logits."""
    ours, theirs = (softmax([value / temperature for value in values]) for values in (student, teacher))
    divergence = sum(p * math.log(p / q) for p, q in zip(theirs, ours, strict=True))
    return -(1 - share) * math.log(softmax(student)[label]) + share * temperature**2 * divergence


def test_loss_by_hand():
    student, teacher, labels = [[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], [[5.0, 1.0, -4.0], [0.5, 0.5, 2.0]], [0, 2]
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels))
    expected = sum(by_hand(*row) for row in zip(student, teacher, labels, strict=True)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_of_equal_logits_a_tenth_of_the_cross_entropy_is_left():
    logits, labels = torch.randn(5, 7), torch.arange(5)
    found = distillation_loss(logits, logits.clone(), labels)
    assert found.item() == pytest.approx(0.1 * nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_only_the_student_learns_from_the_teacher_in_eval_mode():
    """Against the loop written out; the teacher has dropout and BN, which would show in train mode."""
    split, recipe = classes(), Recipe(batch_size=16, augment=("shift",))
    teacher = train_teacher(split, recipe)
    before = copy.deepcopy(teacher.state_dict())
    student, slow = small_network(), small_network()
    train(student, split, recipe, range(5), cosine(0.1, 5), 2, teacher=teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters()) and not teacher.training
    optimizer = make_optimizer(slow, recipe, 0.1)
    for update in range(5):
        images, labels = minibatch(split, recipe, 2, update)
        torch.manual_seed(seed_of(2, "dropout", update))
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = cosine(0.1, 5)(update)
        optimizer.zero_grad()
        distillation_loss(slow(images), teacher(images).detach(), labels).backward()
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), slow.state_dict().values(), strict=True)
    )
    plain = small_network()
    train(plain, split, recipe, range(5), cosine(0.1, 5), 2)
    assert not torch.equal(plain[0].weight, student[0].weight)


def train_teacher(split, recipe):
    teacher = small_network()
    train(teacher, split, recipe, range(20), constant(0.05), 4)
    for parameter in teacher.parameters():
        parameter.grad = None
    return teacher


def test_against_wrong_labels_the_teacher_is_believed():
    split, recipe = classes(), Recipe(batch_size=16)
    teacher = train_teacher(split, recipe).eval()
    images = split.images.float() / 255
    wrong = Split(split.images, (teacher(images).argmax(1) + 1) % 4)
    agreeing = []
    for chosen in (None, teacher):
        torch.manual_seed(9)
        student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        train(student, wrong, recipe, range(200), cosine(0.05, 200), 1, teacher=chosen)
        agreeing.append((student(images).argmax(1) == teacher(images).argmax(1)).double().mean().item())
    assert agreeing[0] < 0.2 and agreeing[1] > 0.8


# In a sweep ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(folder, plan without, plan with, stages that the second computed): one after the other, in one results folder."""
    folder = tmp_path_factory.mktemp("distilled")
    overrides = ("seeds=0", "precisions=[fp32,int4]", "order=[prune_first,quantize_first]")
    configs = [tiny_config(folder, *overrides), tiny_config(folder, *overrides, "name=taught", DISTILL)]
    for config in configs:
        code, computed, text = run_inline(config, folder / "results")
        assert code == 0, text
    return folder, *map(make_plan, configs), computed


def test_where_it_is_off_nothing_knows_of_it(both):
    _, plain, taught, _ = both
    assert "distill" not in json.dumps([as_json(stage) for stage in plain.stages.values()])
    written = make_plan(type(plain.config).model_validate(plain.config.model_dump(mode="json")))
    assert list(written.stages) == list(plain.stages)
    for cell, other in zip(plain.cells, taught.cells, strict=True):
        same = {kind for kind in cell.stages if cell.stages[kind] == other.stages[kind]}
        until = {"dense", "prune", "finetune"} if cell.method == "prune_first" else {"dense"}
        assert same == until & set(cell.stages)
        if cell.method == "prune_first":
            assert len(plain.stages[cell.stages["quantize"]].inputs) == 1


def test_every_precision_and_the_baseline_are_taught_by_the_dense_network(both):
    folder, _, plan, computed = both
    store = Store(folder / "results/stages")
    quantizing = [stage for stage in plan.stages.values() if stage.kind in ("quantize", "quantize_dense")]
    assert {stage.makes for stage in quantizing} == {"fp32", "w4a4"} and len(quantizing) == 6
    for stage in quantizing:
        assert as_json(stage)["distill"] == {"temperature": 4.0, "share": 0.9}
        dense = plan.stages[stage.teacher]
        assert dense.id in stage.inputs and dense.kind == "dense" and dense.seed == stage.seed
        assert [phase.teacher for phase in stage.phases] == [True]
        assert store.meta(stage.id)["inputs"][dense.id] == store.meta(dense.id)["tensors_sha256"]
    assert {name.split("-")[0] for name in computed} >= {"quantize", "quantize_dense", "evaluate"}
    assert not {name.split("-")[0] for name in computed} & {"dense"}
    baseline = plan.stages[plan.stages[plan.cells[0].baseline].inputs[0]]
    assert baseline.distill is not None


def test_cells_have_the_same_updates_and_other_weights(both):
    folder, plain, taught, _ = both
    store = Store(folder / "results/stages")
    without, cells = (read_cells(folder / "results" / name) for name in ("tiny", "taught"))
    assert set(cells.status) == {"done"} and set(cells.total_updates) == {N + P + F + Q}
    assert set(without.distill) == {False} and set(cells.distill) == {True}
    for cell, other in zip(plain.cells, taught.cells, strict=True):
        before, after = store.tensors(cell.network), store.tensors(other.network)
        if cell.method == "prune_first":  # the same recovered network at the start, and the same images
            assert before.keys() == after.keys()
        assert store.meta(cell.network)["tensors_sha256"] != store.meta(other.network)["tensors_sha256"]
    cell = next(cell for cell in taught.cells if cell.precision == "int4" and cell.ratio)
    network, data = load_network(folder / "results/taught", cell.id), {"name": "digits", "subset": 256}
    found = evaluate(network, load_data(data).test).accuracy
    assert found == store.meta(cell.stages["evaluate"])["test"]["accuracy"]


def test_the_network_is_that_of_the_loop_with_the_dense_teacher(both):
    """A quantize stage of an FP32 cell, written out: the recovered network, Q updates, the dense one as teacher."""
    folder, _, plan, _ = both
    store = Store(folder / "results/stages")
    cell = next(c for c in plan.cells if (c.precision, c.ratio, c.method) == ("fp32", 0.5, "prune_first"))
    networks = [
        NetworkSpec.from_json(store.meta(name)["network"], (), "").load_fp32(store.tensors(name))
        for name in (cell.stages["finetune"], cell.stages["dense"])
    ]
    stage = plan.stages[cell.stages["quantize"]]
    data = load_data(stage.data.settings)
    recipe, split, rate = recipe_of(stage, data), data.train, cosine(stage.lr, Q)
    train(networks[0], split, recipe, range(Q), rate, seed_of(0, "quantize"), teacher=networks[1])
    for name, tensor in store.tensors(cell.network).items():
        assert torch.equal(networks[0].state_dict()[name], tensor), name


def test_with_ptq_the_fp32_updates_are_taught(tmp_path):
    config = tiny_config(tmp_path, "seeds=0", "precisions=[fp32,int4]", "quantize.method=ptq", DISTILL)
    code, _, text = run_inline(config, tmp_path / "results")
    assert code == 0, text
    plan, store = make_plan(config), Store(tmp_path / "results/stages")
    fp32, int4 = (store.tensors(c.network) for c in plan.cells if c.ratio)
    weights = [name for name in fp32 if name.endswith("weight") and name in int4]
    assert weights and all(torch.equal(fp32[name], int4[name]) for name in weights)
    assert all(s.distill for s in plan.stages.values() if s.kind == "quantize")


@pytest.mark.parametrize("kind", ["quantize", "quantize_dense"])
def test_a_killed_stage_goes_on_bit_for_bit(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(partial, "SAVING_SHARE", float("inf"))
    order = "order=quantize_first" if kind == "quantize_dense" else "order=prune_first"
    plan = make_plan(tiny_config(tmp_path, *LONG, "precisions=int4", order, "prune.ratios=0", DISTILL))
    stages = [plan.stages[name] for name in plan.cells[0].stages.values()]
    stage = next(stage for stage in stages if stage.kind == kind)
    original = Store(tmp_path / "whole")
    for each in stages[: stages.index(stage) + 1]:
        compute(each, original, CPU)
    store = copy_of(original, stage.inputs, tmp_path / "stages")
    for update in (11, stage.updates - 1):
        with pytest.raises(Killed):
            compute(stage, store, CPU, killed_at(update))
    assert store.load_partial(stage.id) is not None
    compute(stage, store, CPU)
    left, right = store.tensors(stage.id), original.tensors(stage.id)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert store.meta(stage.id)["curves"] == original.meta(stage.id)["curves"]


def test_the_forecast_counts_the_teachers_forward_passes(tmp_path):
    seconds = {}
    for taught in (False, True):
        overrides = ["seeds=0", "precisions=fp32", f"quantize.distill={str(taught).lower()}"]
        config = tiny_config(tmp_path, *overrides)
        plan = make_plan(config)
        measured = forecast.measure(plan)
        (key,) = measured
        timing = measured[key]
        assert (timing.teacher > 0) == taught
        assert timing.teacher == (32 * timing.image if taught else 0)
        fixed = dataclasses.replace(
            timing, update=1.0, pruned_update=1.0, scored_update=1.0, teacher=0.5 * taught, image=0.0,
            precision_update={"fp32": 1.0}, precision_start={"fp32": 0.0},
        )  # fmt: skip
        found = forecast.forecast_seconds(plan, plan.stages, {key: fixed})
        seconds[taught] = {name.split("-")[0]: value for name, value in found.items()}
    assert seconds[True]["quantize"] == pytest.approx(1.5 * Q) and seconds[False]["quantize"] == pytest.approx(Q)
    assert seconds[True]["finetune"] == seconds[False]["finetune"]


# In a notebook ------------------------------------------------------------------------------------------------------


def test_quantize_with_a_teacher():
    split = classes()
    model = train_teacher(split, Recipe(batch_size=16)).train()
    before = copy.deepcopy(model.state_dict())
    options = {"updates": 10, "lr": 0.02, "batch_size": 16}
    plain = qprune.quantize(model, split.images, split.labels, "w3a3", **options)
    taught = qprune.quantize(model, split.images, split.labels, "w3a3", teacher=model, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()) and model.training
    images = split.images.float() / 255
    assert not torch.equal(plain(images), taught(images))
