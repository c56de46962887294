"""What qprune is compared with in compare_peers.py: kinds of stages, methods and formats of their own."""

from qprune.precision import PRECISIONS, PrecisionEntry
from qprune.registry import Entry
from qprune.settings.methods import METHODS, Method
from qprune.stages import KINDS

ENTRIES = {
    KINDS: (
        Entry("torch_pruning", f"{__name__}.torch_pruner:TorchPrune"),
    ),
    METHODS: (
        Method("torch_pruning", f"{__name__}.torch_pruner:torch_pruning", ranks=False),
        Method("narrower_alone", f"{__name__}.narrower_alone:narrower_alone", ranks=False, from_scratch=True),
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
