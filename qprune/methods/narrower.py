"""Uniformly narrower networks, trained from scratch for as many updates as a cell has in all: the simplest baseline."""

from collections.abc import Iterable, Iterator

from qprune.methods.maker import Made, Maker

WIDTHS = (1.0, 0.75, 0.5, 0.3, 0.15)  # times the channels of the sweep's model; 1: quantisation alone


def narrower(maker: Maker) -> Iterator[Made]:
    """Networks of all WIDTHS, at each precision."""
    return of_widths(maker, WIDTHS)


def of_widths(maker: Maker, widths: Iterable[float]) -> Iterator[Made]:
    """dense -> quantize -> evaluate, for each width and precision: N + P + F updates under one schedule, then Q.

    FP32 of width 1 is left out: under one schedule to its end, that is method scratch.
    """
    for width in widths:
        dense = maker.dense(maker.total_updates - maker.quantize_updates, width)
        for precision in maker.config.precisions:
            if (width, precision) != (1, "fp32"):
                quantized = maker.quantized(dense, maker.dense(), precision, 0.0, width)
                stages = (dense, quantized, maker.evaluated(quantized, precision, 0.0, width))
                yield Made(precision, 0.0, stages, width)
