"""Formats of exported files by name, and which precisions each bears. Imports no torch until a format is used.

A format is one file with SUFFIX, `write(cell, path)` and `load(path, cell) -> run`, and one line here.
"""

from dataclasses import dataclass

from qprune.precision import PRECISIONS
from qprune.registry import Entry, Registry
from qprune.registry.errors import UserError
from qprune.registry.packages import require


@dataclass(frozen=True, kw_only=True)
class Format(Entry):
    """One kind of file.

    bears: whose layers it can hold (PrecisionEntry.layers); why_not: the reason for others; packages: what it needs beside
    torch, all in the extra "onnx".
    """

    bears: tuple[str, ...]
    why_not: str = ""
    packages: tuple[str, ...] = ()

    def can_hold(self, precision: str) -> bool:
        """Whether the format bears a precision, by its name."""
        return PRECISIONS.get(precision).layers in self.bears

    def require(self) -> None:
        """Raises UserError, naming the extra, where a package isn't installed."""
        require(*self.packages, extra="onnx")


NARROWEST = {17: 8, 21: 4, 25: 2}  # ONNX opset -> bits of the narrowest integers that it has, of those that are written
ALL = ("torch", "torch.ao", "brevitas")
_ONNX = ("onnx", "onnxoptimizer", "onnxruntime")
FORMATS = Registry(
    "format",
    Format("onnx", "qprune.deploy.onnx_file", bears=ALL, packages=_ONNX),
    Format(
        "qonnx",
        "qprune.deploy.qonnx_file",
        bears=("brevitas",),
        why_not="QONNX is written by Brevitas, for networks of its layers",
        packages=(*_ONNX, "qonnx"),
    ),
    Format("torch", "qprune.deploy.torch_file", bears=ALL),
    Format(
        "pt2",
        "qprune.deploy.pt2_file",
        bears=("torch",),
        why_not="torch.export follows neither torch.ao's packed weights nor Brevitas' quantisers",
    ),
)


def check_pair(form: Format, precision: str, cell: str) -> None:
    """Raises UserError, naming the formats that work, where a format can't hold a precision."""
    if not form.can_hold(precision):
        working = " or ".join(f"--format {other.name}" for other in FORMATS.entries() if other.can_hold(precision))
        raise UserError(f"{cell} is {precision}, which {form.name} can't hold: {form.why_not}. Use {working}")
