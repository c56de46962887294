"""w{2..8}a{2..8}: quantisation-aware training of Brevitas layers, placed by a pass over the network's graph.

Every Conv2d and Linear becomes a Brevitas layer with per-channel weight scales, and every distinct tensor that
arrives at one is quantised once, where it arrives (after pooling); all its users see the quantised one. Layers
exchange plain float tensors: a residual add is a float add of quantised values. Biases and batch normalisation
stay in float. Scales are learned (qprune.precision.lsq), but for that of the network's input: images don't change,
and the first layer's backward pass needs no gradient of its input.
"""

import copy
from collections.abc import Mapping

import torch
from brevitas import nn as qnn
from torch import Tensor, fx, nn

from qprune.networks.gate import Gate
from qprune.networks.graph import insert_behind, layer_of, module_of, operation_of, source_of
from qprune.networks.layers import frozen_as
from qprune.precision.lsq import ActQuant, LearnedScaleQuant, WeightQuant, hand_on_plain_tensors
from qprune.registry.errors import UserError


def is_non_negative(node: fx.Node) -> bool:
    """Whether the node's values can't be negative: an activation of that range, or what pools or joins such."""
    operation = operation_of(node)
    if operation.non_negative:
        return True
    numbers = [v for v in (*node.args, *node.kwargs.values()) if isinstance(v, (int, float))]
    shifted = any(number < 0 for number in numbers)  # x + (-3)
    return operation.keeps_sign and not shifted and all(is_non_negative(source) for source in node.all_input_nodes)


def weight_layers(network: fx.GraphModule) -> list[fx.Node]:
    """The nodes that run a convolution or a linear layer, in the order in which they run."""
    return [node for node in network.graph.nodes if isinstance(module_of(node), (nn.Conv2d, nn.Linear))]


def _quant_layer(layer: nn.Module, bits: int) -> nn.Module:
    """The Brevitas layer with the layer's weights, bias and mode, quantising its weights to `bits`.

    Frozen weights stay frozen; the scales that they are rounded with are learned as others are.
    """
    quant = WeightQuant.let(bit_width=bits)
    common = {"bias": layer.bias is not None, "weight_quant": quant, "return_quant_tensor": False}
    if type(layer) is nn.Conv2d:
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        new = qnn.QuantConv2d(*shape, layer.dilation, layer.groups, layer.padding_mode, **common)
    elif type(layer) is nn.Linear:
        new = qnn.QuantLinear(layer.in_features, layer.out_features, **common)
    else:
        raise UserError(f"{type(layer).__name__} has no Brevitas form here: Conv2d and Linear have.")
    new = new.to(layer.weight.device)
    new.load_state_dict({**new.state_dict(), **layer.state_dict()})
    weight_quantizer_of(new).start_from(new.weight)
    return frozen_as(layer, new).train(layer.training)


_UNSUPPORTED = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose2d, nn.Bilinear, nn.MultiheadAttention, nn.LSTM, nn.GRU)


def prepare(
    network: fx.GraphModule,
    calibration: Tensor | None,
    *,
    weight_bits: int,
    act_bits: int,
    first_last_bits: int | None,
) -> fx.GraphModule:
    """A copy with Brevitas layers and activation quantisers, scales fitted to the weights and the calibration.

    weight_bits, act_bits: widths of the weights, and of the tensors that arrive at layers
    first_last_bits: widths of the first and the last layer, weights and input (None: as the others)
    """
    layers = [layer_of(node) for node in weight_layers(network)]
    widths = dict.fromkeys(layers, (weight_bits, act_bits))
    if first_last_bits is not None and layers:
        widths |= dict.fromkeys((layers[0], layers[-1]), (first_last_bits, first_last_bits))
    return place(network, calibration, widths)


def place(network: fx.GraphModule, calibration: Tensor | None, widths: Mapping[str, tuple[int, int]]) -> fx.GraphModule:
    """A copy whose layers named in widths, layer -> (weights' bits, input's bits), are Brevitas layers; others stay.

    A tensor that several layers read is quantised once, at the widest of their widths. calibration: as for prepare.
    """
    network = copy.deepcopy(network)
    for name, module in network.named_modules():
        if isinstance(module, _UNSUPPORTED):
            raise UserError(
                f"layer {name}: {type(module).__name__} can't be quantised with Brevitas here: Conv2d and Linear can be."
            )
    layers = weight_layers(network)
    if not layers:
        raise UserError("the network has no convolution or linear layer to quantise.")
    first = quantized_at(source_of(layers[0]))
    input_bits: dict[fx.Node, int] = {}  # the widest that a layer asks of the tensor
    for node in layers:
        if layer_of(node) in widths:
            source = quantized_at(source_of(node))
            input_bits[source] = max(widths[layer_of(node)][1], input_bits.get(source, 0))
    for name in dict.fromkeys(layer_of(node) for node in layers if layer_of(node) in widths):
        network.set_submodule(name, _quant_layer(network.get_submodule(name), widths[name][0]))
    for count, (source, bits) in enumerate(input_bits.items()):
        of_images = source is first
        # NOTE a setting of the injector, since Brevitas makes the parameter anew when a state is loaded
        quant = ActQuant.let(bit_width=bits, signed=not is_non_negative(source), learned=not of_images)
        quantizer = qnn.QuantIdentity(act_quant=quant, return_quant_tensor=False)
        quantizer.to(next(network.parameters()).device).train(network.training)
        insert_behind(source, f"quant_{count}", quantizer)
    hand_on_plain_tensors(network, True)
    network.graph.lint()
    network.recompile()
    if calibration is not None:
        calibrate(network, calibration)
    return network


def quantized_at(node: fx.Node) -> fx.Node:
    """The tensor to quantise so that this one is: in front of a gate, which then shows what the layer multiplies.

    Its gradient there is that of the loss by the quantised value; in front of the quantiser it is 0 where the value
    is clamped, though removing a clamped value changes the loss most.
    """
    while isinstance(module_of(node), Gate):
        node = source_of(node)
    return node


def quantizer_of(module: qnn.QuantIdentity) -> LearnedScaleQuant:
    """The quantiser inside a QuantIdentity."""
    return module.act_quant.fused_activation_quant_proxy.tensor_quant


def weight_quantizer_of(layer: qnn.QuantConv2d | qnn.QuantLinear) -> LearnedScaleQuant:
    """The quantiser of a Brevitas layer's weights."""
    return layer.weight_quant.tensor_quant


@torch.no_grad()
def keep_scales(smaller: fx.GraphModule, trained: fx.GraphModule, kept: Mapping[str, Tensor]) -> None:
    """Scales of activations as they are, those of weights for the output channels that are left.

    NOTE Scales fitted anew to a network that was trained behind clamps can be many times the learned ones (a channel
    whose variance has vanished gives values that the clamps had cut off), and at two bits it then never learns again.
    """
    for name, module in smaller.named_modules():
        if isinstance(module, qnn.QuantIdentity):
            quantizer_of(module).scale.copy_(quantizer_of(trained.get_submodule(name)).scale)
        elif isinstance(module, (qnn.QuantConv2d, qnn.QuantLinear)):
            before = weight_quantizer_of(trained.get_submodule(name)).scale
            scale = before[kept[name].to(before.device)] if name in kept else before
            weight_quantizer_of(module).scale.copy_(scale)


class _Calibrate(fx.Interpreter):
    """Runs a network, fitting each activation quantiser to what arrives at it before it quantises that."""

    def call_module(self, target, args, kwargs):
        module = self.fetch_attr(target)
        if isinstance(module, qnn.QuantIdentity):
            quantizer_of(module).start_from(args[0])
        return super().call_module(target, args, kwargs)


@torch.no_grad()
def calibrate(network: fx.GraphModule, images: Tensor) -> Tensor:
    """Fits the activation scales, first to last, on images [n, c, h, w] in 0..1, in eval mode; gives their outputs."""
    training = network.training
    network.eval()
    outputs = _Calibrate(network).run(images)
    network.train(training)
    return outputs


def finish(trained: fx.GraphModule) -> fx.GraphModule:
    """A copy in eval mode, which brevitas.export takes (dynamo=False; the other exporter drops quantised adds)."""
    finished = copy.deepcopy(trained).eval()
    hand_on_plain_tensors(finished, False)
    return finished
