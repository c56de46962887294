"""Images and labels that a user's own loop holds, brought into the form of a split; what can't be meant is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qprune.data.base import Split
from qprune.registry.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

HALF_STEP = 0.5 / 255  # floats so far outside 0..1 are rounded to the same byte as 0 or 1


def as_split(images: Any, labels: Any) -> Split:
    """images [n, c, h, w] (uint8, or float in 0..1, rounded to bytes) and labels [n] (integers from 0) as a Split.

    Raises BadInput, a ValueError, for anything else: no tensors, other shapes, lengths that differ, images that were
    normalised or go from 0 to 255 as floats, labels that are no integers. How many classes there are isn't known here.
    """
    images, labels = _tensor("images", images), _tensor("labels", labels)
    if images.dim() != 4:
        grey = "; of grey images, give images.unsqueeze(1)" if images.dim() == 3 else ""
        raise BadInput(f"images are {_form(images)}; they must be [n, c, h, w]{grey}")
    if labels.dim() != 1:
        one_hot = "; of one-hot labels, give labels.argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else ""
        column = "; give labels.flatten()" if labels.dim() == 2 and labels.shape[1] == 1 else ""
        raise BadInput(f"labels are {_form(labels)}; they must be integers [n]{one_hot}{column}")
    if len(images) != len(labels):
        raise BadInput(f"there are {len(images):,} images and {len(labels):,} labels; each image needs one")
    if not images.numel():
        raise BadInput(f"images are {_form(images)}: there is none")
    if labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool":
        raise BadInput(
            f"labels are {_form(labels)}; they must be integers: labels.long(), where they are whole numbers"
        )
    if (lowest := int(labels.min())) < 0:
        raise BadInput(f"labels go from {lowest} to {int(labels.max())}; they must be the classes' numbers, from 0")
    return Split(_as_bytes(images), labels.long())


def check_classes(labels: Tensor, classes: int) -> None:
    """BadInput where a label [n] is none of a network's classes, numbered from 0."""
    lowest, highest = int(labels.min()), int(labels.max())
    if highest >= classes:
        shift = "; where they are counted from 1, give labels - 1" if lowest == 1 and highest == classes else ""
        raise BadInput(
            f"labels go from {lowest} to {highest}, and the model has {classes} classes (0 to {classes - 1}){shift}"
        )


def _tensor(what: str, given: Any) -> Tensor:
    import torch

    if not isinstance(given, torch.Tensor):
        raise BadInput(f"{what}: a {type(given).__name__} was given; make it a tensor: torch.as_tensor({what})")
    return given.detach()


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _as_bytes(images: Tensor) -> Tensor:
    """uint8 from uint8, or from floats in 0..1."""
    import torch

    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise BadInput(f"images are {_form(images)}; they must be uint8 (0 to 255) or floats from 0 to 1")
    low, high = (value.item() for value in images.aminmax())
    wanted = f"images go from {low:.4g} to {high:.4g}; floats must be from 0 to 1"
    if not (low > -float("inf") and high < float("inf")):
        raise BadInput(f"images hold values that are no finite numbers ({low} to {high})")
    if low < -HALF_STEP:
        raise BadInput(
            f"{wanted}: give them before they are normalised, with the normalisation inside the model (or clamp them)"
        )
    if high > 2:
        raise BadInput(f"{wanted}: divide them by 255, or give them as uint8")
    if high > 1 + HALF_STEP:
        raise BadInput(f"{wanted}: clamp them, or give them before they are normalised")
    if 0 < high < 2 / 255:
        raise BadInput(f"{wanted}, and these are all but black: have they been divided by 255 twice?")
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
