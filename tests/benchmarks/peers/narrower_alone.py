"""The package's narrower networks as a method of their own, with the unpruned one under their schedule."""

from collections.abc import Iterator

from qprune.methods import Made, Maker


def narrower_alone(maker: Maker) -> Iterator[Made]:
    """narrow -> quantize -> evaluate, for each precision and ratio, 0 too."""
    for precision, ratio in maker.grid():
        narrow, _ = maker.narrow(ratio)
        quantized = maker.quantized(narrow, precision, ratio)
        yield Made(precision, ratio, (narrow, quantized, maker.evaluated(quantized, precision, ratio)))
