"""int8: torch.ao FX quantisation-aware training, then conversion to torch.ao's integer modules.

Weights: per channel, symmetric, -128..127. Activations: 0..255 where the CPU's kernels bear it, else 0..127,
which are 7 bits and are counted so: fbgemm's kernels without VNNI add pairs of products in 16 bits, which
saturate at full range. torch's default engine, x86, hands convolutions of more than 100 groups to fbgemm even on
a CPU with VNNI (off by 98 of 255 steps where every operand is large), so the onednn engine packs the weights.

What torch.ao has no kernel for is rewritten first, or stays in float (qprune.precision.equal_forms).
torch.ao's graph passes place the quantisers and convert them; while training, its fake quantisers and fused
convolutions are replaced by lean ones that compute the same numbers in fewer passes over the activations.
"""

import copy
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qprune.networks.gate import Gate
from qprune.networks.graph import layer_of, module_of, source_of
from qprune.networks.layers import Pad
from qprune.networks.operations import is_leaf, register_operation
from qprune.networks.torch_ao import (
    BackendConfig,
    BackendPatternConfig,
    ConvBn2d,
    ConvBnReLU2d,
    DTypeConfig,
    FakeQuantize,
    IntGroupNorm,
    IntInstanceNorm2d,
    MinMaxObserver,
    ObservationType,
    PerChannelMinMaxObserver,
    PrepareCustomConfig,
    QConfig,
    QConfigMapping,
    convert_fx,
    get_native_backend_config,
    prepare_qat_fx,
    require_torch_ao,
)
from qprune.precision.equal_forms import (
    IN_FLOAT,
    affine_norms,
    functions_as_layers,
    keep_apart,
    keep_in_float,
    numbers_in_float,
    one_call_each,
    pad_before_convolutions,
    views_as_reshapes,
    without_expand_as,
)
from qprune.registry.errors import UserError

require_torch_ao()

MIN_SCALE = torch.finfo(torch.float32).eps  # torch.ao's own
AVERAGING = 0.01  # weight of a batch's range in the moving range, torch.ao's own


@dataclass(frozen=True)
class Kernels:
    """The integer kernels of this machine: torch's engine, and the integers that it multiplies without saturating."""

    engine: str
    activations: tuple[int, int]
    weights: tuple[int, int]


def kernels() -> Kernels:
    """onednn at full range where the CPU has VNNI; else x86 or fbgemm with 7-bit activations; else qnnpack (ARM)."""
    engines = torch.backends.quantized.supported_engines
    if "onednn" in engines and torch.cpu._is_vnni_supported():
        return Kernels("onednn", (0, 255), (-128, 127))
    for engine in ("x86", "fbgemm"):
        if engine in engines:
            return Kernels(engine, (0, 127), (-128, 127))
    if "qnnpack" in engines:
        return Kernels("qnnpack", (0, 255), (-127, 127))
    raise UserError(f"int8: this build of torch has no integer kernels (engines: {engines}). Leave int8 out.")


def _round(values: Tensor, scale: Tensor | float, low: int, high: int) -> Tensor:
    """clamp(round(values * (1 / scale)), low, high) * scale.

    Multiplied by the reciprocal, as torch's kernels do it: dividing would round ties to the other side now and
    then, and the pixels of one image can all be ties (at a mean of 0.5: pixel k is at k - 127.5 steps).
    """
    return (values * (1 / scale)).round_().clamp_(low, high).mul_(scale)


class _RoundActivations(torch.autograd.Function):
    """_round with gradient 1 where nothing is clamped, else 0."""

    @staticmethod
    def forward(ctx, values: Tensor, scale: float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(values)
        ctx.bounds = ((low - 0.5) * scale, (high + 0.5) * scale)
        return _round(values, scale, low, high)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return torch.ops.aten.hardtanh_backward(gradient, *ctx.saved_tensors, *ctx.bounds), None, None, None


class _RoundWeights(torch.autograd.Function):
    """_round of weights, whose scale follows their range: nothing is clamped, the gradient passes."""

    @staticmethod
    def forward(ctx, weight: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        return _round(weight, scale, low, high)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None, None, None


class _LeanFakeQuantize(FakeQuantize):
    """A torch.ao fake quantiser whose scale and zero point are what its last forward used, also for conversion."""

    def calculate_qparams(self, **kwargs):
        return self.scale, self.zero_point


class ActivationFakeQuantize(_LeanFakeQuantize):
    """Per tensor, over a moving range that moves in train mode only; `calibrating` sets it from one batch.

    The integers 0..quant_max belong to its state: scales that were learned for one range don't fit another.
    calls: how many tensors of a forward pass it sees before its range moves, towards what holds them all
    """

    calibrating = False
    calls = 1
    integers: Tensor

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("integers", torch.tensor([self.quant_min, self.quant_max], dtype=torch.int32))
        self.seen: list[list[float]] = []  # (least, largest) of each call

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.use_integers(*self.integers.tolist())

    def use_integers(self, low: int, high: int) -> None:
        """Round to low..high from now on."""
        self.integers.copy_(torch.tensor([low, high]))
        observer = self.activation_post_process
        for holder in (self, observer):
            holder.quant_min, holder.quant_max = low, high

    def forward(self, values: Tensor) -> Tensor:
        if self.training or self.calibrating:
            self._observe(values.detach())
        if self.calibrating:
            return values
        zero = int(self.zero_point)
        return _RoundActivations.apply(values, float(self.scale), self.quant_min - zero, self.quant_max - zero)

    def _observe(self, values: Tensor) -> None:
        observer = self.activation_post_process
        self.seen.append(torch.stack(torch.aminmax(values)).tolist())
        if len(self.seen) < self.calls:
            return
        low, high = min(low for low, _ in self.seen), max(high for _, high in self.seen)
        self.seen = []
        if not math.isfinite(high - low):
            return  # a diverged network: its loss will tell
        old_low, old_high = float(observer.min_val), float(observer.max_val)
        if old_low <= old_high:  # not the (inf, -inf) of a range that has seen nothing
            low, high = old_low + AVERAGING * (low - old_low), old_high + AVERAGING * (high - old_high)
        observer.min_val.fill_(low)
        observer.max_val.fill_(high)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / (self.quant_max - self.quant_min), MIN_SCALE)
        self.scale.fill_(scale)
        self.zero_point.fill_(min(max(self.quant_min - round(low / scale), self.quant_min), self.quant_max))


class WeightFakeQuantize(_LeanFakeQuantize):
    """Per channel (dimension 0), or per tensor, symmetric, over the weights' present range.

    The largest magnitude becomes 127 steps; torch.ao's 127.5 would make a tie of every channel's largest weight.
    """

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.detach().reshape(1 if self.qscheme == torch.per_tensor_symmetric else len(weight), -1)
        scale = (rows.abs().amax(1) / self.quant_max).clamp_min_(MIN_SCALE)
        if self.scale.shape != scale.shape:
            self.scale.resize_(scale.shape)
            self.zero_point.resize_(scale.shape).zero_()
        self.scale.copy_(scale)
        scale = scale.view(-1, *(1,) * (weight.dim() - 1))
        return _RoundWeights.apply(weight, scale, self.quant_min, self.quant_max)


class LeanConvBn2d(ConvBn2d):
    """torch.ao's fused convolution and batch normalisation, dividing the weights instead of the activations.

    torch.ao: bn(conv(x, Q(w f)) / f), f = gamma / sqrt(running_var + eps) per output channel. A convolution is
    linear in each output channel, so this is bn(conv(x, Q(w f) / f)). A channel with gamma 0 has f = 0, and any
    weights: they count as unscaled, and stay finite.
    """

    def _forward(self, images: Tensor) -> Tensor:
        variance = self.bn.running_var
        assert variance is not None
        factor = (self.bn.weight / (variance + self.bn.eps).sqrt()).detach()
        factor = torch.where(factor == 0, torch.ones_like(factor), factor).view(-1, *(1,) * (self.weight.dim() - 1))
        weight = self.weight_fake_quant(self.weight * factor) / factor
        return self.bn(self._conv_forward(images, weight, self.bias))


class LeanConvBnReLU2d(LeanConvBn2d, ConvBnReLU2d):
    """Likewise, then ReLU."""

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self._forward(images))


class RoundedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that rounds its weights, which torch.ao does when it converts and not in training."""

    qconfig: QConfig
    weight_fake_quant: WeightFakeQuantize

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None and isinstance(self.padding, tuple)
        weight = self.weight_fake_quant(self.weight)
        geometry = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(images, weight, self.bias, *geometry)


class RoundedGroupNorm(IntGroupNorm):
    """Group normalisation of integers, in float: torch's kernel is wrong for groups of few values, and not the same twice."""

    scale: Tensor
    zero_point: Tensor

    def forward(self, values: Tensor) -> Tensor:
        result = F.group_norm(values.dequantize(), self.num_groups, self.weight, self.bias, self.eps)
        return torch.quantize_per_tensor(result, self.scale, self.zero_point, values.dtype)


class RoundedInstanceNorm2d(IntInstanceNorm2d):
    """Likewise, of each map by itself."""

    scale: Tensor
    zero_point: Tensor

    def forward(self, values: Tensor) -> Tensor:
        result = F.instance_norm(values.dequantize(), weight=self.weight, bias=self.bias, eps=self.eps)
        return torch.quantize_per_tensor(result, self.scale, self.zero_point, values.dtype)


_ROUNDED: dict[type[nn.Module], type[nn.Module]] = {
    IntGroupNorm: RoundedGroupNorm,
    IntInstanceNorm2d: RoundedInstanceNorm2d,
}
_LEAN: dict[type[nn.Module], type[nn.Module]] = {
    ConvBn2d: LeanConvBn2d,
    ConvBnReLU2d: LeanConvBnReLU2d,
    nn.ConvTranspose2d: RoundedConvTranspose2d,
}
_FULL = {lean: full for full, lean in _LEAN.items()}


def qconfig(integers: Kernels, per_channel: bool = True) -> QConfig:
    """Symmetric weights, per channel if that is borne, and per-tensor activations, in the integers that kernels bear."""
    activation = ActivationFakeQuantize.with_args(
        observer=MinMaxObserver,
        dtype=torch.quint8,
        quant_min=integers.activations[0],
        quant_max=integers.activations[1],
    )
    weight = WeightFakeQuantize.with_args(
        observer=PerChannelMinMaxObserver if per_channel else MinMaxObserver,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        quant_min=integers.weights[0],
        quant_max=integers.weights[1],
        **({"ch_axis": 0} if per_channel else {}),
    )
    return QConfig(activation=activation, weight=weight)


def _qconfigs(integers: Kernels) -> QConfigMapping:
    """Everything by `qconfig`, but what torch.ao has no kernel for per channel (transposed convolutions), or at all."""
    configs = QConfigMapping().set_global(qconfig(integers))
    configs.set_object_type(nn.ConvTranspose2d, qconfig(integers, per_channel=False))
    for form in IN_FLOAT:
        configs.set_object_type(form, None)
    return configs


def _backend() -> BackendConfig:
    """torch.ao's own, which also knows that padding hands on values in the steps that they have."""
    pad = BackendPatternConfig(Pad).set_observation_type(ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT)
    pad.add_dtype_config(DTypeConfig(input_dtype=torch.quint8, output_dtype=torch.quint8))
    return get_native_backend_config().set_backend_pattern_config(pad)


@contextmanager
def _quiet():
    """Hides torch.ao's announcements that it is deprecated, and that sigmoids and the like have ranges of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="QConfig must specify a FixedQParams", category=UserWarning)
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", message=".*deprecated.*", category=category)
        yield


def prepare(network: GraphModule, calibration: Tensor | None) -> GraphModule:
    """A torch.ao QAT network (convolution and batch normalisation fused), ranges started on the calibration."""
    training = network.training
    network = copy.deepcopy(network).train()
    functions_as_layers(network)
    affine_norms(network)
    numbers_in_float(network)
    one_call_each(network)
    keep_apart(network)
    views_as_reshapes(network)
    without_expand_as(network)
    pad_before_convolutions(network)
    keep_in_float(network)
    network.graph.lint()
    network.recompile()
    # torch.ao would trace into what it doesn't know, and freeze its train mode
    leaves = {type(module) for module in network.modules() if is_leaf(module) or type(module) in IN_FLOAT}
    custom = PrepareCustomConfig().set_non_traceable_module_classes(list(leaves))
    with _quiet():  # the example inputs are unused by this entry point, but must be given
        prepared = prepare_qat_fx(network, _qconfigs(kernels()), (torch.zeros(1),), custom, _backend())
    _quantize_once_at_gates(prepared)
    _one_range_for_a_layer(prepared)
    for module in list(prepared.modules()):
        module.__class__ = _LEAN.get(type(module), type(module))
        if isinstance(module, RoundedConvTranspose2d):
            module.weight_fake_quant = module.qconfig.weight().to(module.weight.device)
    if calibration is not None:
        calibrate(prepared, calibration)
    return prepared.train(training)


def _quantize_once_at_gates(prepared: GraphModule) -> None:
    """Makes gates transparent, in place: torch.ao, which doesn't know them, quantises the tensor on both sides.

    The two fake quantisers become one, wherever each is shared (across pooling, concatenation), and it stands behind
    the gate: a map that is switched off doesn't widen the range. Unmasked, the network computes what it does without
    gates.
    """
    for gate in [node for node in prepared.graph.nodes if isinstance(module_of(node), Gate)]:
        before, after = source_of(gate), [user for user in gate.users if _quantizes(user)]
        kept = module_of(before)
        if not isinstance(kept, ActivationFakeQuantize) or not after:
            continue
        for node in after:
            _replace(prepared, prepared.get_submodule(layer_of(node)), kept)
        gate.replace_input_with(before, source_of(before))
        if not before.users:
            prepared.graph.erase_node(before)
            prepared.delete_submodule(layer_of(before))
    prepared.graph.lint()
    prepared.recompile()


def _one_range_for_a_layer(prepared: GraphModule) -> None:
    """A layer that runs several times gets one quantiser for its results, in place: converted, it has one scale for them."""
    runs: dict[str, list[fx.Node]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module" and not _quantizes(node) and type(module_of(node)) not in IN_FLOAT:
            runs.setdefault(layer_of(node), []).append(node)
    shared = set()
    for nodes in runs.values():
        behind = [module_of(user) for node in nodes for user in node.users]
        quantizers = [module for module in behind if isinstance(module, ActivationFakeQuantize)]
        if len(nodes) > 1 and quantizers:
            for other in quantizers[1:]:
                _replace(prepared, other, quantizers[0])
            shared.add(quantizers[0])
    for quantizer in shared:
        quantizer.calls = sum(module_of(node) is quantizer for node in prepared.graph.nodes)


def _replace(prepared: GraphModule, replaced: nn.Module, kept: nn.Module) -> None:
    """Put one module wherever another is, in place."""
    for name, module in list(prepared.named_modules(remove_duplicate=False)):
        if module is replaced:
            prepared.set_submodule(name, kept)


def _quantizes(node: fx.Node) -> bool:
    return isinstance(module_of(node), ActivationFakeQuantize)


def names(trained: GraphModule, network: GraphModule) -> dict[str, str]:
    """Names in the FP32 network -> in the trained one: of batch normalisation that is fused, of functions' tensors."""
    network = copy.deepcopy(network)
    moved = functions_as_layers(network)
    layers = dict(trained.named_modules())
    for node in network.graph.nodes:
        if not isinstance(module_of(node), (nn.BatchNorm1d, nn.BatchNorm2d)):
            continue
        if node.target not in layers:  # fused into the layer before it
            moved[node.target] = f"{source_of(node).target}.bn"
        elif isinstance(layers[node.target], nn.Sequential):  # (normalisation, ReLU)
            moved[node.target] = f"{node.target}.0"
    return moved


@torch.no_grad()
def calibrate(prepared: GraphModule, images: Tensor) -> None:
    """Sets the activation ranges from images [n, c, h, w] in 0..1, in eval mode; leaves eval mode on."""
    quantizers = [m for m in prepared.modules() if isinstance(m, ActivationFakeQuantize)]
    prepared.eval()
    for quantizer in quantizers:
        quantizer.calibrating = True
    prepared(images)
    for quantizer in quantizers:
        quantizer.calibrating = False


def mean(values: Tensor, *args, **kwargs) -> Tensor:
    """torch.mean, whose integer kernel doesn't take images of one pixel that are laid out channels last."""
    if values.dim() == 4 and values.shape[2:] == (1, 1):
        values = values.clone(memory_format=torch.contiguous_format)
    return torch.mean(values, *args, **kwargs)


register_operation(mean, macs=0, averages=True, keeps_sign=True)


def finish(trained: GraphModule) -> GraphModule:
    """The converted network: torch.ao's quantised modules on the CPU, in eval mode.

    Its meta["activation_range"] keeps the integers that activations use, which the dtype doesn't tell.

    Raises UserError where the network was trained for integers that this CPU's kernels don't bear.
    """
    trained = copy.deepcopy(trained).cpu().eval()
    used = {(m.quant_min, m.quant_max) for m in trained.modules() if isinstance(m, ActivationFakeQuantize)}
    here = kernels()
    if any(high > here.activations[1] for _, high in used):
        raise UserError(
            f"this int8 network uses activations up to {max(used)[1]}, and this CPU's kernels ({here.engine}) saturate "
            f"above {here.activations[1]}: use a CPU with VNNI, or quantise the network again on this one."
        )
    for module in trained.modules():
        if isinstance(module, RoundedConvTranspose2d):
            del module.weight_fake_quant  # of its qconfig, torch.ao makes it anew
        module.__class__ = _FULL.get(type(module), type(module))
    with _quiet(), engine():
        converted = convert_fx(trained, backend_config=_backend()).eval()
    for module in converted.modules():
        module.__class__ = _ROUNDED.get(type(module), type(module))
    for node in converted.graph.nodes:
        if node.op in ("call_method", "call_function") and node.target in ("mean", torch.mean):
            node.op, node.target = "call_function", mean
    converted.recompile()
    converted.meta["activation_range"] = max(used)
    return converted


def use_integers(trained: GraphModule, activations: tuple[int, int]) -> None:
    """Give activations these integers, in place: those of a network that was converted elsewhere."""
    for module in trained.modules():
        if isinstance(module, ActivationFakeQuantize):
            module.use_integers(*activations)


@contextmanager
def engine():
    """This machine's engine packs weights for its own kernels, which run them under any engine later."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = kernels().engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
