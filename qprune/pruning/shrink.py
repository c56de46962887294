"""Physical removal: a network whose masked channels are gone, and its rebuilding from the widths alone."""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qprune.networks.layers import conv_like, frozen_as
from qprune.pruning.gates import remove_gates
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.labels import SLICEABLE, is_depthwise


def shrink(network: fx.GraphModule, groups: ChannelGroups, alive: Tensor) -> fx.GraphModule:
    """A smaller copy of the network, without gates and without the maps that are not alive.

    alive: bool [groups.total]. In eval mode the copy's outputs are those of the masked network.
    """
    smaller, device = copy.deepcopy(network), next(network.parameters()).device
    remove_gates(smaller)
    kept: dict[tuple[str, str], Tensor] = {}  # (layer, side) -> bool [channels]
    for member in groups.members:
        module = network.get_submodule(member.layer)
        keep = kept.setdefault((member.layer, member.side), torch.ones(_widths(module)[member.side], dtype=torch.bool))
        keep[member.positions] &= alive.cpu()[member.maps]
    for name in {layer for layer, _ in kept}:
        module = network.get_submodule(name)
        resized = _sliced(module, kept.get((name, "out")), kept.get((name, "in")))
        smaller.set_submodule(name, resized.to(device).train(module.training))
    return smaller


def layer_widths(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """(channels in, channels out) of every layer that pruning can cut, by name: what rebuilding needs to know.

    Of grouped convolutions and group normalisation also the number of groups.
    """
    return {name: _size(module) for name, module in network.named_modules() if isinstance(module, SLICEABLE)}


def resize(network: fx.GraphModule, widths: dict[str, tuple[int, ...]]) -> fx.GraphModule:
    """A copy of the network with layers of the given widths and untrained weights, for loading a saved state into."""
    resized = copy.deepcopy(network)
    for name, size in widths.items():
        module = network.get_submodule(name)
        if tuple(size) not in (
            _size(module),
            _size(module)[:2],
        ):  # two: as they were noted of grouped convolutions once
            resized.set_submodule(name, _empty_like(module, *size).train(module.training))
    return resized


def _size(module: nn.Module) -> tuple[int, ...]:
    widths, groups = _widths(module), _groups(module)
    return (widths["in"], widths["out"]) if groups is None else (widths["in"], widths["out"], groups)


def _groups(module: nn.Module) -> int | None:
    """Into how many groups its channels are parted; None: they aren't."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, nn.Conv2d) and module.groups > 1 else None


def _widths(module: nn.Module) -> dict[str, int]:
    if isinstance(module, nn.Conv2d):
        return {"in": module.in_channels, "out": module.out_channels}
    if isinstance(module, nn.Linear):
        return {"in": module.in_features, "out": module.out_features}
    if isinstance(module, nn.PReLU):
        return {"in": module.num_parameters, "out": module.num_parameters}
    if isinstance(module, nn.GroupNorm):
        return {"in": module.num_channels, "out": module.num_channels}
    assert isinstance(module, (_BatchNorm, nn.InstanceNorm2d))
    return {"in": module.num_features, "out": module.num_features}


def _empty_like(module: nn.Module, channels_in: int, channels_out: int, groups: int | None = None) -> nn.Module:
    """An untrained layer of other widths, its parameters frozen where the layer's are."""
    new: nn.Module
    if isinstance(module, nn.Conv2d):
        groups = groups or (channels_out if is_depthwise(module) else 1)
        new = conv_like(module, channels_in, channels_out, groups)
    elif isinstance(module, nn.Linear):
        new = nn.Linear(channels_in, channels_out, bias=module.bias is not None)
    elif isinstance(module, nn.PReLU):
        new = type(module)(channels_out)
    elif isinstance(module, nn.GroupNorm):
        new = nn.GroupNorm(groups or module.num_groups, channels_out, module.eps, module.affine)
    else:
        assert isinstance(module, (_BatchNorm, nn.InstanceNorm2d))
        how = module.momentum, module.affine, module.track_running_stats
        new = type(module)(channels_out, module.eps, *how)  # type: ignore[arg-type]  # momentum may be None in either
    return frozen_as(module, new)


def _sliced(module: nn.Module, keep_out: Tensor | None, keep_in: Tensor | None) -> nn.Module:
    """A copy of the layer with only the channels to keep; None keeps all."""
    widths, groups = _widths(module), _groups(module) or 1
    keep_out = torch.ones(widths["out"], dtype=torch.bool) if keep_out is None else keep_out
    one_for_one = is_depthwise(module) or not isinstance(module, (nn.Conv2d, nn.Linear))
    keep_in = keep_out if one_for_one else torch.ones(widths["in"], dtype=torch.bool) if keep_in is None else keep_in
    blocks_out, blocks_in = keep_out.view(groups, -1), keep_in.view(groups, -1)
    left = blocks_out.any(1)  # of groups, which are left
    smaller = _empty_like(module, int(keep_in.sum()), int(keep_out.sum()), int(left.sum()) if groups > 1 else None)
    state = {}
    for name, tensor in module.state_dict().items():
        if tensor.dim() == 0:  # BN's count of batches
            state[name] = tensor
            continue
        state[name] = tensor[keep_out.to(tensor.device)]
        if name == "weight" and not one_for_one:
            reads = blocks_in.repeat_interleave(blocks_out.shape[1], 0)[keep_out].to(tensor.device)  # each row's own
            each = int(blocks_in[left][0].sum())
            state[name] = state[name][reads].view(len(reads), each, *tensor.shape[2:])
    smaller.load_state_dict(state)
    return smaller
