"""The choice of lambda by the folds' losses: that of the least mean loss, over folds and ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.stages.base import Result, Stage, stage_input

if TYPE_CHECKING:
    from qprune.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class ChooseLambda(Stage):
    """{"lambda": the chosen one, "curve": [{"lambda", "ratio", "fold", "loss"}]}. folds: the stages, in their order."""

    kind = "lambda"
    version = 1
    networks_kept = 0

    folds: tuple[str, ...] = stage_input()

    def compute(self, work: Work) -> Result:
        curve = [
            {"lambda": float(number), "ratio": float(ratio), "fold": fold, "loss": loss}
            for fold, name in enumerate(self.folds)
            for number, ratios in work.store.meta(name)["losses"].items()
            for ratio, loss in ratios.items()
        ]
        return {"lambda": best_lambda(curve), "curve": curve}, None


def best_lambda(curve: list[dict]) -> float:
    """The lambda of the least mean loss over all folds and ratios; of equal ones the smallest."""
    totals: dict[float, float] = {}
    for point in curve:
        totals[point["lambda"]] = totals.get(point["lambda"], 0.0) + point["loss"]
    return min(sorted(totals), key=totals.__getitem__)
