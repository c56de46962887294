"""Evaluation: accuracy and cost of the network that is handed over."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.stages.base import DataStage, Result, stage_input
from qprune.storage.store import Store

if TYPE_CHECKING:
    from qprune.cost import Cost
    from qprune.stages.work import Work

TOTALS = (
    "macs", "gflops", "bit_gflops", "linear_gflops", "gbops", "gbops_acc", "params", "weight_bytes", "weight_bits_bytes",
    "stored_bytes", "peak_activation_bytes",
)  # fmt: skip
# Counted in the network that is handed over; the others in the trained one.
OF_FINISHED = ("weight_bytes", "weight_bits_bytes", "stored_bytes", "peak_activation_bytes")


@dataclass(frozen=True, kw_only=True)
class Evaluate(DataStage):
    """The source's network as it is handed over, on all validation and test images."""

    kind = "evaluate"
    version = 3
    networks_kept = 0
    evaluates = True
    ends_cell = True

    source: str = stage_input()

    @property
    def continues(self) -> str:
        return self.source

    def is_there(self, store: Store) -> bool:
        """Whether it is done, and of the very network that is there now."""
        return super().is_there(store) and store.is_of(self.id, self.source)

    def compute(self, work: Work) -> Result:
        import torch

        from qprune.cost import count_cost
        from qprune.stages.work import classes, evaluations

        spec = work.spec(self.source)
        trained = spec.load_trained(work.store.tensors(self.source)).eval()
        cost = count_cost(trained, spec.image_shape)
        network = spec.number_format.finish(trained).eval()
        device = torch.device("cpu") if spec.number_format.entry.cpu_only else work.device
        data = work.data(self, device)
        report = evaluations(network.to(device), data, classes) | {"class_names": list(map(str, data.class_names))}
        finished = count_cost(network, spec.image_shape)
        handed_over = {name: getattr(finished, name) for name in OF_FINISHED}
        return {**report, "network": spec.to_json(), "cost": cost_as_dict(cost) | handed_over}, None


def cost_as_dict(cost: Cost) -> dict:
    """A cost as plain JSON: the totals, and each layer under "layers"."""
    layers = [dataclasses.asdict(layer) for layer in cost.layers]
    return {name: getattr(cost, name) for name in TOTALS} | {"layers": layers}
