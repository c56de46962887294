"""Per-image correctness in little space: packed bits as text."""

import base64

import numpy as np


def pack_bits(correct: np.ndarray) -> str:
    """bool [images] -> base64 of the packed bits."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack_bits(packed: str, images: int) -> np.ndarray:
    """The inverse of pack_bits: bool [images]."""
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), dtype=np.uint8))[:images].astype(bool)
