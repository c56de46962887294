"""Prune and fine-tune in FP32, then quantise."""

from collections.abc import Iterator

from qprune.methods.maker import Made, Maker
from qprune.stages import Stage


def prune_first(maker: Maker) -> Iterator[Made]:
    """dense -> prune -> finetune -> quantize -> evaluate, for each precision and ratio."""
    for precision, ratio in maker.grid():
        yield Made(precision, ratio, chain(maker, precision, ratio))


def chain(maker: Maker, precision: str, ratio: float) -> tuple[Stage, ...]:
    """The stages of one cell. Those of FP32 at ratio 0 give every cell's baseline."""
    dense = maker.dense()
    pruned = maker.pruned(dense, ratio)
    quantized = maker.quantized(pruned[-1], precision, ratio)
    return (dense, *pruned, quantized, maker.evaluated(quantized, precision, ratio))
