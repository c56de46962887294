"""Integers of few bits, several to a byte: the first in the lowest bits, in two's complement, as ONNX has INT4 and INT2."""

import numpy as np


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers of any shape, each within `bits` (1, 2, 4 or 8) -> uint8 [ceil(values.size * bits / 8)], in C order."""
    each = 8 // bits
    flat = (values.astype(np.int64).ravel() & (2**bits - 1)).astype(np.uint8)
    groups = np.pad(flat, (0, -flat.size % each)).reshape(-1, each)
    return np.bitwise_or.reduce(groups << (bits * np.arange(each, dtype=np.uint8)), axis=1).astype(np.uint8)


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """What pack was given, of signed integers: int8 of that shape."""
    each = 8 // bits
    fields = packed[:, None] >> (bits * np.arange(each, dtype=np.uint8)) & (2**bits - 1)
    values = fields.ravel()[: int(np.prod(shape))].astype(np.int16)
    return (values - ((values >> (bits - 1)) << bits)).astype(np.int8).reshape(shape)
