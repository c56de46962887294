"""Structured photographs as people have them: of any size, turned by EXIF, grey, CMYK, with palettes, alpha, 16 bits."""

from pathlib import Path

import numpy as np
from data_files import write_deep_png
from PIL import Image

CLASSES = ("checks, fine", "dots", "Querstreifen ä")  # a comma, a letter that isn't ASCII
EXIF_ORIENTATION = 0x0112
TURNS = {  # what stands upright once a viewer has turned it as the orientation says: 1 to 8
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: a[::-1].swapaxes(0, 1),
}  # fmt: skip


def structured(kind: int, width: int, height: int, random: np.random.RandomState) -> np.ndarray:
    """uint8 [height, width, 3]: a coarse pattern that tells the class, in random colours, with noise."""
    y, x = np.mgrid[:height, :width] / min(width, height) * 2 * np.pi
    a, b = random.uniform(0, 6, 2)
    pattern = (np.sin(4 * x + a) * np.sin(4 * y + b), np.cos(2 * x + a) + np.cos(2 * y + b), np.sin(3 * y + b))[kind]
    mix = (np.clip(pattern, -1, 1)[..., None] + 1) / 2
    light, dark = random.uniform(150, 255, 3), random.uniform(0, 100, 3)
    return np.clip(mix * light + (1 - mix) * dark + random.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def _turned(pixels: np.ndarray, file: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(TURNS[orientation](pixels))).save(file.with_suffix(".jpg"), exif=exif)


def _with_alpha(pixels: np.ndarray, file: Path) -> None:
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:3], alpha[:, -4:] = 0, 100
    Image.fromarray(np.dstack([pixels, alpha])).save(file.with_suffix(".png"))


FORMS = {
    **{f"turned_{number}": lambda p, f, n=number: _turned(p, f, n) for number in TURNS},
    "grey": lambda p, f: Image.fromarray(p).convert("L").save(f.with_suffix(".jpg")),
    "cmyk": lambda p, f: Image.fromarray(p).convert("CMYK").save(f.with_suffix(".jpg")),
    "palette": lambda p, f: Image.fromarray(p).quantize(32).save(f.with_suffix(".png")),
    "gif": lambda p, f: Image.fromarray(p).save(f.with_suffix(".gif")),
    "alpha": _with_alpha,
    "deep": lambda p, f: Image.fromarray(p[:, :, 0].astype(np.uint16) * 257).save(f.with_suffix(".png")),
    "deep_rgb": lambda p, f: write_deep_png(f.with_suffix(".png"), p[:, :, 0].astype(np.uint16) * 257),
    "webp": lambda p, f: Image.fromarray(p).save(f.with_suffix(".webp"), lossless=True),
    "bmp": lambda p, f: Image.fromarray(p).save(f.with_suffix(".bmp")),
}  # name -> (pixels [h, w, 3], file without its suffix) written in that form


def write_photos(root: Path, per_class: int, seed: int = 0) -> None:
    """root/<class>/*, in all FORMS by turns, of sides from 17 to 90."""
    random = np.random.RandomState(seed)
    for kind, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            form = list(FORMS)[number % len(FORMS)]
            width, height = (int(side) for side in random.randint(17, 91, 2))
            FORMS[form](structured(kind, width, height, random), root / name / f"{number:03d}_{form}")
