"""How a picture becomes a network's input: one description for the decoder, the exports and whoever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qprune.data import official
from qprune.registry import nearest
from qprune.registry.errors import UserError
from qprune.registry.options import Option, fill, is_number, is_whole, one_of, switch
from qprune.registry.show import show

VERSION = 1  # of the form that to_json has, and of what its words mean
MAX_SIDE = 1024  # pixels; all images are held in memory
RESIZES = ("shorter_side", "squash")
FILTERS = ("bilinear", "bicubic", "lanczos", "hamming", "box", "area", "nearest")
NORMALISATION = ("mean", "std")  # options that are absent where they aren't given: the training images' own
PREPROCESS = {
    "resize": one_of(*RESIZES),
    "filter": one_of(*FILTERS),
    "antialias": switch(True),
    "resize_to": Option(
        None,
        lambda value: value is None or is_whole(value, 1, 2 * MAX_SIDE),
        f"a whole number from 1 to {2 * MAX_SIDE}",
    ),
    "mean": Option(None, lambda value: _are_three(value, 0, 1), "three numbers from 0 to 1, of red, green and blue"),
    "std": Option(
        None, lambda value: _are_three(value, 1e-3, 1), "three numbers from 0.001 to 1, of red, green and blue"
    ),
}

Kind = Literal["pictures", "arrays", "function", "tensors"]
_ORIGIN = {
    "arrays": "images of the data set's own, no picture files",
    "function": "what the user's function made of its files, which it alone knows",
    "tensors": "tensors that were given, of whatever pictures",
}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before a network sees it; channels, height, width: of what it sees.

    kind: "pictures" are files, decoded as read_picture.py does: the first frame, turned as EXIF says, transparent parts laid
    on white, RGB at 8 bits a channel (the upper 8 of 16; CMYK without a colour profile), resized, the centre cut out. The
    others are images of their size already, of a data set ("arrays"), of a user's `module:function` ("function") or given to
    the library ("tensors"). All are divided by 255.
    resize: "shorter_side" to `resize_to` pixels, or "squash" both sides; filter: one of FILTERS, as Pillow has them, but
    "area", the mean over the area of a new pixel; antialias: whether a filter widens where a picture shrinks.
    """

    kind: Kind
    channels: int
    height: int
    width: int
    resize: str = "none"
    resize_to: int = 0
    filter: str = "none"
    antialias: bool = False

    @classmethod
    def of_pictures(cls, image_size: int, preprocess: Mapping[str, Any] | None = None) -> Preprocessing:
        """For picture files. preprocess: as `as_preprocess` gives it, by default its defaults."""
        preprocess = DEFAULT if preprocess is None else preprocess
        how = {key: value for key, value in preprocess.items() if key not in NORMALISATION}
        return cls("pictures", 3, image_size, image_size, **{**how, "resize_to": how["resize_to"] or image_size})

    def to_json(self) -> dict[str, Any]:
        """In the words of the README, for whoever has no qprune."""
        if self.kind == "pictures":
            form = {
                "decode": "the first frame at 8 bits a channel, the upper 8 of 16",
                "orientation": "turned as EXIF says",
                "transparent": "laid on white",
                "colour": "RGB; CMYK without a colour profile; grey as three equal channels",
                "resize": self.resize,
                "resize_to": self.resize_to,
                "filter": self.filter,
                "antialias": self.antialias,
                "crop": "centre",
                "image_size": self.height,
            }
        else:
            form = {"decode": "none", "note": _ORIGIN[self.kind], "resize": self.resize}
        return {
            "version": VERSION,
            "kind": self.kind,
            **form,
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "scale": "divided by 255",
            "range": [0, 1],
            "layout": "[batch, c, h, w]",
            "dtype": "float32",
            "normalisation": "inside the network",
        }

    def words(self) -> str:
        """In a sentence."""
        shape = f"[batch, {self.channels}, {self.height}, {self.width}]"
        given = f"divided by 255: float32 {shape} in 0..1; normalisation is inside the network"
        if self.kind != "pictures":
            return f"{_ORIGIN[self.kind]}, {given}"
        smooth = "antialiased" if self.antialias else "not antialiased"
        what = "shorter side" if self.resize == "shorter_side" else "both sides"
        cut = f"the centre {self.width}x{self.height} cut out, "
        return (
            "turned as EXIF says, transparent parts laid on white, RGB of 8 bits a channel; "
            f"{what} resized to {self.resize_to} ({self.filter}, {smooth}), "
            f"{cut if self.resize != 'squash' or self.resize_to != self.height else ''}{given}"
        )


def as_preprocess(value: Any) -> dict[str, Any] | str:
    """The option `preprocess` with its defaults filled in, or the whole name of torchvision's weights that it names;
    ValueError, going on after the value, where it can't be meant."""
    return official.whole_name(value) if isinstance(value, str) else _filled(value)


def _filled(value: Mapping[str, Any]) -> dict[str, Any]:
    for key, given in value.items():
        if key not in PREPROCESS:
            raise ValueError(f"where {show(key)} is no option{nearest(str(key), list(PREPROCESS))}")
        if not PREPROCESS[key].is_valid(given):
            hint = nearest(given, list(_words(key))) if _words(key) else f"; it must be {PREPROCESS[key].allowed}"
            raise ValueError(f"where {key} can't be {show(given)}{hint}")
    filled = fill("preprocess", value, PREPROCESS)
    if (filled["mean"] is None) != (filled["std"] is None):
        raise ValueError("where mean and std go together: give both, or neither for those of the training images")
    filled |= {key: [float(one) for one in filled[key]] for key in NORMALISATION if filled[key] is not None}
    filled = {key: one for key, one in filled.items() if key not in NORMALISATION or one is not None}
    if filled["filter"] == "nearest":  # it takes single pixels
        filled["antialias"] = False
    elif filled["filter"] != "bilinear" and not filled["antialias"]:
        raise ValueError(f"where {filled['filter']} is antialiased always; antialias: false is there for bilinear")
    return filled


def fitted(what: str, preprocess: Mapping[str, Any] | str, image_size: int) -> dict[str, Any]:
    """A filled `preprocess` beside its image_size: one form for one meaning. UserError where the cut would be too large."""
    if isinstance(preprocess, str):
        preprocess = _filled(official.transforms(preprocess, image_size))
    to = preprocess["resize_to"]
    if to is not None and to < image_size:
        raise UserError(
            f"{what}: preprocess: resize_to is {to}, less than image_size {image_size}, which is cut out of it"
        )
    return {**preprocess, "resize_to": None if to == image_size else to}


def _are_three(value: Any, low: float, high: float) -> bool:
    """Whether it is None, or a number for each channel."""
    if value is None:
        return True
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(is_number(one) and low <= one <= high for one in value)
    )


def _words(key: str) -> tuple[str, ...]:
    return {"resize": RESIZES, "filter": FILTERS}.get(key, ())


DEFAULT = _filled({})
OPTION = Option(
    DEFAULT,
    lambda value: isinstance(value, Mapping) or official.is_named(value),
    "{resize: shorter_side, filter: bilinear, ...} or torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1",
    as_preprocess,
    before=DEFAULT,
)
