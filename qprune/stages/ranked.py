"""What the ranking's stages have in common: each begins with a dense network, watched and measured in eval mode, where
examples are independent of each other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qprune.data import Dataset, Split
from qprune.data.base import first_of_train
from qprune.pruning.gated import GatedNetwork
from qprune.stages.base import Cut, DataStage, stage_input
from qprune.stages.work import Work
from qprune.training import evaluate


@dataclass(frozen=True, kw_only=True)
class RankedStage(DataStage):
    """A stage about the maps of one dense network."""

    cut: Cut
    dense: str = stage_input()

    def gated(self, work: Work) -> tuple[GatedNetwork, Dataset]:
        """The dense network with gates on all its maps, and the data set."""
        spec, network = work.load_fp32(self.dense)
        return GatedNetwork(network, spec.image_shape, self.cut.linear, self.cut.ignore), work.data(self)


def fixed_images(data: Dataset, count: int) -> Split:
    """The training images that the oracle and the removals are measured on, the same for every seed."""
    device = data.train.labels.device
    whole = data.train.to(torch.device("cpu"))
    return first_of_train(whole, min(count, len(whole))).to(device)


def loss_without(gated: GatedNetwork, removed: Tensor, split: Split) -> float:
    """The mean loss on a split when these maps (bool [maps]) are switched off; afterwards all are on again."""
    gated.mask(~removed)
    loss = evaluate(gated.network, split).loss
    gated.mask(torch.ones_like(removed))
    return loss


def passes(images: int, batch_size: int) -> int:
    """How many updates a forward pass over so many images is reckoned as, for the progress bar."""
    return max(images // (3 * batch_size), 1)
