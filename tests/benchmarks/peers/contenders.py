"""Who is compared: each with the best of the schedules that it can have, chosen on seeds of their own."""

from dataclasses import dataclass

from .torch_pruner import RATIOS

EARLY, RESTART, COSINE = "protocol=early", "protocol=restart", "protocol=classic"
PRUNED = (EARLY, RESTART)  # when a rate falls: over F alone, or over F after a path at a fifth
FROM_SCRATCH = (EARLY, COSINE)  # late, or from the first update on (what a network from scratch has under classic)
RATES = (1.0, 2.0, 0.5)  # times the file's


@dataclass(frozen=True)
class Contender:
    """overrides: of the sweep file; method, criterion: of its rows; protocols: those that it may choose from."""

    name: str
    overrides: tuple[str, ...]
    protocols: tuple[str, ...]
    method: str = "prune_first"


def pruned(name: str, criterion: str, normalize: str, *others: str) -> Contender:
    return Contender(
        name, (f"prune.criterion={criterion}", f"prune.normalize={normalize}", "order=prune_first", *others), PRUNED
    )


def contenders(normalize: str) -> tuple[Contender, ...]:
    """All of them, qprune's first; normalize: how layers compete in qprune's."""
    return (
        pruned("qprune", "taylor", normalize),
        Contender("narrower", ("order=narrower_alone",), FROM_SCRATCH, "narrower_alone"),
        pruned("random, over layers", "random", "none"),
        pruned("random, in layers", "random", "layer"),
        Contender(
            "Torch-Pruning + Brevitas",
            ("order=torch_pruning", "prune.of=maps", f"prune.ratios={list(RATIOS)}", "prune.until=0.95"),
            PRUNED,
            "torch_pruning",
        ),
        Contender("unpruned", ("order=narrower_alone", "prune.ratios=0"), FROM_SCRATCH, "narrower_alone"),
        Contender("classic", ("prune.criterion=taylor", "prune.normalize=l2", "order=prune_first"), (COSINE,)),
    )
