"""The oracle: what the loss really does when one map is switched off."""

from dataclasses import dataclass

import torch

from qprune.stages.base import Result
from qprune.stages.ranked import RankedStage, fixed_images, loss_without, passes
from qprune.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class Oracle(RankedStage):
    """The change of the mean training loss when one map is switched off, for the maps start .. stop-1: float64.

    Molchanov et al. (ICLR 2017), Sec. 2.2 "Oracle pruning"; the signed change is oracle-loss.
    """

    kind = "oracle"
    version = 1

    oracle_images: int
    batch_size: int
    start: int
    stop: int

    @property
    def work(self) -> int:
        return (self.stop - self.start) * passes(self.oracle_images, self.batch_size)

    def compute(self, work: Work) -> Result:
        gated, data = self.gated(work)
        split = fixed_images(data, self.oracle_images)
        base = loss_without(gated, torch.zeros(gated.groups.total, dtype=torch.bool), split)
        changes = []
        for number in range(self.start, self.stop):
            changes.append(loss_without(gated, torch.arange(gated.groups.total) == number, split) - base)
            work.partial.tick(passes(len(split), self.batch_size))
        return {"loss": base, "images": len(split)}, {"changes": torch.tensor(changes, dtype=torch.float64)}
