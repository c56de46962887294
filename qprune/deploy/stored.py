"""What a `torch` file holds of a network: its numbers, as narrow as they are, from which the very network is built again.

masters   fp32, fp16, w*a*: the trained network's tensors; convolutions and linear layers in half where their forward rounds to
          half, their weights as the integers that their quantiser gives where there is one. Rounded again, each is what it was.
integers  int8: the converted network's integer weights, scales and biases; what only training reads (masters, observers,
          ranges) isn't there
Integers of up to 4 bits are two to a byte (qprune.deploy.packed). Neither has num_batches_tracked, which inference never reads.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, fx, nn

from qprune.cost.widths import stored_width, weight_width
from qprune.deploy.packed import pack, unpack
from qprune.networks.operations import is_brevitas
from qprune.networks.torch_ao import IntConv, IntLinear
from qprune.precision.fp16 import HalfConv2d, HalfLinear
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec

UNREAD = ".num_batches_tracked"
NUMBERS = ("scale", "zero_point", "output_scale", "output_zero_point")  # that torch.ao's modules keep as plain numbers


@dataclass(frozen=True)
class Stored:
    """How a file's tensors are to be read.

    packed: weight -> its bits and shape, where its tensor is uint8 with several integers to a byte; numbers: of the converted
    network's modules; activations: the integers that its activations use, None for masters.
    """

    packed: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    activations: tuple[int, int] | None = None

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> "Stored":
        packed = {name: (bits, tuple(shape)) for name, (bits, shape) in values["packed"].items()}
        activations = None if values["activations"] is None else tuple(values["activations"])
        return cls(packed, values["numbers"], activations)


def store(network: fx.GraphModule, trained: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Stored]:
    """The tensors of a file, and how they are read. network: as it was evaluated; trained: the tensors it was made from."""
    if "activation_range" in network.meta:
        return _integers(network)
    tensors = {name: tensor for name, tensor in trained.items() if not name.endswith(UNREAD)}
    packed = {}
    for place, layer in network.named_modules(remove_duplicate=False):
        weight = f"{place}.weight"
        if isinstance(layer, (HalfConv2d, HalfLinear)):
            tensors |= {f"{place}.{name}": one.detach().half() for name, one in layer.named_parameters(recurse=False)}
        elif is_brevitas(layer) and hasattr(layer, "weight_quant") and weight_width(layer) <= 8:
            integers, bits = _rounded(layer), stored_width(weight_width(layer))
            if bits < 8:
                packed[weight] = (bits, tuple(integers.shape))
                integers = torch.from_numpy(pack(integers.numpy(), bits))
            tensors[weight] = integers
    return tensors, Stored(packed)


def restore(spec: NetworkSpec, tensors: dict[str, Tensor], stored: Stored) -> fx.GraphModule:
    """The network that `store` was given, in eval mode: the same logits, bit for bit. Raises UserError where tensors lack."""
    trained = spec.number_format.prepare(spec.build(), None)
    if stored.activations is not None:
        return _with_integers(spec, trained, tensors, stored)
    own = trained.state_dict()
    values = {name: tensor for name, tensor in own.items() if name.endswith(UNREAD)} | tensors
    for place, layer in trained.named_modules(remove_duplicate=False):
        weight = f"{place}.weight"
        if is_brevitas(layer) and weight in values and not values[weight].is_floating_point():
            integers = values[weight]
            if weight in stored.packed:
                integers = torch.from_numpy(unpack(integers.numpy(), *stored.packed[weight]))
            scale = values[f"{place}.weight_quant.tensor_quant.scale"]
            values[weight] = integers.float() * scale.abs().clamp_min(_least_scale())
    _check_names(values, own)
    trained.load_state_dict(values)
    return spec.number_format.finish(trained).eval()


def _least_scale() -> float:
    from qprune.precision.lsq import MIN_SCALE

    return MIN_SCALE


@torch.no_grad()
def _rounded(layer: nn.Module) -> Tensor:
    """The integers of a Brevitas layer's weights, int8."""
    quantized, step, _, _ = layer.weight_quant.tensor_quant(layer.weight)  # type: ignore[operator, union-attr]
    return (quantized.double() / step).round().to(torch.int8)


def _check_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if missing := sorted(own.keys() ^ given.keys()):
        raise UserError(f"the file's tensors are not those of its network: {missing[0]} is only in one of them")


# int8 -------------------------------------------------------------------------------------------------------------------


def _layers(network: fx.GraphModule) -> dict[str, nn.Module]:
    """Integer layers by name."""
    named = network.named_modules(remove_duplicate=False)
    return {place: layer for place, layer in named if isinstance(layer, (IntConv, IntLinear))}


def _others(network: fx.GraphModule) -> dict[str, Tensor]:
    """The tensors that are no integer layer's, by name; they are the network's own."""
    inside = tuple(f"{place}." for place in _layers(network))
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(inside) and not name.endswith(UNREAD)
    }


def _integers(network: fx.GraphModule) -> tuple[dict[str, Tensor], Stored]:
    tensors = _others(network)
    for place, layer in _layers(network).items():
        weight, bias = layer._weight_bias()  # type: ignore[operator]
        tensors[f"{place}.weight"] = weight.int_repr()
        tensors[f"{place}.weight_scale"] = _scales(weight)
        if bias is not None:
            tensors[f"{place}.bias"] = bias.detach()
    numbers = {
        f"{place}.{name}": value
        for place, module in network.named_modules(remove_duplicate=False)
        for name, value in vars(module).items()
        if name in NUMBERS and isinstance(value, (int, float))
    }
    return tensors, Stored(numbers=numbers, activations=network.meta["activation_range"])


def _scales(weight: Tensor) -> Tensor:
    """Of an integer weight with zero points 0: [channels] or []; float32 unless that would round them."""
    if weight.qscheme() == torch.per_tensor_affine:
        scales = torch.tensor(weight.q_scale(), dtype=torch.float64)
    else:
        scales = weight.q_per_channel_scales()
    return scales.float() if bool((scales.float().double() == scales).all()) else scales


def _with_integers(spec: NetworkSpec, trained: fx.GraphModule, tensors: dict[str, Tensor], stored: Stored):
    """The converted form of a network that nothing has trained, with the stored numbers in place of its own."""
    from qprune.precision.torch_ao import engine, use_integers

    assert stored.activations is not None
    use_integers(trained, stored.activations)
    network = spec.number_format.finish(trained).eval()
    others, layers = _others(network), _layers(network)
    wanted = {*others, *(f"{place}.{name}" for place in layers for name in ("weight", "weight_scale"))}
    biases = {f"{place}.bias" for place, layer in layers.items() if layer._weight_bias()[1] is not None}  # type: ignore[operator]
    _check_names(tensors, dict.fromkeys(wanted | biases, torch.empty(0)))
    for name, tensor in others.items():
        tensor.copy_(tensors[name])
    with engine():
        for place, layer in layers.items():
            weight = _quantized(tensors[f"{place}.weight"], tensors[f"{place}.weight_scale"])
            layer.set_weight_bias(weight, tensors.get(f"{place}.bias"))  # type: ignore[operator]
    for name, value in stored.numbers.items():
        place, _, number = name.rpartition(".")
        setattr(network.get_submodule(place), number, value)
    return network


def _quantized(integers: Tensor, scales: Tensor) -> Tensor:
    """An integer weight with zero points 0, per channel in dimension 0 or per tensor."""
    if scales.dim() == 0:
        return torch._make_per_tensor_quantized_tensor(integers, float(scales), 0)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
