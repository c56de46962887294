"""The quickstart sweep with w8a8 beside it, at some of its ratios, with one seed: what it promises."""

from pathlib import Path

import pytest
import torch
from tiny_sweep import run_inline
from torch.ao.nn.quantized.modules.conv import _ConvNd as IntegerConv

from qprune.data import load_data
from qprune.deploy.cells import load_network
from qprune.settings.config import load_config
from qprune.stages.saved import NetworkSpec
from qprune.storage.results import read_cells
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

pytestmark = pytest.mark.slow
QUICKSTART = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    config = load_config(
        QUICKSTART,
        ["precisions=[fp32, fp16, int8, int4, w8a8]", "prune.ratios=[0.0, 0.5]", "seeds=[0]", "baselines=[]"],
    )
    code, _, text = run_inline(config, out)
    assert code == 0, text
    return out, config, read_cells(out / "quickstart")


def test_the_whole_grid_is_done_and_fair(quickstart):
    _, _, cells = quickstart
    assert len(cells) == 5 * 2 and (cells.status == "done").all()
    assert cells.total_updates.nunique() == 1
    dense = cells[(cells.precision == "fp32") & (cells.pruning_ratio == 0)]
    assert (dense.bit_gflops == dense.gflops).all()
    assert (cells.bit_gflops * 512 - cells.gbops).abs().max() <= 1e-12 * cells.gbops.max()
    assert (dense.accuracy >= 0.97).all()
    int4 = cells[(cells.precision == "int4") & (cells.pruning_ratio == 0)]
    assert dense.accuracy.mean() - int4.accuracy.mean() <= 0.02


def test_int8_and_w8a8_agree(quickstart, capsys):
    _, _, cells = quickstart
    wide = cells[cells.pruning_ratio <= 0.75].pivot(
        index=["pruning_ratio", "seed"], columns="precision", values="accuracy"
    )
    difference = (wide.int8 - wide.w8a8).groupby("pruning_ratio").mean()
    with capsys.disabled():
        print("\nmean accuracy of int8 minus w8a8, paired by seed:", difference.round(4).to_dict())
    assert difference.abs().max() <= 0.01


def test_the_evaluated_int8_network_is_the_converted_one(quickstart):
    out, config, cells = quickstart
    plan, store = make_plan(config), Store(out / "stages")
    images = load_data({"name": "digits"}).test.images.float() / 255
    for cell in plan.cells:
        if cell.precision != "int8" or cell.ratio > 0.75:
            continue
        converted = load_network(out / "quickstart", cell.id)
        convolutions = [module for module in converted.modules() if isinstance(module, IntegerConv)]
        assert len(convolutions) == 6 and all(conv.weight().dtype is torch.qint8 for conv in convolutions)
        stage = cell.stages["quantize"]
        trained = NetworkSpec.from_json(store.meta(stage)["network"], (), "").load_trained(store.tensors(stage)).eval()
        with torch.no_grad():
            agreement = (trained(images).argmax(1) == converted(images).argmax(1)).double().mean().item()
        assert agreement >= 0.99, cell.id
