"""Uniformly narrower networks from scratch: which there are, what they are trained for, and what they cost."""

import pytest
from tiny_sweep import F, N, P, Q, run_inline, tiny_config

from qprune.cost import count_cost
from qprune.deploy.cells import open_cell
from qprune.deploy.latency import dense_of
from qprune.methods.narrower import WIDTHS
from qprune.networks import build_model
from qprune.networks.graph import with_normalize
from qprune.registry.errors import UserError
from qprune.storage.store import Store
from qprune.sweep.forecast import forecast_costs, measure
from qprune.sweep.plan import make_plan

OWN = """\
from torch import nn

def flat(in_channels, num_classes, image_size):
    convolution = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
    layers = convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * image_size**2, num_classes)
    return nn.Sequential(*layers)
"""


@pytest.fixture
def plan(tmp_path):
    return make_plan(tiny_config(tmp_path, "seeds=0", "order=[scratch,narrower]", "prune.criterion=[taylor,random]"))


def test_every_width_at_every_precision_once_whatever_the_criteria(plan):
    scratch, *cells = plan.cells
    assert scratch.method == "scratch" and scratch.width is None
    places = [(width, precision) for width in WIDTHS for precision in ("fp32", "fp16", "int8", "int4")]
    places.remove((1.0, "fp32"))  # which scratch is
    assert [(cell.width, cell.precision) for cell in cells] == places
    assert cells[-1].id == "vgg_tiny-digits-narrower.width_0.15-int4-r0.00-s0"
    assert cells[-1].variant == "narrower.width_0.15" and cells[-1].criterion == "none"


def test_it_is_dense_training_of_a_narrower_model_then_quantisation(plan):
    for cell in plan.cells[1:]:
        dense, quantize, evaluate = (plan.stages[name] for name in cell.stages.values())
        assert (dense.kind, quantize.kind, evaluate.kind) == ("dense", "quantize", "evaluate")
        assert dense.model.settings["width"] == 0.5 * cell.width  # the sweep's model has 0.5
        assert plan.updates_by_phase(cell) == {"dense": N + P + F, "quantize": Q}


def test_the_forecast_has_the_cost_of_the_narrow_network(plan, tmp_path):
    costs = forecast_costs(plan, Store(tmp_path), measure(plan))
    for cell in plan.cells[1:]:
        if cell.precision == "fp32":
            model = build_model({"name": "vgg_tiny", "width": 0.5 * cell.width}, 1, 10, 8)
            cost = count_cost(with_normalize(model, (0.5,), (0.5,)), (1, 8, 8))
            assert costs[cell.id] == pytest.approx(cost.bit_gflops)


def test_a_model_without_widths_is_refused_where_it_stands(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="--set model=own_networks:flat: method narrower needs a model with an option `width`"
    ):
        make_plan(tiny_config(tmp_path, "order=narrower", "model=own_networks:flat"))


def test_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "weights.pt").touch()
    with pytest.raises(UserError, match=r"order\[1\]: with a checkpoint, the network can't be trained from scratch"):
        tiny_config(tmp_path, "order=[prune_first,narrower]", f"train.checkpoint={tmp_path / 'weights.pt'}")


def test_a_width_that_is_no_number_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_words.py").write_text(OWN.replace("image_size):", "image_size, width):"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="narrower can't take a share of the width 'wide'"):
        make_plan(tiny_config(tmp_path, "order=narrower", "model={name: own_words:flat, width: wide}"))


def test_its_latency_is_held_against_the_sweeps_own_network(tmp_path, monkeypatch):
    monkeypatch.setattr("qprune.methods.narrower.WIDTHS", (0.5,))
    config = tiny_config(tmp_path, "seeds=0", "order=narrower", "precisions=fp32", "prune.ratios=0")
    assert run_inline(config, tmp_path / "results")[0] == 0
    (cell,) = make_plan(config).cells
    opened = open_cell(tmp_path / "results/tiny", cell.id)
    assert opened.spec.model["width"] == 0.25 and dense_of(opened).spec.model["width"] == 0.5
