"""Picture files decoded to square uint8 RGB arrays, with a few threads (Pillow decodes outside the GIL).

Each is turned as its EXIF orientation says, laid on white where it is transparent, and made RGB of 8 bits a channel; its
shorter side is resized, the centre cut out.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qprune.data.files import status_of
from qprune.registry.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

MAX_LENGTH = 50_000  # pixels of the longer side, after the shorter one has been made to fit
LEAST_DEEP = 4096  # the largest value that a picture of 16 bits must reach: the upper 8 bits hold at least 4 of it
ORIENTATION = 0x0112  # the tag in EXIF
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # one of them stands in a PNG that has EXIF


@dataclass(frozen=True)
class Treatment:
    """What is done to some pictures and not to others.

    version: 0 where it has always been done; else it is part of the fingerprint of these pictures, and of no others.
    Raise it when their pixels change
    """

    name: str
    said: str
    version: int = 0


TREATMENTS = (
    Treatment("turned", "turned as their EXIF orientation says", version=1),
    Treatment("transparent", "transparent in places or as a whole, laid on white", version=1),
    Treatment("deep", "of 16 bits a channel, read at 8"),
    Treatment("grey", "grey, three equal channels"),
    Treatment("palette", "with a palette, read as RGB"),
    Treatment("cmyk", "CMYK, read as RGB without a colour profile"),
    Treatment("frames", "of several frames, of which the first is read"),
)


def decode_pictures(paths: Sequence[Path], side: int) -> np.ndarray:
    """uint8 [n, 3, side, side] of the files, as the module's docstring says.

    Raises UserError naming the file that can't be decoded.
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
            picture.load()
            rgb = _as_rgb(picture, path)
            width, height = rgb.size
            scale = side / min(width, height)
            size = max(side, int(width * scale)), max(side, int(height * scale))
            if max(size) > MAX_LENGTH:
                raise UserError(f"data: {path} is {width}x{height}, far from square. Remove or replace this file.")
            resized = rgb.resize(size, Image.Resampling.BILINEAR)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them stumble on
        raise UserError(f"data: {path} can't be decoded ({error}). Remove or replace this file.") from error
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def _as_rgb(picture: Picture, path: Path) -> Picture:
    """A loaded picture upright, on white, in RGB."""
    from PIL import Image, ImageOps

    transparent = picture.has_transparency_data
    upright = ImageOps.exif_transpose(picture) if _orientation(picture) != 1 else picture
    if _is_deep_grey(picture):
        values = np.asarray(upright.convert("I")).copy()  # 0..65535
        if 0 < values.max() < LEAST_DEEP:
            raise UserError(
                f"data: {path} has 16 bits a pixel but values up to {values.max()} alone, and would be all but black in "
                "8 bits. Save it in 8 bits, scaled as you want it."
            )
        if transparent:
            values[values == picture.info["transparency"]] = 65535
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode.startswith("I") or picture.mode == "F":
        raise UserError(
            f"data: {path} has {picture.mode} pixels, whose range isn't known; pictures of 8 or 16 bits a channel can be "
            "read. Save it as one of them."
        )
    if transparent:
        return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def _is_deep_grey(picture: Picture) -> bool:
    """Whether its pixels go from 0 to 65535, which Pillow keeps in 32 bits for some formats."""
    return picture.mode.startswith("I;16") or picture.mode == "I" and picture.format in ("PNG", "PPM")


def _orientation(picture: Picture) -> int:
    """The EXIF orientation, 1 (upright) to 8. Pillow turns TIFFs itself."""
    try:
        return 1 if picture.format == "TIFF" else picture.getexif().get(ORIENTATION, 1)
    except Exception:  # what can't be read as EXIF says nothing, for viewers too; the picture itself may be whole
        return 1


# Before decoding ------------------------------------------------------------------------------------------------------


def identity(name: str, path: Path) -> str:
    """What a picture enters a fingerprint as, beside its content: its name and the versions of what is done to it."""
    marks = (f"\0{done.name}{done.version}" for done in TREATMENTS if done.version and done.name in treatments(path))
    return name + "".join(marks)


def notes_on(paths: Sequence[Path]) -> tuple[str, ...]:
    """How many of the files are treated in each way, in words; nothing where none is."""
    counts = Counter(name for path in paths for name in treatments(path))
    return tuple(
        f"{counts[done.name]:,} of {len(paths):,} pictures: {done.said}" for done in TREATMENTS if counts[done.name]
    )


def treatments(path: Path) -> frozenset[str]:
    """The names of the treatments that a picture has, from its header."""
    status = status_of(path)
    return _treatments(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1_000_000)
def _treatments(path: str, size: int, modified_ns: int) -> frozenset[str]:
    """size and time are only there so that a changed file is looked at again."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            mode, arguments = picture.mode, picture.tile[0][3] if picture.tile else None
            holds = {
                "transparent": picture.has_transparency_data,
                "deep": _is_deep_grey(picture) or _is_deep(picture.format, arguments),
                "grey": mode in ("1", "L", "LA", "La") or mode.startswith("I"),
                "palette": mode in ("P", "PA"),
                "cmyk": mode == "CMYK",
                "frames": getattr(picture, "is_animated", False),
                "turned": _may_have_exif(picture, path) and _orientation(picture) in range(2, 9),
            }
    except Exception:  # decoding it will say what is wrong
        return frozenset()
    return frozenset(name for name, is_so in holds.items() if is_so)


def _is_deep(form: str | None, arguments: object) -> bool:
    """Whether what Pillow's decoder is told means 16 bits a channel: a mode such as RGB;16B, or a PPM's largest value."""
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return any(
        ";16" in part if isinstance(part, str) else form == "PPM" and isinstance(part, int) and part > 255
        for part in parts
    )


def _may_have_exif(picture: Picture, path: str) -> bool:
    """False spares decoding a PNG, whose EXIF can stand at its end."""
    if picture.format != "PNG":
        return True
    content = Path(path).read_bytes()
    return any(mark in content for mark in PNG_EXIF)
