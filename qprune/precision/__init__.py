"""Number formats: a physically final FP32 network in, a network trained and evaluated in that format out.

A format is one file with two functions, `prepare(network, calibration, **options)` and `finish(trained)`,
and one line here; `names(trained, network)` where `prepare` renames layers, `keep_scales(smaller, trained, kept)`
where training learns scales, and `choose(network, calibration, **options)` where each layer's width is chosen. This module checks names without importing torch; a format's file is imported on first use.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qprune.registry import nearest
from qprune.registry.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule

ALIASES = {"int4": "w4a4"}
WIDTHS = range(2, 9)  # bits that a Brevitas format may have
_WIDTHS_NAME = re.compile(r"w([0-9]+)a([0-9]+)")
MIXED = {f"mixed{half / 2:g}": half / 2 for half in range(5, 16)}  # mixed2.5 ... mixed7.5: no cheaper, no dearer ones


@dataclass(frozen=True)
class Precision:
    """One number format.

    name: canonical, e.g. "w4a4" (not its alias "int4")
    module: the file that makes networks of this format
    options: what its `prepare` takes besides the network and the calibration images
    """

    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer_bits(self) -> dict[str, int]:
        """Layer -> width, where widths were chosen for one network; else empty."""
        return dict(self.options.get("layer_bits", {}))

    def choose(self, network: "GraphModule", calibration: "Tensor") -> "Precision":
        """This format with the widths that it chooses for a trained FP32 network; itself where none are to be chosen.

        network, calibration: as for `prepare`; neither is changed. Widths that were chosen already are kept.
        """
        if self.name not in MIXED or self.layer_bits:
            return self
        chosen = importlib.import_module(self.module).choose(network, calibration, **self.options)
        return replace(self, options={**self.options, "layer_bits": chosen})

    def prepare(self, network: "GraphModule", calibration: "Tensor | None") -> "GraphModule":
        """A new network to be trained: float master weights, forwards rounded to the format.

        network: traced by qprune.networks.graph, FP32, in its final shape; it isn't changed.
        calibration: images [n, c, h, w] in 0..1 from which scales start, or None for a skeleton into which a
        saved state_dict is loaded (strictly: it holds every scale).
        """
        return importlib.import_module(self.module).prepare(network, calibration, **self.options)

    def finish(self, trained: "GraphModule") -> "nn.Module":
        """The network that is evaluated, in eval mode: for int8 the converted one. `trained` isn't changed."""
        return importlib.import_module(self.module).finish(trained)

    def names(self, trained: "GraphModule", network: "GraphModule") -> dict[str, str]:
        """Layers of the FP32 network that have another name in the network made from it: that name."""
        module = importlib.import_module(self.module)
        return module.names(trained, network) if hasattr(module, "names") else {}

    def keep_scales(self, smaller: "GraphModule", trained: "GraphModule", kept: "Mapping[str, Tensor]") -> None:
        """Put the scales that training has learned in `trained` into a network prepared at a smaller shape, in place.

        kept: bool [c_out] of each layer that lost output channels, by name. A no-op where scales aren't learned.
        """
        module = importlib.import_module(self.module)
        if hasattr(module, "keep_scales"):
            module.keep_scales(smaller, trained, kept)

    def masters(self, trained: "GraphModule", network: "GraphModule") -> "dict[str, Tensor]":
        """The FP32 network's state as trained in the format: float master weights and batch normalisation.

        trained: made by `prepare` from a network of the layers and shapes of `network`; no tensor is copied.
        """
        names, state = self.names(trained, network), trained.state_dict()
        masters = {}
        for name in network.state_dict():
            layer, _, tensor = name.rpartition(".")
            masters[name] = state[f"{names[layer]}.{tensor}" if layer in names else name]
        return masters


_FORMATS: dict[str, str] = {}


def register_precision(name: str, module: str) -> None:
    """Adds the format `name`, made by the module's `prepare` and `finish`."""
    if name in _FORMATS or name in ALIASES or name in MIXED or _WIDTHS_NAME.fullmatch(name):
        raise ValueError(f"precision {name!r} is registered twice")
    _FORMATS[name] = module


register_precision("fp32", "qprune.precision.fp32")
register_precision("fp16", "qprune.precision.fp16")
register_precision("int8", "qprune.precision.torch_ao")
BREVITAS = "qprune.precision.brevitas_qat"


def precision_names() -> list[str]:
    """Every canonical name: the registered formats, then w2a2 ... w8a8, then mixed2.5 ... mixed7.5."""
    return [*_FORMATS, *(f"w{w}a{a}" for w in WIDTHS for a in WIDTHS), *MIXED]


def is_brevitas(name: str) -> bool:
    """Whether a format, by its canonical name, is made of Brevitas layers: w..a.. and mixed.."""
    return name in MIXED or _WIDTHS_NAME.fullmatch(name) is not None


def canonical_name(name: str) -> str:
    """The name that results carry: "w4a4" for "int4". Raises UserError on an unknown name, naming the nearest."""
    canonical = ALIASES.get(name, name)
    if canonical in precision_names():
        return canonical
    if _WIDTHS_NAME.fullmatch(str(name)):
        hint = ": widths go from 2 to 8 bits (valid: w2a2 ... w8a8)"
    elif str(name).startswith("mixed"):
        hint = ": mixed2.5, mixed3 ... mixed7.5 are there, in halves (mixed4: widths per layer at the cost of w4a4)"
    else:
        hint = nearest(str(name).lower(), [*_FORMATS, *ALIASES, *(f"w{b}a{b}" for b in WIDTHS)])
    raise UserError(f"unknown precision {name!r}{hint}")


def get_precision(name: str, first_last_bits: int | None = 8, layer_bits: Mapping[str, int] | None = None) -> Precision:
    """The format called `name` (or its alias).

    first_last_bits: width of the first and last layers' weights and inputs in the w*a* and mixed formats; None gives
    them the format's own widths. The other formats have one width throughout. layer_bits: widths that a mixed format
    has chosen already, for the network at hand; without them, Precision.choose comes first.

    Raises UserError on an unknown name or a width outside 2..8.
    """
    if first_last_bits is not None and (isinstance(first_last_bits, bool) or first_last_bits not in WIDTHS):
        raise UserError(f"first_last_bits: {first_last_bits!r} is no width. Give 2 to 8, or null for the cell's own.")
    canonical = canonical_name(name)
    if canonical in _FORMATS:
        return Precision(canonical, _FORMATS[canonical])
    if canonical in MIXED:
        options = {"budget_bits": MIXED[canonical], "first_last_bits": first_last_bits}
        return Precision(canonical, "qprune.precision.mixed", {**options, "layer_bits": dict(layer_bits or {})})
    weight_bits, act_bits = map(int, _WIDTHS_NAME.fullmatch(canonical).groups())
    options = {"weight_bits": weight_bits, "act_bits": act_bits, "first_last_bits": first_last_bits}
    return Precision(canonical, BREVITAS, options)
