"""Formats of exported files by name, and which precisions each bears. Imports no torch until a format is used.

A format is one file with SUFFIX, `write(cell, path)` and `load(path, cell) -> run`, and one line here.
"""

from dataclasses import dataclass
from importlib import import_module

from qprune.precision import is_brevitas
from qprune.registry import nearest
from qprune.registry.errors import UserError


@dataclass(frozen=True)
class Format:
    """One kind of file. bears: the precisions it can hold, "w*a*" for all of Brevitas' (mixed ones too); why_not: the reason for others."""

    name: str
    module: str
    bears: frozenset[str]
    why_not: str = ""

    def can_hold(self, precision: str) -> bool:
        """Whether the format bears a precision, by its canonical name."""
        return ("w*a*" if is_brevitas(precision) else precision) in self.bears

    def load_module(self):
        """The file that writes and loads it."""
        return import_module(self.module)


_FORMATS: dict[str, Format] = {}
ALL = frozenset({"fp32", "fp16", "int8", "w*a*"})


def register_format(name: str, module: str, bears: frozenset[str], why_not: str = "") -> None:
    """Adds a format. Raises ValueError for a name that is there already."""
    if name in _FORMATS:
        raise ValueError(f"format {name!r} is registered twice")
    _FORMATS[name] = Format(name, module, bears, why_not)


register_format("onnx", "qprune.deploy.onnx_file", ALL)
register_format(
    "qonnx", "qprune.deploy.qonnx_file", frozenset({"w*a*"}), "QONNX is written by Brevitas, for networks of its layers"
)
register_format("torch", "qprune.deploy.torch_file", ALL)
register_format(
    "pt2",
    "qprune.deploy.pt2_file",
    frozenset({"fp32", "fp16"}),
    "torch.export follows neither torch.ao's packed weights nor Brevitas' quantisers",
)


def format_names() -> list[str]:
    """All formats."""
    return list(_FORMATS)


def get_format(name: str) -> Format:
    """Raises UserError for an unknown name, naming the nearest."""
    if name not in _FORMATS:
        raise UserError(f"unknown format {name!r}{nearest(name, format_names())}")
    return _FORMATS[name]


def check_pair(form: Format, precision: str, cell: str) -> None:
    """Raises UserError, naming the formats that work, where a format can't hold a precision."""
    if not form.can_hold(precision):
        working = " or ".join(f"--format {other.name}" for other in _FORMATS.values() if other.can_hold(precision))
        raise UserError(f"{cell} is {precision}, which {form.name} can't hold: {form.why_not}. Use {working}")
