"""What pruning has to be better than: narrower networks from random weights, as long in training as the pruned ones."""

from collections.abc import Iterator

from qprune.methods.maker import Made, Maker
from qprune.stages import Stage


def narrower(maker: Maker) -> Iterator[Made]:
    """narrow -> quantize -> evaluate, for each precision and ratio above 0: the same share of every layer is not there.

    At ratio 0 it would be the unpruned network, which is a cell already.
    """
    for equal, precision, ratio in _places(maker):
        yield _made(maker, equal, precision, ratio, None)


def same_shape(maker: Maker) -> Iterator[Made]:
    """The same in the shape of each network that a criterion has pruned: what its weights were worth."""
    for equal, precision, ratio in _places(maker):
        snapshot, *_ = maker.pruned(maker.dense(), ratio)
        yield _made(maker, equal, precision, ratio, snapshot)


def _places(maker: Maker) -> Iterator[tuple[str, str, float]]:
    for equal in maker.config.baseline_budget:
        for precision, ratio in maker.grid():
            if ratio:
                yield equal, precision, ratio


def _made(maker: Maker, equal: str, precision: str, ratio: float, shape: Stage | None) -> Made:
    narrow, cap = maker.narrow(ratio, equal, shape)
    what = f"{'same shape' if shape else 'narrower'}{', equal FLOPs' if equal == 'flops' else ''}, "
    quantized = maker.quantized(narrow, precision, ratio, what)
    return Made(precision, ratio, (narrow, quantized, maker.evaluated(quantized, precision, ratio, what)), equal, cap)
