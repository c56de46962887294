"""One picture file to the pixels of one image, with NumPy and Pillow alone.

The text below is also part of the script that `qprune export` writes beside a network, which runs without qprune.
"""

import numpy as np
from PIL import Image, ImageOps

MAX_LENGTH = 50_000  # pixels of the longer side, after the shorter one has been made to fit
LEAST_DEEP = 4096  # the largest value that a picture of 16 bits must reach: the upper 8 bits hold at least 4 of it
ORIENTATION = 0x0112  # the tag in EXIF


class Refused(ValueError):
    """A picture that can't be read as what it must be; the message goes on after the file's name."""


def read_picture(path, *, image_size, resize, resize_to, filter, antialias):
    """uint8 [image_size, image_size, 3]: upright, on white, in RGB, resized, the centre cut out.

    resize: "shorter_side" to resize_to pixels, or "squash", both sides; the rest as in Preprocessing.
    Raises Refused, and whatever Pillow raises on a file that it can't decode.
    """
    with Image.open(path) as picture:
        picture.load()
        rgb = as_rgb(picture)
    scale = resize_to / min(rgb.size)
    size = tuple(max(resize_to, int(side * scale)) if resize == "shorter_side" else resize_to for side in rgb.size)
    if max(size) > MAX_LENGTH:
        raise Refused(f"is {rgb.width}x{rgb.height}, far from square. Remove or replace this file.")
    left, top = (round((side - image_size) / 2) for side in size)
    resized = resized_to(rgb, size, filter, antialias)
    return np.asarray(resized.crop((left, top, left + image_size, top + image_size)))


def resized_to(rgb, size, filter, antialias):
    """A picture of that size, (width, height)."""
    if filter == "area" or filter == "bilinear" and not antialias:
        return Image.fromarray(weighted(np.asarray(rgb), size, overlaps if filter == "area" else neighbours))
    return rgb.resize(size, Image.Resampling[filter.upper()])


def weighted(pixels, size, weights):
    """[h, w, 3] -> [size[1], size[0], 3] in uint8: sums with whole weights, exact in any order; halves go up."""
    rows, columns = weights(pixels.shape[0], size[1]), weights(pixels.shape[1], size[0])
    total = np.stack([rows @ pixels[:, :, c].astype(float) @ columns.T for c in range(3)], 2)
    among = rows[0].sum() * columns[0].sum()
    return ((2 * total + among) // (2 * among)).astype(np.uint8)


def overlaps(n, m):
    """[m, n]: how much of each of n pixels lies in each of m new ones, in units of 1 / m."""
    old, new = np.arange(n + 1) * m, np.arange(m + 1) * n
    shared = np.minimum(new[1:, None], old[1:]) - np.maximum(new[:-1, None], old[:-1])
    return np.maximum(shared, 0).astype(float)


def neighbours(n, m):
    """[m, n]: of n pixels the two whose centres a new one lies between, by nearness, in units of 1 / 2m."""
    low, part = np.divmod(np.clip((2 * np.arange(m) + 1) * n - m, 0, 2 * m * (n - 1)), 2 * m)
    rows = np.zeros((m, n))
    rows[np.arange(m), low] = 2 * m - part
    rows[np.arange(m), np.minimum(low + 1, n - 1)] += part
    return rows


def as_rgb(picture):
    """A loaded picture upright, on white, in RGB."""
    transparent = picture.has_transparency_data
    upright = ImageOps.exif_transpose(picture) if orientation_of(picture) != 1 else picture
    if is_deep_grey(picture):
        values = np.asarray(upright.convert("I")).copy()  # 0..65535
        if 0 < values.max() < LEAST_DEEP:
            raise Refused(
                f"has 16 bits a pixel but values up to {values.max()} alone, and would be all but black in "
                "8 bits. Save it in 8 bits, scaled as you want it."
            )
        if transparent:
            values[values == picture.info["transparency"]] = 65535
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode.startswith("I") or picture.mode == "F":
        raise Refused(
            f"has {picture.mode} pixels, whose range isn't known; pictures of 8 or 16 bits a channel can be read. "
            "Save it as one of them."
        )
    if transparent:
        return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def is_deep_grey(picture):
    """Whether its pixels go from 0 to 65535, which Pillow keeps in 32 bits for some formats."""
    return picture.mode.startswith("I;16") or picture.mode == "I" and picture.format in ("PNG", "PPM")


def orientation_of(picture):
    """The EXIF orientation, 1 (upright) to 8. Pillow turns TIFFs itself."""
    try:
        return 1 if picture.format == "TIFF" else picture.getexif().get(ORIENTATION, 1)
    except Exception:  # what can't be read as EXIF says nothing, for viewers too; the picture itself may be whole
        return 1
