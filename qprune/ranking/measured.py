"""Finished stages -> what was measured of one dense network."""

from dataclasses import dataclass

import numpy as np

from qprune.pruning.groups import ChannelGroups
from qprune.pruning.sets import pruned_set, quadrants
from qprune.ranking.plan import Ranked, RemovedSet
from qprune.stages.score import GRADIENT
from qprune.storage.store import Store


@dataclass(frozen=True)
class Measured:
    """One dense network. All vectors are over its maps, as float64 or int64 [maps].

    scores: criterion -> raw scores; rankings: criterion -> l2-normalised over layers; oracle: signed change of the mean
    loss; quadrant: place in QUADRANTS; sets: share -> criterion -> bool [maps], removed; removals: each with its
    report {"maps", "removed", "losses"}; left_out: criterion -> why it has no scores.
    """

    model: str
    data: str
    seed: int
    groups: ChannelGroups
    scores: dict[str, np.ndarray]
    rankings: dict[str, np.ndarray]
    oracle: np.ndarray
    quadrant: np.ndarray
    sets: dict[float, dict[str, np.ndarray]]
    removals: tuple[tuple[RemovedSet, dict], ...]
    left_out: dict[str, str]
    val_accuracy: float

    @property
    def title(self) -> str:
        return f"{self.model} on {self.data}, seed {self.seed}"

    @property
    def layer(self) -> list[str]:
        """The layer of each map."""
        return [layer.name for layer in self.groups.layers for _ in range(layer.start, layer.stop)]


def read_network(ranked: Ranked, store: Store) -> Measured | None:
    """What was measured of a network; None while the oracle, a removal or what they need is missing.

    A criterion whose stage failed is left out.
    """
    needed = [*ranked.oracle, *(removal.stage for removal in ranked.removals)]
    if not all(store.done(name) for name in needed):
        return None
    import torch

    tensors, left_out = {}, {}
    for label, name in ranked.scores.items():
        if not store.done(name):
            left_out[label] = (store.failure(name) or {"reason": "it was not computed"})["reason"]
        elif reason := store.meta(name)["left_out"]:
            left_out[label] = reason
        else:
            tensors[label] = store.tensors(name)
    places = quadrants(tensors["activation"]["scores"], tensors[GRADIENT]["scores"], ranked.groups)
    sets = {}
    for share in sorted({removal.share for removal in ranked.removals if removal.start != "none"}):
        sets[share] = {
            name: pruned_set(tensors[name]["ranking"], ranked.groups, share, ranked.min_channels).numpy()
            for name in ("taylor", "activation")
        }
    return Measured(
        ranked.model,
        ranked.data,
        ranked.seed,
        ranked.groups,
        {label: both["scores"].numpy() for label, both in tensors.items()},
        {label: both["ranking"].numpy() for label, both in tensors.items()},
        torch.cat([store.tensors(name)["changes"] for name in ranked.oracle]).numpy(),
        places.numpy(),
        sets,
        tuple((removal, store.meta(removal.stage)) for removal in ranked.removals),
        left_out,
        store.meta(ranked.dense)["val"]["accuracy"],
    )
