"""Picture files decoded to square uint8 RGB arrays, with a few threads (Pillow decodes outside the GIL)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from qprune.registry.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

MAX_LENGTH = 50_000  # pixels of the longer side, after the shorter one has been made to fit


def decode_pictures(paths: Sequence[Path], side: int) -> np.ndarray:
    """uint8 [n, 3, side, side]: each picture with its shorter side resized to `side`, then its centre cut out.

    Grey pictures become RGB with three equal channels. Raises UserError naming the file that can't be decoded.
    """
    try:
        images = np.empty((len(paths), 3, side, side), np.uint8)
    except (MemoryError, ValueError) as error:
        size = f"{len(paths) * 3 * side * side / 1e9:,.0f} GB"
        raise UserError(f"data: {len(paths):,} pictures of {side}x{side} take {size}; lower image_size.") from error

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
            if max(size) > MAX_LENGTH:
                raise UserError(f"data: {path} is {width}x{height}, far from square. Remove or replace this file.")
            resized = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them stumble on
        raise UserError(f"data: {path} can't be decoded ({error}). Remove or replace this file.") from error
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side))).transpose(2, 0, 1)
