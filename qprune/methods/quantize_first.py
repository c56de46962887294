"""Quantise, then prune and fine-tune under quantisation-aware training, for the same number of updates."""

from collections.abc import Iterator

from qprune.methods.maker import Made, Maker


def quantize_first(maker: Maker) -> Iterator[Made]:
    """dense -> quantize_dense -> prune -> finetune -> evaluate, for each precision and ratio."""
    dense = maker.dense()
    for precision, ratio in maker.grid():
        quantized = maker.quantized_dense(dense, precision)
        pruned = maker.pruned(quantized, ratio, precision)
        yield Made(precision, ratio, (dense, quantized, *pruned, maker.evaluated(pruned[-1], precision, ratio)))
