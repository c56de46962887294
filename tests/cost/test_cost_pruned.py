"""Counts after removal: by hand on qprune's own networks, by two other counters and by qonnx on the smaller ones."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from networks import batch, make, warm_up
from qonnx_cost import total_cost
from torch.utils.flop_counter import FlopCounterMode

from qprune.cost import count_cost
from qprune.pruning.gated import GatedNetwork

CONV, POOL = "conv", "pool"


def cut(network, shape, share=0.5, seed=0):
    """The network without that share of each layer's maps, and what each layer keeps, by the layer's name."""
    gated = GatedNetwork(network, shape)
    alive = torch.ones(gated.groups.total, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for number, layer in enumerate(gated.groups.layers):
        width = layer.stop - layer.start
        gone = int(share * width) - number % 3  # not the same share everywhere
        alive[layer.start + torch.randperm(width, generator=generator)[:gone]] = False
    gated.mask(alive)
    kept = {layer.name: int(alive[layer.start : layer.stop].sum()) for layer in gated.groups.layers}
    return gated.shrink().eval(), kept


def vgg_macs(layout, widths, channels, size, linears):
    """3x3 convolutions at full resolution between 2x2 poolings; `linears`: (in positions per map, out) of each layer."""
    widths, total = iter(widths), 0
    for step in layout:
        if step is POOL:
            size //= 2
        else:
            out = next(widths)
            total += 9 * channels * out * size * size
            channels = out
    for positions, out in linears:
        total += channels * positions * out
        channels = out
    return total


@pytest.mark.parametrize("pruned", [False, True])
def test_own_vggs_by_hand(pruned):
    plans = {
        "vgg_tiny": (1, 8, (CONV, CONV, POOL, CONV, CONV, POOL, CONV, CONV), (16, 16, 32, 32, 64, 64), [(1, 10)]),
        "vgg_small": (1, 28, (CONV, POOL, CONV, CONV, POOL, CONV, CONV), (24, 48, 48, 96, 96), [(1, 10)]),
        "vgg7": (
            3, 32, (CONV, CONV, POOL, CONV, CONV, POOL, CONV, CONV), (128, 128, 256, 256, 512, 512),
            [(16, 1024), (1, 10)],
        ),
    }  # fmt: skip
    for name, (channels, size, layout, widths, linears) in plans.items():
        network = make(name, size, channels=channels)
        if pruned:
            network, kept = cut(network, (channels, size, size))
            widths = list(kept.values())
            assert len(widths) == layout.count(CONV) and sum(widths) < sum(plans[name][3])
        assert count_cost(network, (channels, size, size)).macs == vgg_macs(layout, widths, channels, size, linears)


@pytest.mark.parametrize("pruned", [False, True])
def test_resnet20_by_hand(pruned):
    network = make("resnet20")
    kept = {}
    if pruned:
        network, kept = cut(network, (3, 32, 32))
    stem = stage_in = kept.get("conv1", 16)
    total = 9 * 3 * stem * 32 * 32
    for stage, (width, size) in enumerate(((16, 32), (32, 16), (64, 8)), start=1):
        # all adds of a stage share one set of maps; that of the first stage is the stem's
        names = [f"stage{stage}.block1.conv2", f"stage{stage}.block1.shortcut.conv"]
        shared = stem if stage == 1 else next((kept[name] for name in names if name in kept), width)
        for block in range(1, 4):
            entry = stage_in if block == 1 else shared
            inner = kept.get(f"stage{stage}.block{block}.conv1", width)
            total += 9 * size * size * (entry * inner + inner * shared)
            if stage > 1 and block == 1:
                total += size * size * entry * shared  # 1x1 shortcut
        stage_in = shared
    total += stage_in * 10
    assert count_cost(network, (3, 32, 32)).macs == total


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", pytest.param("densenet121", marks=pytest.mark.long), "alexnet", "vgg11_bn"]
)
def test_pruned_torchvision_against_two_other_counters(name):
    network, _ = cut(make(name, 64), (3, 64, 64))
    images = torch.rand(1, 3, 64, 64)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(images)
    other = FlopCountAnalysis(network, images).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    fvcore = sum(count for op, count in other.by_operator().items() if op in ("conv", "linear", "addmm", "matmul"))
    assert count_cost(network, (3, 64, 64)).macs == flops.get_total_flops() / 2 == fvcore


@pytest.mark.parametrize("name", ["w4a4", "w8a8"])
@pytest.mark.parametrize("model", ["vgg_tiny", "resnet20"])
def test_bit_operations_of_pruned_networks(model, name, tmp_path):
    images, labels = batch(4)
    smaller, _ = cut(warm_up(make(model), images, labels, steps=1), (3, 32, 32))
    theirs, ours = total_cost(smaller, name, images, tmp_path)
    assert theirs["total_bops"] == ours.bops
    assert theirs["total_macs"] == ours.macs
