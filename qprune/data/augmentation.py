"""Random flips, crops and shifts of whole batches, on the device where the images are."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from qprune.registry.errors import UserError
from qprune.registry.show import show

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KINDS = "none, flip, resized_crop, crop or shift, the last two also with their pixels, as crop4 (1 to 99)"  # in words
_KIND = re.compile(r"(flip|none|resized_crop)|(crop|shift)([1-9]\d?)?")
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a resized crop
TRIES = 10


def takes_crops(kinds: tuple[str, ...]) -> bool:
    """Whether images may be larger than what the network sees, since a part of each is taken."""
    return "resized_crop" in kinds


def augment(images: Tensor, kinds: tuple[str, ...], generator: torch.Generator, side: int | None = None) -> Tensor:
    """The batch, each image changed at random by every one of `kinds`, in their order.

    images: [n, c, h, w], any dtype and device; a new tensor of the same shape, dtype and device is returned
    (the images themselves where `kinds` is empty or only "none"). side: of what a resized crop gives, by default that of the
    images.

    - "flip": mirrored left-right with probability 1/2.
    - "crop4": 4 black pixels put around the image, then a window of the old size at a random place
      (He et al., CVPR 2016, section 4.2). "crop" alone: one eighth of the shorter side (32 -> 4, 28 -> 3).
    - "resized_crop": a random part of 8 to 100% of the area, its sides from 3:4 to 4:3, resized with antialiasing
      (Szegedy et al., CVPR 2015, section 6; torchvision's RandomResizedCrop).
    - "shift2": moved by up to 2 pixels each way, the border repeated. "shift" alone: one eighth.

    What is drawn depends on the generator and on n only, so a CPU generator gives the same pictures on every
    device. Raises UserError for an unknown kind.
    """
    for kind in kinds:
        name, pixels = parse_kind(kind)
        if name == "flip":
            images = _flip(images, generator)
        elif name == "resized_crop":
            images = _resized_crop(images, side or images.shape[-1], generator)
        elif name != "none":
            pixels = pixels or max(1, min(images.shape[2:]) // 8)
            images = _move(images, pixels, generator, repeat_border=name == "shift")
    return images


def is_kind(kind: object) -> bool:
    """Whether it is one of KINDS."""
    return isinstance(kind, str) and _KIND.fullmatch(kind) is not None


def parse_kind(kind: str) -> tuple[str, int | None]:
    """ "crop4" -> ("crop", 4), "flip" -> ("flip", None); UserError for an unknown kind."""
    match = _KIND.fullmatch(kind) if isinstance(kind, str) else None
    if match is None:
        raise UserError(f"augment: {show(kind)} is no augmentation; it must be {KINDS}")
    return match[1] or match[2], int(match[3]) if match[3] else None


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored with probability 1/2. [n, c, h, w] -> the same shape."""
    import torch

    mirrored = torch.rand(len(images), generator=generator, device=generator.device) < 0.5  # [n]
    return torch.where(mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def _resized_crop(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """[n, c, h, w] -> [n, c, side, side]."""
    import torch
    from torchvision.transforms.v2.functional import resized_crop

    n, _, height, width = images.shape
    boxes = crop_boxes(height, width, n, generator)
    return torch.stack(
        [resized_crop(image, *box, [side, side], antialias=True) for image, box in zip(images, boxes, strict=True)]
    )


def crop_boxes(height: int, width: int, count: int, generator: torch.Generator) -> list[list[int]]:
    """(top, left, height, width) of so many random parts: the first of TRIES that lies within the image, else its centre of
    the nearest aspect, which is torchvision's rule."""
    import torch

    def draw(low: float, high: float) -> Tensor:
        drawn = torch.rand(count, TRIES, generator=generator, device=generator.device, dtype=torch.float64)
        return low + (high - low) * drawn.cpu()

    area = draw(*AREA) * height * width
    aspect = draw(math.log(ASPECT[0]), math.log(ASPECT[1])).exp()
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    top, left = draw(0, 1), draw(0, 1)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    boxes = []
    for image in range(count):
        found = fits[image].nonzero()
        if not len(found):
            boxes.append(_central_box(height, width))
            continue
        chosen = int(found[0])
        h, w = int(heights[image, chosen]), int(widths[image, chosen])
        place = (
            int(float(where[image, chosen]) * (room + 1)) for where, room in ((top, height - h), (left, width - w))
        )
        boxes.append([*place, h, w])
    return boxes


def _central_box(height: int, width: int) -> list[int]:
    if width / height < ASPECT[0]:
        h, w = round(width / ASPECT[0]), width
    elif width / height > ASPECT[1]:
        h, w = height, round(height * ASPECT[1])
    else:
        h, w = height, width
    return [(height - h) // 2, (width - w) // 2, h, w]


def _move(images: Tensor, pixels: int, generator: torch.Generator, repeat_border: bool) -> Tensor:
    """A window of the old size at a random place of the padded image, drawn per image. [n, c, h, w] -> the same.

    NOTE Every row of every window is a run of w neighbours in the padded batch. Seen as overlapping runs (a
    strided view, nothing is copied), the batch needs one index per row, not one per pixel: a plain gather
    takes several times as long on a CPU.
    """
    import torch
    from torch.nn import functional as F

    n, c, h, w = images.shape
    sides = (pixels,) * 4
    if repeat_border:
        rows = torch.arange(-pixels, h + pixels, device=images.device).clamp(0, h - 1)
        columns = torch.arange(-pixels, w + pixels, device=images.device).clamp(0, w - 1)
        padded = images.index_select(2, rows).index_select(3, columns)  # [n, c, h + 2p, w + 2p]
    else:
        padded = F.pad(images, sides)
    height, width = h + 2 * pixels, w + 2 * pixels
    corner = torch.randint(0, 2 * pixels + 1, (2, n), generator=generator, device=generator.device)
    top, left = corner.to(images.device)  # [n] each
    plane = torch.arange(n * c, device=images.device).view(n, c, 1) * (height * width)
    row = torch.arange(h, device=images.device) + top.view(n, 1, 1)  # [n, 1, h]
    first = plane + row * width + left.view(n, 1, 1)  # [n, c, h]: where each row of the window starts
    runs = padded.contiguous().as_strided((padded.numel() - w + 1, w), (1, 1))
    return runs[first.flatten()].view(n, c, h, w)
