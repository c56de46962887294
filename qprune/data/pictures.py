"""Picture files decoded to square uint8 RGB arrays, with a few threads (Pillow decodes outside the GIL)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from qprune.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def decode_pictures(paths: Sequence[Path], side: int) -> np.ndarray:
    """uint8 [n, 3, side, side]: each picture with its shorter side resized to `side`, then its centre cut out.

    Grey pictures become RGB with three equal channels. Raises UserError naming the file that can't be decoded.
    """
    images = np.empty((len(paths), 3, side, side), np.uint8)

    def decode(index: int) -> None:
        images[index] = _decode(paths[index], side)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(paths))):
            pass
    return images


def _decode(path: Path, side: int) -> np.ndarray:
    """One picture, uint8 [3, side, side]; antialiased bilinear, as torchvision's Resize and CenterCrop."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I") or picture.mode == "F":
                raise UserError(f"data: {path} has {picture.mode} pixels; only 8 bits per channel can be read.")
            width, height = picture.size
            scale = side / min(width, height)
            size = max(side, int(width * scale)), max(side, int(height * scale))
            resized = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"data: {path} can't be decoded ({error}). Remove or replace this file.") from error
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side))).transpose(2, 0, 1)
