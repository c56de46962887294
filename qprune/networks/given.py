"""A user's own network and the shape of its images, checked before anything is made of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qprune.registry.errors import BadInput


def check_module(what: str, network: Any) -> None:
    """BadInput where it is no module; what: its argument's name."""
    if not isinstance(network, nn.Module):
        called = "; call it" if isinstance(network, type) and issubclass(network, nn.Module) else ""
        shown = f"the class {network.__name__}" if isinstance(network, type) else f"a {type(network).__name__}"
        raise BadInput(f"{what}: {shown} was given; it must be an nn.Module{called}")


def as_image_shape(given: Any) -> tuple[int, int, int]:
    """(c, h, w) from what was given as an image's shape; BadInput where it is none."""
    sizes = tuple(given) if isinstance(given, (tuple, list)) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        more = "; leave out the batch" if len(sizes) == 4 else ""
        shown = str(given) if isinstance(given, (tuple, list)) else f"a {type(given).__name__}"
        raise BadInput(f"image_shape is {shown}; it must be three whole numbers, (c, h, w){more}")
    return sizes


def is_channels_last(shape: Sequence[int]) -> bool:
    """Whether the last of (..., h, w, c) is likely the channels."""
    return shape[-1] in (1, 3, 4) and shape[-3] not in (1, 3, 4)


def count_classes(network: nn.Module, images: Tensor) -> int:
    """How many logits a network gives for an image, from two of them, uint8 [n, c, h, w]; BadInput where it can't take them, or gives others."""
    training, some = network.training, images[:2].float() / 255
    try:
        with torch.no_grad():
            logits = network.eval()(some)
    except Exception as error:  # of whatever the model is made of
        given, reason = list(images.shape), str(error).split("\n")[0]
        hint = "; they look like [n, h, w, c]: give images.permute(0, 3, 1, 2)" if is_channels_last(given) else ""
        raise BadInput(f"the model can't take images of {given}{hint} ({reason})") from error
    finally:
        network.train(training)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(some):
        shape = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise BadInput(
            f"{type(network).__name__} gives {shape} for {len(some)} images; logits [{len(some)}, classes] are wanted"
        )
    return logits.shape[1]
