"""How a cell's updates are spent and at which rates: what `protocol` chooses from. results/README.md has what it is worth."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Shares of the budget, rates as parts of the peak train.lr, and what else is best beside them.

    dense, prune, quantize: shares of all updates (fine-tuning has the rest); quantize_low: where a width below 4 bits is
    in the grid. decays: whether N decays to its end; if not, it stays at the peak, which it reaches after `dense_warmup`
    of N. prune_divisor, finetune_divisor, quantize_divisor: train.lr over the phase's rate; finetune_warmup: the share of F in which it goes up.
    decay: of F and Q, down to 0 (qprune.recipe.Rate). normalize, baselines: the defaults of these settings; explicit: whether a file that gives no budget has the explicit
    ones, phase by phase, that were the default once.
    """

    dense: float
    prune: float
    quantize: float
    quantize_low: float
    decays: bool
    dense_warmup: float
    prune_divisor: float
    finetune_divisor: float
    finetune_warmup: float
    quantize_divisor: float
    normalize: str
    baselines: tuple[str, ...]
    decay: str = "cosine"
    explicit: bool = False


PROTOCOLS = {
    # N and P at the peak rate, then one decay over F: a trunk that all ratios share, one branch for each
    "early": Protocol(
        dense=0.12, prune=0.10, quantize=0.08, quantize_low=0.20, decays=False, dense_warmup=0.1,
        prune_divisor=1, finetune_divisor=1, finetune_warmup=0.0, quantize_divisor=10,
        normalize="layer", baselines=("narrower",),
    ),
    # of a network that has been trained: P at a low rate, then F from the peak (Renda et al., ICLR 2020; Le and Hua, ICLR 2021)
    "restart": Protocol(
        dense=0.25, prune=0.10, quantize=0.08, quantize_low=0.20, decays=False, dense_warmup=0.1,
        prune_divisor=5, finetune_divisor=1, finetune_warmup=0.1, quantize_divisor=10,
        normalize="layer", baselines=("narrower",),
    ),
    # each stage decays by itself; P at one constant low rate (Molchanov et al., ICLR 2017)
    "classic": Protocol(
        dense=0.30, prune=0.57, quantize=0.04, quantize_low=0.04, decays=True, dense_warmup=0.0,
        prune_divisor=5, finetune_divisor=5, finetune_warmup=0.0, quantize_divisor=10,
        normalize="l2", baselines=(), explicit=True,
    ),
}  # fmt: skip
