"""The preprocessing that torchvision's pretrained networks were trained with, by the name of the weights.

`torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1`: the size that the picture's shorter side is resized to and the share of it
that is cut out, the filter, mean and standard deviation, as torchvision's own `weights.transforms()` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qprune.registry import nearest

PREFIX = "torchvision:"


def is_named(value: Any) -> bool:
    """Whether it has the form of such a name."""
    return isinstance(value, str) and value.startswith(PREFIX)


def whole_name(name: str) -> str:
    """The name with what DEFAULT stands for. Raises ValueError, going on after the name, where there are no such weights, or
    none for classifying pictures."""
    weights = _weights(name)
    _checked(weights.transforms())
    return f"{PREFIX}{type(weights).__name__}.{weights.name}"


def image_size(name: str) -> int:
    """Pixels of a side of what such a network sees."""
    (size,) = _checked(_weights(name).transforms()).crop_size
    return size


def transforms(name: str, size: int) -> Mapping[str, Any]:
    """The option `preprocess` that does the same for images of `size` pixels a side, which are the same share of the picture.

    A picture is resized as Pillow does it: torchvision's `antialias` is for tensors alone.
    """
    told = _checked(_weights(name).transforms())
    (resize_to,), (cut,) = told.resize_size, told.crop_size
    return {
        "resize": "shorter_side",
        "resize_to": round(size * resize_to / cut),
        "filter": told.interpolation.value,
        "mean": list(told.mean),
        "std": list(told.std),
    }


def _checked(transforms: Any) -> Any:
    if not hasattr(transforms, "crop_size"):
        raise ValueError("whose transforms are not for classifying pictures")
    return transforms


def _weights(name: str) -> Any:
    from torchvision.models import get_model_weights, get_weight, list_models

    wanted = name.removeprefix(PREFIX)
    try:
        return get_weight(wanted)
    except (AttributeError, KeyError, ValueError):
        known = {f"{type(one).__name__}.{one.name}" for model in list_models() for one in get_model_weights(model)}
        raise ValueError(f"which names no weights of torchvision's{nearest(wanted, sorted(known))}") from None
