"""Batch normalisation's scale: Liu et al., ICCV 2017, "Learning efficient convolutional networks through network slimming"."""

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qprune.pruning.criteria.base import StaticCriterion
from qprune.pruning.groups import ChannelGroups
from qprune.registry.errors import UserError


class BnGamma(StaticCriterion):
    """Theta = |gamma| of the BN behind the map; the mean over its BNs, where maps are coupled.

    The ranking of the paper, without its l1 penalty on gamma in training: what is trained here has none. Raises
    UserError naming a layer whose maps no BN with a scale follows.
    """

    def check(self, network: fx.GraphModule, groups: ChannelGroups) -> None:
        _, counts = _sums(network, groups)
        for layer in groups.layers:
            if (counts[layer.start : layer.stop] == 0).any():
                raise UserError(
                    f"criterion bn_gamma: no batch normalisation with a scale follows layer {layer.name!r}; "
                    "take another criterion, or add the layer to prune.ignore"
                )

    def scores(self, network: nn.Module, groups: ChannelGroups, alive: Tensor, generator: torch.Generator) -> Tensor:
        sums, counts = _sums(network, groups)
        return sums / counts


def _sums(network: nn.Module, groups: ChannelGroups) -> tuple[Tensor, Tensor]:
    """The sum of |gamma| over each map's BN channels, and their number: float [maps] each."""
    device = next(network.parameters()).device
    sums, counts = torch.zeros(2, groups.total, device=device)
    for member in groups.members:
        module = network.get_submodule(member.layer)
        if isinstance(module, _BatchNorm) and module.weight is not None:
            gammas = module.weight.detach().abs()[member.positions.to(device)]
            maps = member.maps.to(device)
            sums.index_add_(0, maps, gammas)
            counts.index_add_(0, maps, torch.ones_like(gammas))
    return sums, counts
