"""Narrower networks from random weights: which there are, in what shape, for how long, and what they cost."""

import pytest
import torch
from tiny_sweep import F, N, P, Q, run_inline, tiny_config
from torch import nn

from qprune.cost import count_cost
from qprune.deploy.cells import open_cell
from qprune.deploy.latency import dense_of
from qprune.networks import build_model
from qprune.networks.graph import with_normalize
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.uniform import uniform_alive
from qprune.stages.narrow import narrowed
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep.forecast import forecast_costs, measure
from qprune.sweep.plan import make_plan

GRID = ("seeds=0", "prune.ratios=[0,0.25,0.5]", "precisions=[fp32,int4]")
BOTH = (*GRID, "baselines=[narrower,same_shape]", "baseline_budget=[updates,flops]", "prune.criterion=[taylor,random]")


def cells_of(plan, variant):
    return [cell for cell in plan.cells if cell.variant == variant]


def test_each_ratio_above_0_at_each_precision_once_whatever_the_criteria(tmp_path):
    plan = make_plan(tiny_config(tmp_path, *BOTH))
    places = [("fp32", 0.25), ("fp32", 0.5), ("int4", 0.25), ("int4", 0.5)]
    for variant in ("narrower", "narrower.flops"):
        cells = cells_of(plan, variant)
        assert [(cell.precision, cell.ratio) for cell in cells] == places
        assert {cell.criterion for cell in cells} == {"none"} and {cell.method for cell in cells} == {"narrower"}
    assert cells_of(plan, "narrower")[-1].id == "vgg_tiny-digits-narrower-int4-r0.50-s0"
    for variant in ("same_shape", "same_shape.flops"):
        shapes = [(cell.criterion, cell.precision, cell.ratio) for cell in cells_of(plan, variant)]
        assert shapes == [(criterion, *place) for criterion in ("taylor", "random") for place in places]


def test_equal_updates_are_equal_and_equal_flops_are_reckoned(tmp_path):
    plan = make_plan(tiny_config(tmp_path, *BOTH))
    for cell in (*cells_of(plan, "narrower"), *cells_of(plan, "same_shape")):
        narrow, quantize, _ = (plan.stages[name] for name in cell.stages.values())
        assert (narrow.kind, narrow.budget, quantize.budget) == ("narrow", N + P + F, Q)
    half = next(cell for cell in cells_of(plan, "narrower.flops") if cell.ratio == 0.5)
    facts = plan.facts["vgg_tiny", "digits"]
    ratio = facts.dense_macs / facts.narrow_macs("maps", 0.5, 1, 1)
    wanted = round((N + P) * ratio) + F + Q  # until half of the maps are gone, the network is as wide as it was
    assert plan.total_updates(half) == min(wanted, 4 * (N + P + F + Q)) and half.cap is None
    tiny = make_plan(tiny_config(tmp_path, *BOTH, "prune.ratios=[0,0.9]"))
    capped = cells_of(tiny, "narrower.flops")[0]
    budget = tiny.total_updates(cells_of(tiny, "narrower")[0])
    assert tiny.total_updates(capped) == 4 * budget and capped.cap == 4


@pytest.mark.parametrize(("ratio", "least", "multiple"), [(0.5, 1, 1), (0.3, 1, 1), (0.55, 1, 4), (0.0, 1, 4)])
def test_every_layer_lacks_the_same_share(ratio, least, multiple):
    network = with_normalize(build_model({"name": "vgg_tiny"}, 1, 10, 8), (0.5,), (0.5,))
    groups = GatedNetwork(network, (1, 8, 8)).groups
    alive = uniform_alive(groups, ratio, least, multiple)
    for layer in groups.layers:
        size, kept = layer.stop - layer.start, int(alive[layer.start : layer.stop].sum())
        assert abs(kept - max((1 - ratio) * size, least, multiple)) < multiple + 1e-9
        assert kept >= least and kept % multiple == 0
    if least == multiple == 1:
        assert int(alive.sum()) == round((1 - ratio) * groups.total)


def test_weights_of_a_narrower_layer_are_as_large_as_its_own_width_asks_for():
    """A sum over n inputs with weights of variance 2 / n has the same variance whatever n is."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3), nn.ReLU()
    chain = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256 * 16, 5))
    for layer in chain:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    gated = GatedNetwork(with_normalize(chain, (0.5,) * 3, (0.5,) * 3), (3, 8, 8))
    gated.mask(uniform_alive(gated.groups, 0.75))
    layers = [layer for layer in narrowed(gated).modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert [layer.weight.shape[:2] for layer in layers] == [(64, 3), (64, 64), (5, 64 * 16)]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.03)


def test_it_runs_whatever_the_model_and_its_row_says_what_it_had(tmp_path):
    """Shapes, costs, training FLOPs and latency's reference; same_shape has the widths that pruning left."""
    config = tiny_config(tmp_path, *BOTH, "prune.criterion=taylor", "prune.ratios=[0,0.5]")
    plan = make_plan(config)
    costs = forecast_costs(plan, Store(tmp_path), measure(plan))
    assert run_inline(config, tmp_path / "results", report=True)[0] == 0
    cells = read_cells(tmp_path / "results/tiny").set_index("cell")
    assert set(cells.status) == {"done"}
    network = {cell: open_cell(tmp_path / "results/tiny", cell).spec.widths for cell in cells.index}
    name = "vgg_tiny-digits-{}-r0.50-s0"
    narrow, shaped, pruned = (name.format(how) for how in ("narrower-fp32", "taylor-same_shape-fp32", "taylor-fp32"))
    assert network[shaped] == network[pruned] != network[narrow]
    assert cells.macs[shaped] == cells.macs[pruned]
    assert [out for _, out in network[narrow].values()][:6] == [4, 4, 4, 4, 8, 8]  # conv, bn: half of 8, 8, 16 ...
    assert costs[narrow] == pytest.approx(cells.bit_gflops[narrow])  # known before it runs
    assert cells.achieved_ratio[narrow] == 0.5
    batch, dense = 32, cells.macs[name.format("taylor-fp32").replace("0.50", "0.00")]
    assert cells.training_flops[narrow] == 6 * batch * cells.macs[narrow] * (N + P + F + Q)
    assert cells.training_flops[pruned] == 6 * batch * (dense * (N + P) + cells.macs[pruned] * (F + Q))
    longer = name.format("narrower.flops-fp32")
    expected = 6 * batch * (dense * (N + P) + cells.macs[narrow] * (F + Q))
    assert cells.training_flops[longer] == pytest.approx(expected, rel=0.01)
    opened = open_cell(tmp_path / "results/tiny", narrow)
    reference = dense_of(opened).spec
    assert count_cost(reference.build(), reference.image_shape).macs == dense


def test_a_checkpoint_is_nothing_that_a_narrower_network_has(tmp_path):
    (tmp_path / "weights.pt").touch()
    start = f"train={{checkpoint: {tmp_path / 'weights.pt'}, batch_size: 32}}"
    phases = ("budget={updates: 100}", "finetune={}", "quantize={}", "prune={ratios: [0, 0.5]}")
    plan = make_plan(tiny_config(tmp_path, *GRID, start, *phases, "protocol=restart"))
    assert {plan.total_updates(cell) for cell in plan.cells} == {100}  # what it has had is outside
    assert {plan.updates_by_phase(cell)["dense"] for cell in cells_of(plan, "narrower")} == {92}
    assert {plan.updates_by_phase(cell)["dense"] for cell in cells_of(plan, "prune_first")} == {0}
