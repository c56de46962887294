"""FP32: the network itself."""

import copy

from torch import Tensor
from torch.fx import GraphModule


def prepare(network: GraphModule, calibration: Tensor | None) -> GraphModule:
    """A copy of the network."""
    return copy.deepcopy(network)


def finish(trained: GraphModule) -> GraphModule:
    """A copy in eval mode."""
    return copy.deepcopy(trained).eval()
