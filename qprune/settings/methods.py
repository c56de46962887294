"""What a cell can be made of: the names that `order` chooses from. What each makes of the settings is in qprune/methods."""

from dataclasses import dataclass

from qprune.registry import Entry, Registry


@dataclass(frozen=True)
class Method(Entry):
    """A function from qprune.methods.Maker to cells.

    ranks: whether it prunes by a criterion; what doesn't is made once for all criteria. quantizes_first: whether it
    prunes under quantisation-aware training, so that it needs widths that are chosen beforehand and rules for quantisers.
    from_scratch: whether it trains a network of its own, which no checkpoint can stand for. baseline: whether `baselines`
    asks for it, and not `order`: networks that pruning has to be better than, from random weights whatever others begin with.
    """

    ranks: bool = True
    quantizes_first: bool = False
    from_scratch: bool = False
    baseline: bool = False


METHODS = Registry(
    "method",
    Method("prune_first", "qprune.methods.prune_first:prune_first"),
    Method("quantize_first", "qprune.methods.quantize_first:quantize_first", quantizes_first=True),
    Method("scratch", "qprune.methods.scratch:scratch", ranks=False, from_scratch=True),
    Method("narrower", "qprune.methods.baselines:narrower", ranks=False, baseline=True),
    Method("same_shape", "qprune.methods.baselines:same_shape", baseline=True),
)
