"""What qprune is compared with in compare_peers.py: kinds of stages, methods and formats of their own."""

from qprune.precision import PRECISIONS, PrecisionEntry
from qprune.registry import Entry
from qprune.settings.methods import METHODS, Method
from qprune.stages import KINDS

ENTRIES = {
    KINDS: (
        Entry("torch_pruning", f"{__name__}.torch_pruner:TorchPrune"),
        Entry("same_shape", f"{__name__}.same_shape:SameShape"),
    ),
    METHODS: (
        Method("torch_pruning", f"{__name__}.torch_pruner:torch_pruning", ranks=False),
        Method("same_shape", f"{__name__}.same_shape:same_shape"),
        Method("same_shape_torch_pruning", f"{__name__}.same_shape:same_shape_torch_pruning", ranks=False),
    ),
    PRECISIONS: tuple(
        PrecisionEntry(
            f"brevitas_w{bits}a{bits}", f"{__name__}.stock_brevitas", bits=(bits, bits), fixed={"bits": bits},
            layers="brevitas", weights="integer",
        )
        for bits in (8, 4)
    ),
}  # fmt: skip


def register() -> None:
    """Make them known to this process."""
    for registry, entries in ENTRIES.items():
        for entry in entries:
            registry.add(entry)
