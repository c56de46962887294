"""The unpruned FP32 network, trained from scratch under one schedule for as many updates as a cell has in all."""

from collections.abc import Iterator

from qprune.methods.maker import Made, Maker


def scratch(maker: Maker) -> Iterator[Made]:
    """dense -> evaluate, with all N + P + F + Q updates in dense training."""
    dense = maker.dense(maker.spending.total)
    yield Made("fp32", 0.0, (dense, maker.evaluated(dense, "fp32", 0.0)))
