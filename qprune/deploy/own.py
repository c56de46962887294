"""Export of a network that lies in memory: what qprune.prune and qprune.quantize give, or a user's own, without a sweep."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from qprune.cost.widths import proxy_bits, weight_width
from qprune.data import Split
from qprune.data.arrays import as_split, check_classes
from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import REQUIRED_AGREEMENT
from qprune.deploy.export import Exported, export_cell
from qprune.deploy.formats import FORMATS
from qprune.deploy.sidecar import write_sidecar
from qprune.networks.given import check_module, count_classes
from qprune.networks.graph import image_shape_of, trace
from qprune.networks.operations import is_brevitas
from qprune.networks.torch_ao import FakeQuantizeBase, IntConv, IntLinear
from qprune.precision import PRECISIONS
from qprune.precision.fp16 import HalfConv2d, HalfLinear, RoundHalf
from qprune.registry.errors import BadInput, UserError
from qprune.stages.saved import NetworkSpec


@dataclass(frozen=True)
class _GivenSpec(NetworkSpec):
    """Of a network whose images needn't be square."""

    shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape


def export(
    network: nn.Module,
    path: str | Path,
    format: str = "onnx",
    *,
    images: Tensor,
    labels: Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> Exported:
    """Write a network to a file, check it in the file's own runtime, and describe it beside: `<stem>.json`, `<stem>_check.py`.

    network: what qprune.prune and qprune.quantize give, or a model that torch.fx can trace; it isn't changed. images: those
    that the check runs over, uint8 [n, c, h, w] or float in 0..1 (rounded to 8 bits), as for qprune.prune; labels: integers
    [n], for the accuracies alone; class_names: in the order of the logits, by default their numbers.
    The file takes float images in 0..1, [batch, c, h, w]; formats: onnx, qonnx (networks of Brevitas' layers), pt2 (FP32
    and FP16). Raises UserError where the format can't hold the network, and where the file's top-1 is another one on more
    than 1% of the images (it is left as `<path>.unverified`); BadInput for arguments that can't be what was meant.
    """
    form, path = FORMATS.get(format), Path(path)
    check_module("network", network)
    if form.name == "torch":
        raise UserError(
            "format torch rebuilds a network from a sweep's settings; keep one of your own by torch.save(network.state_dict(), "
            "path), or export it as onnx or pt2"
        )
    if path.is_dir() or path.suffix == ".json" or not path.parent.is_dir():
        raise BadInput(f"path is {path}; it must name a file ending in {form.load().SUFFIX}, in a folder that is there")
    cell = own_cell(network, images, labels, class_names, path.name.removesuffix(form.load().SUFFIX))
    if not form.can_hold(cell.spec.precision):
        raise UserError(f"format {form.name} can't hold a network of {cell.spec.precision}: {form.why_not}; onnx can")
    exported = export_cell(cell, form, path, labelled=labels is not None)
    if not exported.parity.holds:
        raise UserError(
            f"{exported.path}: the file's top-1 is the network's on {100 * exported.parity.agreement:.2f}% of "
            f"{exported.parity.images} images, less than {100 * REQUIRED_AGREEMENT:.0f}%; don't use it"
        )
    write_sidecar(cell, form, path, exported.parity)
    return exported


def own_cell(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "own",
) -> DeployedCell:
    """A network in memory as a cell that can be written and timed; arguments as for `export`."""
    test = as_split(images, torch.zeros(len(images), dtype=torch.int64) if labels is None else labels)
    graph = as_graph(network)
    classes = count_classes(graph, test.images)
    check_classes(test.labels, classes)
    names = tuple(map(str, range(classes) if class_names is None else class_names))
    if len(names) != classes:
        raise BadInput(f"there are {len(names)} class_names and {classes} logits")
    shape = image_shape_of(test.images)
    precision = precision_of(graph)
    spec = _GivenSpec({"name": "own"}, shape[0], shape[1], classes, (), (), precision=precision, shape=shape)
    return DeployedCell(name, {}, spec, {}, graph, Split(test.images.cpu(), test.labels.cpu()), names)


def as_graph(network: nn.Module) -> fx.GraphModule:
    """A copy on the CPU, in eval mode, as a torch.fx graph."""
    network = copy.deepcopy(network).cpu().eval()
    for name, module in network.named_modules():
        if isinstance(module, FakeQuantizeBase):
            raise UserError(
                f"layer {name} is in training form, {type(module).__name__}; export what qprune.quantize gives"
            )
    return network if isinstance(network, fx.GraphModule) else trace(network).eval()


def precision_of(network: nn.Module) -> str:
    """The precision of a network by its layers; of Brevitas' layers the widths that most of them have."""
    modules = list(network.modules())
    if any(isinstance(module, (IntConv, IntLinear)) for module in modules):
        return "int8"
    if any(isinstance(module, (HalfConv2d, HalfLinear, RoundHalf)) for module in modules):
        return "fp16"
    own = [module for module in modules if is_brevitas(module)]
    weights = Counter(round(weight_width(module)) for module in own if hasattr(module, "weight_quant"))
    if not weights:
        return "fp32"
    activations = Counter(round(bits) for module in own if (bits := proxy_bits(getattr(module, "act_quant", None))))
    widths = [counter.most_common(1)[0][0] if counter else 8 for counter in (weights, activations)]
    return PRECISIONS.get(f"w{widths[0]}a{widths[1]}").name
