"""Picture files decoded to square uint8 RGB arrays, with a few threads (Pillow decodes outside the GIL); and what is done
to which of them, told from their headers. Preprocessing says how, read_picture does it.
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
from qprune.data.preprocessing import Preprocessing
from qprune.data.remembered import recall
from qprune.registry.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

MOST_NAMED = 20  # of bad files
HEADERS = "treatments 1"  # raise it where they are told from headers in another way
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # one of them stands in a PNG that has EXIF


class BadPicture(UserError):
    """A file that is no picture, or none that can be read without a doubt."""


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


def decode_pictures(paths: Sequence[Path], how: Preprocessing) -> np.ndarray:
    """uint8 [n, 3, side, side] of the files, as the description says.

    Raises BadPicture naming the first file that can't be decoded.
    """
    side = how.height
    try:
        images = np.empty((len(paths), 3, side, side), np.uint8)
    except (MemoryError, ValueError) as error:
        size = f"{len(paths) * 3 * side * side / 1e9:,.0f} GB"
        raise UserError(f"data: {len(paths):,} pictures of {side}x{side} take {size}; lower image_size.") from error

    def decode(index: int) -> None:
        images[index] = _decode(paths[index], how)

    with _threads() as pool:
        for _ in pool.map(decode, range(len(paths))):
            pass
    return images


def blame_pictures(paths: Sequence[Path], how: Preprocessing) -> None:
    """Raises one BadPicture that names all that can't be decoded, MOST_NAMED at most."""

    def look(path: Path) -> BadPicture | None:
        try:
            _decode(path, how)
        except BadPicture as error:
            return error
        return None

    with _threads() as pool:
        bad = [error for error in pool.map(look, dict.fromkeys(paths)) if error is not None]
    if len(bad) == 1:
        raise bad[0]
    if bad:
        told = " ".join(str(error).removeprefix("data: ") for error in bad[:MOST_NAMED])
        more = f" And {len(bad) - MOST_NAMED:,} more." if len(bad) > MOST_NAMED else ""
        raise BadPicture(f"data: {len(bad):,} pictures can't be read. {told}{more}")


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1))


def _decode(path: Path, how: Preprocessing) -> np.ndarray:
    """One picture, uint8 [3, side, side]."""
    from qprune.data.read_picture import Refused, read_picture

    try:
        pixels = read_picture(
            path,
            image_size=how.height,
            resize=how.resize,
            resize_to=how.resize_to,
            filter=how.filter,
            antialias=how.antialias,
        )
    except Refused as error:
        raise BadPicture(f"data: {path} {error}") from error
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them stumble on
        raise BadPicture(f"data: {path} can't be decoded ({error}). Remove or replace this file.") from error
    return pixels.transpose(2, 0, 1)


# Before decoding ------------------------------------------------------------------------------------------------------


def identity(name: str, path: Path) -> str:
    """What a picture enters a fingerprint as, beside its content: its name and the versions of what is done to it."""
    held = treatments(path)
    return name + "".join(f"\0{done.name}{done.version}" for done in TREATMENTS if done.version and done.name in held)


def notes_on(paths: Sequence[Path]) -> tuple[str, ...]:
    """How many of the files are treated in each way, in words; nothing where none is."""
    counts = Counter(name for path in paths for name in treatments(path))
    return tuple(
        f"{counts[done.name]:,} of {len(paths):,} pictures: {done.said}" for done in TREATMENTS if counts[done.name]
    )


def treatments(path: Path) -> frozenset[str]:
    """The names of the treatments that a picture has, from its header."""
    status = status_of(path)

    def read() -> str:
        return " ".join(sorted(_treatments(str(path), status.st_size, status.st_mtime_ns)))

    return frozenset(recall(path, status, HEADERS, read).split())


@functools.lru_cache(maxsize=100_000)
def _treatments(path: str, size: int, modified_ns: int) -> frozenset[str]:
    """size and time are only there so that a changed file is looked at again."""
    from PIL import Image

    from qprune.data.read_picture import is_deep_grey, orientation_of

    try:
        with Image.open(path) as picture:
            mode, arguments = picture.mode, picture.tile[0][3] if picture.tile else None
            holds = {
                "transparent": picture.has_transparency_data,
                "deep": is_deep_grey(picture) or _is_deep(picture.format, arguments),
                "grey": mode in ("1", "L", "LA", "La") or mode.startswith("I"),
                "palette": mode in ("P", "PA"),
                "cmyk": mode == "CMYK",
                "frames": getattr(picture, "is_animated", False),
                "turned": _may_have_exif(picture, path) and orientation_of(picture) in range(2, 9),
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
