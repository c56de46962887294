"""Weights that are computed from other parameters (weight_norm, spectral_norm ...) as plain ones of the same values.

A plain weight can be cut, rounded, counted and saved; one that is computed is a different tensor at each forward.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_OWN = ("_parameters", "_buffers", "_modules", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


def with_plain_weights(network: fx.GraphModule) -> None:
    """Replaces layers whose weights are computed by ones with these weights, in place; the layers stay as they are."""
    plain: dict[nn.Module, nn.Module] = {}
    for place, module in list(network.named_modules(remove_duplicate=False)):
        if _computed(module):
            network.set_submodule(place, plain.setdefault(module, _plain(module)))


def _hooks(module: nn.Module) -> dict[int, WeightNorm | SpectralNorm]:
    """The older form: a hook before each forward that computes the weight."""
    hooks = module._forward_pre_hooks.items()
    return {key: hook for key, hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))}


def _computed(module: nn.Module) -> list[str]:
    """The names of a module's tensors that are computed from parameters of its own."""
    newer = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    return newer + [hook.name for hook in _hooks(module).values()]


@torch.no_grad()
def _plain(module: nn.Module) -> nn.Module:
    """The layer with its computed tensors, as they are in eval mode, as parameters; it shares the others."""
    kind: type[nn.Module] = parametrize.type_before_parametrizations(module)
    plain = kind.__new__(kind)  # neither form can be copied
    plain.__dict__ = {**module.__dict__, **{name: OrderedDict(module.__dict__[name]) for name in _OWN}}
    computed: dict[str, tuple[Tensor, bool]] = {}
    training = module.training
    module.eval()  # a spectral norm's vectors move while training
    for key, hook in _hooks(module).items():
        sources = [
            tensor for name, tensor in module.named_parameters(recurse=False) if name.startswith(f"{hook.name}_")
        ]
        hook(module, None)
        computed[hook.name] = getattr(module, hook.name), any(tensor.requires_grad for tensor in sources)
        del plain._forward_pre_hooks[key]
        for tensors in (plain._parameters, plain._buffers):
            for name in [name for name in tensors if name.startswith(f"{hook.name}_")]:
                del tensors[name]
        plain.__dict__.pop(hook.name, None)
    if parametrize.is_parametrized(module):
        for name, sources in module.parametrizations.items():  # type: ignore[union-attr, operator]
            computed[name] = getattr(module, name), any(tensor.requires_grad for tensor in sources.parameters())
        del plain._modules["parametrizations"]
    module.train(training)
    plain._state_dict_hooks.clear()
    plain._load_state_dict_pre_hooks.clear()
    for name, (tensor, trained) in computed.items():
        plain.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=trained))
    return plain


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A saved state with the length and direction of each weight_norm (either form) made the weight of the layer."""
    plain = dict(tensors)
    for name in tensors:
        layer, newer, rest = name.rpartition(".parametrizations.")
        if newer and rest.endswith(".original0") and name[:-1] + "1" in plain:
            length, direction, weight = name, name[:-1] + "1", f"{layer}.{rest.removesuffix('.original0')}"
        elif name.endswith("_g") and name[:-1] + "v" in plain:
            length, direction, weight = name, name[:-1] + "v", name.removesuffix("_g")
        else:
            continue
        plain[weight] = _normed(plain.pop(length), plain.pop(direction))
    return plain


def _normed(length: Tensor, direction: Tensor) -> Tensor:
    """length x direction / |direction|, a norm for each element of length: 1 along the dimensions it is over."""
    over = [place for place, size in enumerate(length.shape) if size == 1]
    return direction * (length / torch.linalg.vector_norm(direction, dim=over, keepdim=True))
