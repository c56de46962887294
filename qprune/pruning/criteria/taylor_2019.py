"""Taylor expansion in the parameters: Molchanov et al., CVPR 2019, "Importance estimation for neural network pruning"."""

import torch
from torch import Tensor, nn

from qprune.pruning.criteria.base import GradientCriterion
from qprune.pruning.groups import ChannelGroups


class Taylor2019(GradientCriterion):
    """Theta = mean over minibatches of the sum of |w dC/dw| over the parameters w that make the map.

    These are the kernel and bias of its convolution and its BN's scale and shift (of all of them, where maps are
    coupled; a linear layer's row of weights with prune.linear); the layers that read it don't count. C is the
    minibatch's mean loss. The variant: first-order, each parameter's importance by itself (the paper's Sec. 3) and
    then the sum over the set, with |w g| in the place of (w g)^2, as in Torch-Pruning. The paper's other form, the
    square of the set's signed sum, vanishes for a kernel in front of a train-mode BN, whose output doesn't depend
    on the kernel's length. Not a mean over examples of their own size: it depends on the batch size.
    """

    def per_batch(self, network: nn.Module, groups: ChannelGroups, gradients: dict[str, Tensor]) -> Tensor:
        device = next(network.parameters()).device
        scores = torch.zeros(groups.total, device=device)
        for member in groups.members:
            if member.side != "out":
                continue
            for name, parameter in network.get_submodule(member.layer).named_parameters(recurse=False):
                gradient = gradients[f"{member.layer}.{name}"]
                sizes = (parameter.detach() * gradient).abs().reshape(len(parameter), -1).sum(1)  # [channels]
                scores.index_add_(0, member.maps.to(device), sizes[member.positions.to(device)])
        return scores
