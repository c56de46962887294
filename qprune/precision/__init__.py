"""Number formats: a physically final FP32 network in, a network trained and evaluated in that format out.

A format is one file with two functions, `prepare(network, calibration, **options)` and `finish(trained)`,
and one line here; `names(trained, network)` where `prepare` renames layers, `keep_scales(smaller, trained, kept)`
where training learns scales, and `choose(network, calibration, **options)` where each layer's width is chosen. This
module checks names without importing torch; a format's file is imported on first use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from qprune.registry import Entry, Registry, nearest
from qprune.registry.options import Option, fill, is_whole

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

WIDTHS = range(2, 9)  # bits that a Brevitas format may have


@dataclass(frozen=True, kw_only=True)
class PrecisionEntry(Entry):
    """What is registered of a number format.

    bits: of weights and of activations, as the name promises them (what a network really has is counted)
    fixed: what `prepare` is given besides the options
    layers: whose layers its networks are made of
    weights: what a file holds of them
    timed: what PyTorch's time for the format is the time of; None where it is emulated in FP32
    mixed: whether each layer's width is chosen for the network at hand
    cpu_only: whether its evaluation runs on a CPU alone
    """

    bits: tuple[float, float]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    layers: Literal["torch", "torch.ao", "brevitas"] = "torch"
    weights: Literal["float", "half", "integer"] = "float"
    timed: Literal["FP32", "integer"] | None = None
    mixed: bool = False
    cpu_only: bool = False


class _Precisions(Registry[PrecisionEntry]):
    def hint(self, name: str) -> str:
        if re.fullmatch(r"w[0-9]+a[0-9]+", str(name)):
            return ": widths go from 2 to 8 bits (valid: w2a2 ... w8a8)"
        if str(name).startswith("mixed"):
            return ": mixed2.5, mixed3 ... mixed7.5 are there, in halves (mixed4: widths per layer at the cost of w4a4)"
        like = [entry for entry in self.entries() if len(set(entry.bits)) == 1 and not entry.mixed]
        return nearest(str(name).lower(), [known for entry in like for known in (entry.name, *entry.aliases)])


_ENDS = Option(
    8, lambda bits: bits is None or is_whole(bits, 2, 8), "a whole number from 2 to 8, or null for the cell's own"
)
_OPTIONS = {"first_last_bits": _ENDS, "layer_bits": Option({}, convert=dict)}


def _brevitas(name: str, module: str, **settings: Any) -> PrecisionEntry:
    return PrecisionEntry(name, f"qprune.precision.{module}", layers="brevitas", weights="integer", **settings)


PRECISIONS = _Precisions(
    "precision",
    PrecisionEntry("fp32", "qprune.precision.fp32", bits=(32, 32), timed="FP32"),
    PrecisionEntry("fp16", "qprune.precision.fp16", bits=(16, 16), weights="half"),
    PrecisionEntry(
        "int8", "qprune.precision.torch_ao", bits=(8, 8), layers="torch.ao", weights="integer", timed="integer", cpu_only=True
    ),
    *(
        _brevitas(
            f"w{w}a{a}", "brevitas_qat", bits=(w, a), fixed={"weight_bits": w, "act_bits": a},
            options={"first_last_bits": _ENDS}, aliases=("int4",) if w == a == 4 else (),
        )
        for w in WIDTHS
        for a in WIDTHS
    ),
    *(  # mixed2.5 ... mixed7.5: no cheaper, no dearer ones
        _brevitas(
            f"mixed{bits:g}", "mixed", bits=(bits, bits), fixed={"budget_bits": bits}, options=_OPTIONS, mixed=True
        )
        for bits in (half / 2 for half in range(5, 16))
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """One number format. options: what its `prepare` takes besides the network and the calibration images."""

    entry: PrecisionEntry
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Canonical, e.g. "w4a4" (not its alias "int4")."""
        return self.entry.name

    @property
    def layer_bits(self) -> dict[str, int]:
        """Layer -> width, where widths were chosen for one network; else empty."""
        return dict(self.options.get("layer_bits", {}))

    def choose(self, network: "GraphModule", calibration: "Tensor") -> "Precision":
        """This format with the widths that it chooses for a trained FP32 network; itself where none are to be chosen.

        network, calibration: as for `prepare`; neither is changed. Widths that were chosen already are kept.
        """
        if not self.entry.mixed or self.layer_bits:
            return self
        chosen = self.entry.load().choose(network, calibration, **self.options)
        return replace(self, options={**self.options, "layer_bits": chosen})

    def choose_unmeasured(self, network: "GraphModule") -> "Precision":
        """As choose, for a trial: some widths that could be chosen, which cost nothing to find."""
        if not self.entry.mixed or self.layer_bits:
            return self
        chosen = self.entry.load().any_widths(network, self.options["first_last_bits"])
        return replace(self, options={**self.options, "layer_bits": chosen})

    def prepare(self, network: "GraphModule", calibration: "Tensor | None") -> "GraphModule":
        """A new network to be trained: float master weights, forwards rounded to the format.

        network: traced by qprune.networks.graph, FP32, in its final shape; it isn't changed.
        calibration: images [n, c, h, w] in 0..1 from which scales start, or None for a skeleton into which a
        saved state_dict is loaded (strictly: it holds every scale).
        """
        return self.entry.load().prepare(network, calibration, **self.options)

    def finish(self, trained: "GraphModule") -> "GraphModule":
        """The network that is evaluated, in eval mode: for int8 the converted one. `trained` isn't changed."""
        return self.entry.load().finish(trained)

    def names(self, trained: "GraphModule", network: "GraphModule") -> dict[str, str]:
        """Layers and tensors of the FP32 network that have another name in the network made from it: that name."""
        module = self.entry.load()
        return module.names(trained, network) if hasattr(module, "names") else {}

    def keep_scales(self, smaller: "GraphModule", trained: "GraphModule", kept: "Mapping[str, Tensor]") -> None:
        """Put the scales that training has learned in `trained` into a network prepared at a smaller shape, in place.

        kept: bool [c_out] of each layer that lost output channels, by name. A no-op where scales aren't learned.
        """
        module = self.entry.load()
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
            masters[name] = state[f"{names[layer]}.{tensor}" if layer in names else names.get(name, name)]
        return masters


def get_precision(name: str, first_last_bits: int | None = 8, layer_bits: Mapping[str, int] | None = None) -> Precision:
    """The format called `name` (or its alias).

    first_last_bits: width of the first and last layers' weights and inputs in the w*a* and mixed formats; None gives
    them the format's own widths. The other formats have one width throughout. layer_bits: widths that a mixed format
    has chosen already, for the network at hand; without them, Precision.choose comes first.

    Raises UserError on an unknown name or a width outside 2..8.
    """
    entry = PRECISIONS.get(name)
    given = {"first_last_bits": first_last_bits, "layer_bits": layer_bits or {}}
    filled = fill(f"precision {entry.name}", given, _OPTIONS)
    return Precision(entry, {**entry.fixed, **{option: filled[option] for option in entry.options}})
