"""The dense network, with gates, at the cell's precision: what a path under fake quantisation begins with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qprune.stages.base import Cut, Phase, Result
from qprune.stages.quantize import QuantizingStage

if TYPE_CHECKING:
    from qprune.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class QuantizeDense(QuantizingStage):
    """Scales from a calibration batch, then Q updates. cut: as the path's, for gates stay where they are."""

    kind = "quantize_dense"
    version = 1

    cut: Cut

    @property
    def phases(self) -> tuple[Phase, ...]:
        return tuple(dataclasses.replace(phase, whole=True) for phase in super().phases)

    def compute(self, work: Work) -> Result:
        from qprune.pruning.quantized import QuantizedGatedNetwork
        from qprune.stages.work import calibration_images

        data, (spec, network) = work.data(self), work.load_fp32(self.source)
        images = calibration_images(data, self.seed)
        gated = QuantizedGatedNetwork(
            network, spec.image_shape, self.number_format.get(), images, self.cut.linear, self.cut.ignore
        )
        gated.network.to(work.device)
        self._train(gated.network, data, work)
        return {"network": spec.to_json()}, gated.network.state_dict()
