"""What a network made of each image of a split, in little space: as text, inside JSON.

The network that is handed over has each image's label and predicted class (`labels`, `predicted`), from which it follows
which it got right; a network on the way, and all of an older qprune, have that alone (`correct`).
"""

import base64
import zlib

import numpy as np


def pack_bits(correct: np.ndarray) -> str:
    """bool [images] -> base64 of the packed bits."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack_bits(packed: str, images: int) -> np.ndarray:
    """The inverse of pack_bits: bool [images]."""
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), dtype=np.uint8))[:images].astype(bool)


def pack_classes(classes: np.ndarray) -> str:
    """Numbers of classes, whole [images] -> base64 of zlib of uint8; of little-endian uint16 where one is above 255.

    Raises ValueError where one is negative or above 65,535.
    """
    least, largest = (int(classes.min()), int(classes.max())) if len(classes) else (0, 0)
    if least < 0 or largest > 65_535:
        raise ValueError(f"a class's number is 0 to 65535, not {least if least < 0 else largest}")
    numbers = classes.astype("<u2" if largest > 255 else "u1")
    return base64.b64encode(zlib.compress(numbers.tobytes(), 9)).decode()


def unpack_classes(packed: str, images: int) -> np.ndarray:
    """The inverse of pack_classes: int64 [images]. Raises ValueError for another number of images."""
    content = zlib.decompress(base64.b64decode(packed))
    if len(content) not in (images, 2 * images):
        raise ValueError(f"{len(content)} bytes are no classes of {images} images")
    return np.frombuffer(content, dtype="u1" if len(content) == images else "<u2").astype(np.int64)


def classes_of(part: dict) -> tuple[np.ndarray, np.ndarray] | None:
    """(labels, predicted classes), int64 [images] each, of a split's part of a record; None where it hasn't them."""
    if "predicted" not in part:
        return None
    return unpack_classes(part["labels"], part["images"]), unpack_classes(part["predicted"], part["images"])


def correct_of(part: dict) -> np.ndarray:
    """Which images the network got right, bool [images], of a split's part of a record in either form.

    Raises KeyError where it has neither.
    """
    if classes := classes_of(part):
        return classes[0] == classes[1]
    return unpack_bits(part["correct"], part["images"])
