"""Which channels are one: a network's operations, run on labels of channels in the place of values.

A layer that makes channels (a convolution, a linear layer) gives each a label of its own. What moves values (reshapes,
chunks, shuffles, concatenations) is run on the labels as it stands; where two labels meet, element by element or because
a layer needs it, they become one class, which is removed as one. What can't be followed, or would come out otherwise
without some of its channels, is fixed: its channels always stay, and why is kept.

A tensor's labels vary along one axis, that of its channels.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F
from torch.nn.modules.padding import _ConstantPadNd

from qprune.networks.free_sizes import RESHAPES, SPLITS, given_sizes
from qprune.networks.graph import kind_of, layer_of, module_of, operation_of, record_shapes, source_of
from qprune.networks.layers import Pad
from qprune.networks.modes import tensor_at
from qprune.networks.operations import argument
from qprune.pruning.classes import FIXED, NOTHING, Classes

CHANNELWISE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.PReLU)  # each channel by itself
SLICEABLE = (nn.Conv2d, nn.Linear, nn.GroupNorm, *CHANNELWISE)
OUTPUT, IGNORED = "its maps leave the network", "prune.ignore names it"
_CHUNKS = (torch.chunk, "chunk")
_REDUCTIONS = (torch.mean, "mean", torch.sum, "sum", torch.amax, "amax")
_TURNS = (torch.permute, "permute", torch.transpose, "transpose", torch.swapaxes)
_MEETING = ("add", "subtract", "multiply")


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output map of a convolution reads its own input map only, one for one."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def takes_whole_groups(conv: nn.Conv2d) -> bool:
    """Whether a grouped convolution loses whole groups, and not the same channels of each: whichever are more."""
    return conv.groups > 1 and conv.groups > conv.in_channels // conv.groups


@dataclass(frozen=True)
class Channels:
    """axis: of a tensor, that its channels lie along; labels: of each of them, int64 [size of that axis]."""

    axis: int
    labels: Tensor


class Labels:
    """A traced network's labels.

    classes: which labels are one; tensors: of what each node gives, where that is a tensor; sides: (layer, "in" or "out") -> label of each channel of that
    side of a layer that can be cut, in the order in which data flows; makers: the layers that give labels of their own.

    network: in eval mode, on the CPU or not; image_shape: (c, h, w); ignore: layers, or modules that hold some.
    """

    def __init__(self, network: fx.GraphModule, image_shape: tuple[int, int, int], ignore: tuple[str, ...] = ()):
        self.classes = Classes()
        self.tensors: dict[fx.Node, Channels] = {}
        self.sides: dict[tuple[str, str], Tensor] = {}
        self.makers: list[str] = []
        self._values: dict[fx.Node, Any] = {}  # labels in the shape of what a node gives; numbers as they are
        record_shapes(network, image_shape)
        for node in network.graph.nodes:
            with torch.no_grad():
                self._values[node] = self._run(node)
            if isinstance(self._values[node], Tensor):
                self.tensors[node] = self._channels(self._values[node])
            if node.op == "call_module" and any(f"{node.target}.".startswith(f"{name}.") for name in ignore):
                self._fix_all(node, IGNORED)

    def _fix_all(self, node: fx.Node, why: str) -> None:
        """All that a node gives stays."""
        values = self._values[node]
        for value in values if isinstance(values, (tuple, list)) else [values]:
            if isinstance(value, Tensor):
                self.classes.fix(value.long(), why)

    # Tensors of labels ------------------------------------------------------------------------------------------------

    def _channels(self, values: Tensor, prefer: int | None = None) -> Channels:
        """Along which axis the labels vary; labels that lie beside each other along another axis become one class.

        prefer: the axis, if they vary along it; else it is the one with most classes
        """
        labels = self.classes.of(values.flatten().long()).view(values.shape or (1,))  # a number is one of each channel
        varying = [axis for axis in range(labels.dim()) if _varies(labels, axis)]
        if 0 in varying:  # reshaped into the batch
            self.classes.fix(labels, "its channels are laid out as images of the batch")
            varying = []
        if not varying:
            axis = min(1, labels.dim() - 1)
        elif prefer in varying:
            axis = prefer
        else:
            axis = max(varying, key=lambda axis: len(labels.movedim(axis, 0).flatten(1).amax(1).unique()))
        rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
        if len(varying) > 1:
            for row in rows:
                found = row.unique()
                found = found[found != NOTHING]
                self.classes.unite_all(found[None], "channels that stay lie beside it")
        along = rows.amax(1)
        if (along == NOTHING).any() and (along != NOTHING).any():
            self.classes.fix(along, "channels of zeros are padded to it, a fixed number of them")
            along = along.clamp(min=FIXED)
        return Channels(axis, along)

    @staticmethod
    def _spread(channels: Channels, shape: torch.Size) -> Tensor:
        """The labels of a tensor of that shape; takes no memory but the channels'."""
        sizes = [1] * len(shape)
        sizes[channels.axis] = -1
        return channels.labels.double().view(sizes).expand(shape)

    def _fixed(self, meta: Any) -> Any:
        """Labels of what always stays, of a node's recorded shape or shapes."""
        if meta is None:  # attention weights that nobody wants
            return None
        if isinstance(meta, (tuple, list)) and not hasattr(meta, "shape"):
            return tuple(map(self._fixed, meta))
        return torch.full((1,) * len(meta.shape), float(FIXED), dtype=torch.double).expand(meta.shape)

    # Operations -------------------------------------------------------------------------------------------------------

    def _run(self, node: fx.Node) -> Any:
        sources = [each for each in node.all_input_nodes if _tensors_of(self._values[each])]
        if node.op == "output":
            for source in sources:
                self._fix_all(source, OUTPUT)
            return None
        if node.op in ("placeholder", "get_attr") or not sources:
            found = None if node.op == "placeholder" else self._native(node)
            return self._fixed(node.meta["tensor_meta"]) if found is None or _tensors_of(found) else found
        module, operation = module_of(node), operation_of(node)
        handler: Callable[[fx.Node], Any] | None = None
        if type(module) in (nn.Conv2d, nn.Linear):
            handler = self._layer
        elif isinstance(module, nn.GroupNorm) or (isinstance(module, CHANNELWISE) and not _is_same_for_all(module)):
            handler = self._channelwise
        elif isinstance(module, CHANNELWISE) or operation.elementwise or operation.joins in _MEETING:
            handler = self._meet
        elif operation.asks_shape:
            handler = self._native
        elif operation.rearranges or operation.joins == "concatenate":
            handler = self._move
        elif operation.averages or operation.by_channel or node.target in _REDUCTIONS:
            handler = self._pool
        why = "which mixes channels or can't be followed"
        if handler is not None:
            try:
                return handler(node)
            except (
                RuntimeError,
                TypeError,
                ValueError,
                IndexError,
            ) as error:  # of an operation that labels are no values for
                why = f"and can't be followed: {next(iter(str(error).splitlines()), '')}"
        for source in sources:
            self._fix_all(source, f"{_named(node)} reads it, {why}")
        return self._fixed(node.meta["tensor_meta"])

    def _native(self, node: fx.Node) -> Any:
        """What the node's own operation makes of labels, or of numbers."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: self._values[each])
        module = module_of(node)
        if isinstance(module, (_ConstantPadNd, Pad)):
            sides = module.sides if isinstance(module, Pad) else module.padding
            how = module.mode if isinstance(module, Pad) else "constant"
            return F.pad(self._values[source_of(node)], tuple(sides), how)
        if node.target is F.pad:  # the value that is padded with is no label
            args, kwargs = args[:3], {name: value for name, value in kwargs.items() if name != "value"}
        if node.op == "get_attr":
            return tensor_at(node)
        if module is not None:
            return module(*args, **kwargs)
        if node.op == "call_method":
            method = "reshape" if node.target == "view" else str(node.target)  # spread labels have no strides to view
            return getattr(args[0], method)(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _layer(self, node: fx.Node) -> Tensor:
        """A convolution or a linear layer: reads its channels, and makes new ones (a depthwise one hands them on)."""
        module, name, shape = module_of(node), layer_of(node), node.meta["tensor_meta"].shape
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        source = self._source(node)
        axis = 1 if isinstance(module, nn.Conv2d) else len(shape) - 1
        labels = source.labels
        if source.axis != axis and (self.classes.of(labels) != FIXED).any():
            self.classes.fix(labels, f"{name} runs along another axis than that of its channels")
        if source.axis != axis:
            labels = torch.full((module.weight.shape[1] * getattr(module, "groups", 1),), FIXED)
        if is_depthwise(module):
            self._side(name, "out", labels)
            return self._spread(Channels(axis, labels), shape)
        made = self.sides.get((name, "out"))
        if made is None:
            made = self.classes.new(module.weight.shape[0])
            self.makers.append(name)
        self._side(name, "in", labels)
        self._side(name, "out", made)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            beside = f"{name} has it in one group with channels that stay"
            for side in (labels, made):
                blocks = side.view(module.groups, -1)
                self.classes.unite_all(blocks if takes_whole_groups(module) else blocks.T, beside)
            if takes_whole_groups(module):
                self.classes.unite(labels.view(module.groups, -1)[:, 0], made.view(module.groups, -1)[:, 0], beside)
        return self._spread(Channels(axis, made), shape)

    def _channelwise(self, node: fx.Node) -> Tensor:
        """A layer with parameters or statistics for each channel; group normalisation loses whole groups."""
        module, name, source = module_of(node), layer_of(node), self._source(node)
        if source.axis != 1:
            self.classes.fix(source.labels, f"{name} runs along another axis than that of its channels")
            return self._values[source_of(node)]
        if isinstance(module, nn.GroupNorm):
            blocks = source.labels.view(module.num_groups, -1)
            self.classes.unite_all(blocks, f"{name} has it in one group with channels that stay")
            if module.num_groups == 1:
                self.classes.fix(source.labels, f"{name} takes its statistics over all channels")
        self._side(name, "out", source.labels)
        return self._spread(source, self._values[source_of(node)].shape)

    def _side(self, layer: str, side: str, labels: Tensor) -> None:
        """Note the labels of one side of a layer; if it has run before, both are one."""
        known = self.sides.setdefault((layer, side), labels)
        self.classes.unite(known, labels, f"{layer} runs twice, and once on channels that stay")

    def _meet(self, node: fx.Node) -> Any:
        """Element by element: labels that meet are one class."""
        tensors = [each for each in node.all_input_nodes if isinstance(self._values[each], Tensor)]
        if len(tensors) == 1:
            return self._values[tensors[0]]
        shape = node.meta["tensor_meta"].shape
        places = {each: self.tensors[each].axis + len(shape) - self._values[each].dim() for each in tensors}
        able = [each for each in tensors if (self.classes.of(self.tensors[each].labels) != FIXED).any()]
        full = [each for each in able if self._values[each].shape[self.tensors[each].axis] == shape[places[each]]]
        if not full:
            for each in able:
                self._fix_all(each, f"{_named(node)} spreads it over other channels")
            return self._fixed(node.meta["tensor_meta"])
        axis = places[max(full, key=lambda each: len(self.tensors[each].labels))]
        met: list[Tensor] = []
        for each in tensors:
            values, channels = self._values[each], self.tensors[each]
            own = axis - len(shape) + values.dim()  # where this tensor has that axis
            if values.numel() == 1 and self.classes.of(channels.labels).item() == FIXED:
                continue
            if own < 0 or values.shape[own] < shape[axis]:
                self.classes.fix(channels.labels, f"{_named(node)} spreads it over other channels")
            elif own == channels.axis:
                met.append(channels.labels)
            else:
                self.classes.fix(channels.labels, f"{_named(node)} meets its channels along another axis")
                met.append(torch.full((shape[axis],), FIXED))
        whose = next((str(each.target) for each in tensors if each.op == "get_attr"), None)
        why = f"{_named(node)} joins it with " + (f"the parameter {whose}" if whose else "channels that stay")
        for other in met[1:]:
            self.classes.unite(met[0], other, why)
        return self._spread(Channels(axis, torch.stack(met).amax(0)), shape)

    def _pool(self, node: fx.Node) -> Any:
        """Means, sums and windows over positions leave channels as they are; over channels they don't."""
        shape = node.meta["tensor_meta"].shape
        source, values = self._source(node), self._values[source_of(node)]
        if node.target not in _REDUCTIONS:
            if source.axis == 1 and len(shape) == values.dim() and shape[1] == values.shape[1]:
                return self._spread(source, shape)
        else:
            dims = argument(node, 1, "dim")
            given = (
                (dims,) if isinstance(dims, int) else dims if isinstance(dims, (tuple, list)) else range(values.dim())
            )
            over = {int(dim) % values.dim() for dim in given}
            if source.axis not in over and 0 not in over:
                kept = len(shape) == values.dim()
                axis = source.axis - (0 if kept else sum(dim < source.axis for dim in over))
                return self._spread(Channels(axis, source.labels), shape)
        self.classes.fix(source.labels, f"{_named(node)} joins its channels to one value")
        return self._fixed(node.meta["tensor_meta"])

    def _move(self, node: fx.Node) -> Any:
        """What moves values moves labels; what counts on a number of channels that is written out fixes them."""
        given = node.args[0]
        sources = [each for each in node.all_input_nodes if isinstance(self._values[each], Tensor)]
        if node.target is not torch.stack and operation_of(node).joins != "concatenate":
            sources = sources[:1]
        self._couple_pieces(node)
        found = self._native(node)
        if not isinstance(found, Tensor):
            if (
                node.target in SPLITS
                and isinstance(given, fx.Node)
                and self._split_axis(node) == self._source(node).axis
            ):
                self._fix_all(given, f"{_named(node)} counts its channels out, pieces that aren't equal")
            return found
        same_axes = found.dim() == self._values[sources[0]].dim() if sources else False
        keeps = same_axes and node.target not in (*RESHAPES, *_TURNS)
        prefer = self.tensors[sources[0]].axis if keeps and sources else None
        sizes = _sizes(node, found.dim())
        free = [axis for axis, size in enumerate(sizes) if not isinstance(size, int) or size == -1]
        if sizes and prefer is None:
            varying = [axis for axis in free if axis and _varies(found, axis)]
            prefer = varying[0] if varying else None
        channels = self._channels(found, prefer)
        source = self.tensors[sources[0]] if sources else None
        measured = _measured(node.args[1], channels.axis) if not sizes and len(node.args) == 2 else None
        if sizes and isinstance(sizes[channels.axis], fx.Node):
            measured = _measured(sizes[channels.axis])
        if measured is not None and measured[0] in self.tensors:
            other = self.tensors[measured[0]]
            if other.axis == measured[1] and len(other.labels) == len(channels.labels):
                self.classes.unite(
                    channels.labels, other.labels, f"{_named(node)} gives it the size of channels that stay"
                )
        written = bool(sizes) and channels.axis not in free and len(channels.labels.unique()) > 1
        picked = (
            node.target is operator.getitem
            and source is not None
            and self.classes.of(channels.labels).tolist() != self.classes.of(source.labels).tolist()
        )
        if written or picked:
            self.classes.fix(channels.labels, f"{_named(node)} counts its channels out")
            if source is not None:
                self.classes.fix(source.labels, f"{_named(node)} counts its channels out")
        return self._spread(channels, found.shape)

    def _source(self, node: fx.Node) -> Channels:
        return self.tensors[source_of(node)]

    def _split_axis(self, node: fx.Node) -> int:
        dim = argument(node, 2, "dim", 0)
        assert isinstance(dim, int)
        return dim % self._values[source_of(node)].dim()

    def _couple_pieces(self, node: fx.Node) -> None:
        """Pieces of a chunk along the channels, and of a channel shuffle, stay equal only if each loses the same."""
        module = module_of(node)
        if node.target in _CHUNKS and self._split_axis(node) == self._source(node).axis:
            number = argument(node, 1, "chunks")
        elif isinstance(module, nn.ChannelShuffle):
            number = module.groups
        elif node.target is torch.channel_shuffle:
            number = argument(node, 1, "groups")
        else:
            return
        labels = self._source(node).labels
        if len(labels) % number:
            self.classes.fix(labels, f"{_named(node)} makes pieces of it that aren't equal")
        else:
            self.classes.unite_all(labels.view(number, -1).T, "a piece of its size has channels that stay")


def _varies(labels: Tensor, axis: int) -> bool:
    """Whether labels that lie beside each other along the axis differ, zeros that were padded left out."""
    most = labels.amax(axis)
    least = torch.where(labels == NOTHING, most.unsqueeze(axis), labels).amin(axis)
    return bool((most != least).any())


def _tensors_of(value: Any) -> bool:
    """Whether it is a tensor, or holds some."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_tensors_of, value)))


def _sizes(node: fx.Node, dims: int) -> list[Any]:
    """What size each axis of a reshape's result is said to have: a number, or a node; [] where the node says none."""
    module = module_of(node)
    if isinstance(module, nn.Unflatten):
        given = list(module.unflattened_size)
        before = int(module.dim) % (dims - len(given) + 1)
        return [-1] * before + given + [-1] * (dims - before - len(given))
    if node.target not in (*RESHAPES, "expand"):
        return []
    sizes = given_sizes(node)
    return sizes if len(sizes) == dims else []  # another tensor's shape


def _measured(size: Any, axis: int | None = None) -> tuple[fx.Node, int] | None:
    """Of which tensor's which axis a number is the size; axis: where it is in a whole shape, that is given."""
    if not isinstance(size, fx.Node):
        return None
    if size.target == "size" and len(size.args) == 2:
        axis = size.args[1]  # type: ignore[assignment]  # a number, as torch wants
    elif size.target is operator.getitem:
        axis, size = size.args[1], size.args[0]  # type: ignore[assignment]
    of_all = isinstance(size, fx.Node) and (size.target == "size" or size.args[1:] == ("shape",))
    return (source_of(size), axis) if of_all and isinstance(axis, int) else None


def _is_same_for_all(module: nn.Module) -> bool:
    """Whether it has no tensor of its own for each channel."""
    if isinstance(module, nn.PReLU):
        return module.num_parameters == 1
    return isinstance(module, nn.InstanceNorm2d) and not (module.affine or module.track_running_stats)


def _named(node: fx.Node) -> str:
    return f"{node.target} ({kind_of(node)})" if node.op == "call_module" else kind_of(node)
