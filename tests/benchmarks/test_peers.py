"""qprune beside its peers: equal updates, costs as qprune counts them, choices on other seeds than claims."""

import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
from tiny_sweep import Inline, write_tiny

sys.path.insert(0, str(Path(__file__).parent))
import compare_peers
from fronts import best_within, front_of, gain, hypervolumes
from peers import ENTRIES
from peers.contenders import contenders
from peers.tables import holm, summarise, write_tables

TINY = (
    "budget={updates: 80, shares: {quantize: 0.04}}", "train={batch_size: 32, lr: 0.1}", "finetune={}", "quantize={}",
    "prune={of: macs, ratios: [0, 0.5, 0.75], channels_per_step: 12}", "model={name: vgg_tiny, width: 0.75}", "seeds=[10,11]", "precisions=[fp32,int4]",
    "protocol=null",
)  # fmt: skip


ONLY = ["qprune", "narrower", "Torch-Pruning + Brevitas", "unpruned"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A whole comparison that is as small as it can be: its options, its choices, contender -> cells."""
    out = tmp_path_factory.mktemp("peers")
    options = Namespace(sweep=write_tiny(out), set=list(TINY), only=ONLY, out=out)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as known:
        for registry, entries in ENTRIES.items():
            known.enter_context(registry.temporarily(*entries))
        patch.setattr(compare_peers, "CHOOSING", (0,))
        patch.setattr(compare_peers, "RATES", (1.0,))
        patch.setattr("peers.contenders.RATIOS", (0.0, 0.5))
        comparison = compare_peers.Comparison(options, lambda stages, store: Inline(store))
        choices = comparison.choose()
        yield out, choices, comparison.claim(choices)


@pytest.mark.long
def test_each_contender_chooses_among_what_it_can_have(compared):
    _, choices, found = compared
    assert set(choices.contender) == set(ONLY)
    for contender in contenders("layer"):
        if contender.name not in ONLY:
            continue
        own = choices[choices.contender == contender.name]
        assert set(zip(own.protocol, own.rate, strict=True)) == {(protocol, 1.0) for protocol in contender.protocols}
        assert own.validation[own.chosen].iloc[0] == own.validation.max()
        (peak,) = {float(rate) for rate in found[contender.name].lr_dense}
        assert peak == pytest.approx(0.1 * own.rate[own.chosen].iloc[0])
        assert set(found[contender.name].seed) == {10, 11}


@pytest.mark.long
def test_every_network_has_had_all_updates_and_points_are_octaves_apart(compared):
    out, _, found = compared
    for name, cells in found.items():
        assert set(cells.total_updates) == {80}, name
    dense = found["qprune"].macs.max()
    for name in ("qprune", "narrower"):
        for row in found[name].itertuples():
            assert row.macs / dense <= 1 - row.pruning_ratio + 1e-9
            assert row.macs / dense > (1 - row.pruning_ratio) * 0.6  # a step is 7% of the maps here
    table = write_tables(found, out)
    assert table.primary.eq(True).sum() == 1 and (out / "points.csv").is_file() and (out / "equal_cost.csv").is_file()


def test_holm_by_hand():
    """The least of 3 by 3, the next by 2, the largest by 1, never below the one before."""
    assert list(holm(pd.Series([0.04, 0.01, 0.03]))) == pytest.approx([0.06, 0.03, 0.06])
    assert list(holm(pd.Series([0.5, 0.9]))) == pytest.approx([1.0, 1.0])


def cells(rows) -> pd.DataFrame:
    columns = ["precision", "pruning_ratio", "seed", "val_accuracy", "accuracy", "bit_gflops"]
    return pd.DataFrame(rows, columns=columns)


def test_hypervolume_and_paired_difference_by_hand():
    """Of two points that validation can't tell from dominated ones, test accuracy counts where validation has chosen."""
    own, other = [], []
    for seed, extra in ((0, 0.0), (1, 1.0), (2, 2.0)):
        own.append(("fp32", 0.0, seed, 90, 90, 1.0))
        own.append(("int4", 0.5, seed, 85, 86, 0.25))
        own.append(("int8", 0.5, seed, 84, 99, 0.3))  # dominated by validation, so no part of the front
        other.append(("fp32", 0.0, seed, 85 + extra, 85, 0.5))
    own, other = cells(own), cells(other)
    references = own[own.pruning_ratio == 0].set_index("seed")
    assert len(front_of(own)) == 6
    # reference: 1 GFLOP and 80%; 0.25 GFLOP is 2 octaves below and 5 points above; 1 GFLOP adds nothing
    assert list(hypervolumes(own, references, "validation")) == pytest.approx([10, 10, 10])
    assert list(hypervolumes(own, references, "test")) == pytest.approx([12, 12, 12])
    assert list(hypervolumes(other, references, "validation")) == pytest.approx([5, 6, 7])
    half = 4.302652729911275 / 3**0.5  # Student's t of 2 degrees of freedom, sd 1
    difference = gain(hypervolumes(own, references, "validation"), hypervolumes(other, references, "validation"))
    assert difference == pytest.approx({"difference": 4, "low": 4 - half, "high": 4 + half})
    assert best_within(own, 0.2) is None and set(best_within(own, 0.29).precision) == {"int4"}
    table = summarise({"qprune": own, "narrower": other}).set_index(["contender", "precisions", "accuracy"])
    assert table.loc[("narrower", "all", "validation"), "qprune_minus_it_difference"] == pytest.approx(4)
    assert bool(table.loc[("narrower", "all", "test"), "primary"])
