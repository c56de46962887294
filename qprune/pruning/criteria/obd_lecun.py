"""Optimal brain damage as it was published: LeCun, Denker and Solla, "Optimal brain damage" (1990), Sec. 2.1.

The diagonal of the Hessian is carried from the logits back through the graph, each layer's off-diagonal terms
dropped: h_in = (W^2)^T h_out, W^2 by elements, for a layer y = W x; h_in = f'(x)^2 h_out for an activation that is
linear in pieces (f'' = 0 for them; this is the Levenberg-Marquardt form, which the paper mentions too). It starts
from p (1 - p), the diagonal of cross-entropy's second derivative in the logits. Per minibatch: one forward and one
backward sweep in eval mode over the same images.
"""

from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qprune.networks.gate import Gate
from qprune.networks.graph import kind_of, module_of, operation_of, source_of, sources_of
from qprune.networks.operations import argument
from qprune.pruning.criteria.base import CurvatureCriterion
from qprune.pruning.groups import ChannelGroups
from qprune.registry.errors import UserError

_SPATIAL = {2, 3, -1, -2}


class ObdLecun(CurvatureCriterion):
    """Theta = mean over examples of 1/2 sum over positions p (and a coupled map's gates) of h_p z_p^2, h back-propagated.

    The map is LeCun's parameter that is shared by all its positions (its second derivative is the sum over them). Convolution, linear, BN,
    ReLU and its like, max, average and adaptive pooling, flatten, add, concatenation and gates are known; any
    other operation between a gate and the logits raises UserError naming its node.
    """

    def check(self, network: fx.GraphModule, groups: ChannelGroups) -> None:
        behind = set()  # what a gate's map flows through
        for node in network.graph.nodes:
            if isinstance(module_of(node), Gate):
                behind.add(node)
            elif behind & set(node.all_input_nodes) and node.op != "output" and not operation_of(node).asks_shape:
                behind.add(node)
                if not _known(node):
                    raise UserError(
                        f"criterion obd_lecun: no rule for {_named(node)}; take obd_gate or obd_element, which need none"
                    )

    def per_batch(
        self,
        network: fx.GraphModule,
        groups: ChannelGroups,
        gates: list[Gate],
        images: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        with torch.no_grad():
            run = _Run(network)
            logits = run.run(images)
        p = logits.softmax(1)
        scores = torch.zeros(groups.total, dtype=torch.float64, device=images.device)
        for node, h in back_propagate(network, run.values, p * (1 - p)).items():
            z, gate = run.values[node], module_of(node)
            assert isinstance(gate, Gate)
            carried, maps = gate.index >= 0, gate.index
            products = (h * z.square()).movedim(gate.axis, 1)
            saliency = 0.5 * products.reshape(*products.shape[:2], -1).sum(2).double().mean(0)  # [c]
            scores.index_add_(0, maps[carried], saliency[carried])
        return scores


def back_propagate(network: fx.GraphModule, values: dict[fx.Node, Tensor], seed: Tensor) -> dict[fx.Node, Tensor]:
    """LeCun's diagonal at the output of every gate: node of the gate -> h, of the shape of its tensor.

    values: what each node gave in the forward pass; seed: h of the logits, [batch, classes].
    """
    wanted: set[fx.Node] = set()
    for node in network.graph.nodes:  # how far back h is needed
        if isinstance(module_of(node), Gate) or wanted & set(node.all_input_nodes):
            wanted.add(node)
    diagonal: dict[fx.Node, Tensor] = {}
    found = {}
    for node in reversed(network.graph.nodes):
        if node.op == "output":
            diagonal[source_of(node)] = seed
        elif node in diagonal:
            h = diagonal.pop(node)
            if isinstance(module_of(node), Gate):
                found[node] = h
            if wanted & set(node.all_input_nodes):
                for source, part in _backward(node, h, values):
                    diagonal[source] = diagonal[source] + part if source in diagonal else part
    return found


def _known(node: fx.Node) -> bool:
    module, operation = module_of(node), operation_of(node)
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros"
    if isinstance(module, _BatchNorm):
        return module.running_var is not None
    if isinstance(module, (nn.Linear, Gate)):
        return True
    if operation.joins in ("add", "subtract"):
        return "alpha" not in node.kwargs
    if node.target in (torch.mean, "mean") and module is None:
        dims = argument(node, 1, "dim")
        dims = (dims,) if isinstance(dims, int) else dims
        return isinstance(dims, (list, tuple)) and bool(dims) and set(dims) <= _SPATIAL
    return operation.moves or operation.piecewise_linear or operation.averages or operation.joins == "concatenate"


def _named(node: fx.Node) -> str:
    return f"{node.target if node.op == 'call_module' else node.name!r} ({kind_of(node)})"


def _backward(node: fx.Node, h: Tensor, values: dict[fx.Node, Tensor]) -> list[tuple[fx.Node, Tensor]]:
    """h at a node's output -> h at each of its inputs."""
    operation = operation_of(node)
    if operation.joins == "concatenate":
        axis = argument(node, 1, "dim", 0)
        assert isinstance(axis, int)
        parts = sources_of(node)
        return list(zip(parts, h.split([values[part].shape[axis] for part in parts], axis), strict=True))
    if operation.joins in ("add", "subtract"):
        branches = [arg for arg in node.args if isinstance(arg, fx.Node) and isinstance(values[arg], Tensor)]
        if len(branches) == 2 and branches[0] is branches[1]:  # x + x = 2 x (x - x = 0)
            return [(branches[0], (4 if operation.joins == "add" else 0) * h)]
        return [(branch, _unbroadcast(h, values[branch])) for branch in branches]
    source = source_of(node)
    x, module = values[source], module_of(node)
    if isinstance(module, nn.Linear):
        return [(source, h @ module.weight.detach().square())]
    if isinstance(module, nn.Conv2d):
        weight = module.weight.detach().square()
        return [(source, _transposed(lambda x: module._conv_forward(x, weight, None), x, h))]
    if isinstance(module, _BatchNorm):
        assert module.running_var is not None  # as `check` has seen to
        slope = module.running_var.add(module.eps).rsqrt()
        slope = slope if module.weight is None else slope * module.weight.detach()
        return [(source, h * slope.square().view(1, -1, *[1] * (x.dim() - 2)))]
    if isinstance(module, Gate):
        return [(source, h * module.spread(module.mask.square(), x.dim()))]
    if operation.piecewise_linear:
        # each element by itself, so its slope is the vector-Jacobian product with ones
        return [(source, h * _transposed(lambda x: _apply(node, x, values), x, torch.ones_like(h)).square())]
    if operation.averages:
        # an output is w times the sum of its window: w^2 h is what arrives at each of its inputs
        return [(source, _transposed(lambda x: _apply(node, x, values), x, h * _window_weight(node, x, values)))]
    return [(source, _transposed(lambda x: _apply(node, x, values), x, h))]  # moves values: every weight is 0 or 1


def _window_weight(node: fx.Node, x: Tensor, values: dict[fx.Node, Tensor]) -> Tensor:
    """The weight w that each output of a mean gives to every input of its window: [1, 1, ...], like the output.

    Read off the mean of each unit image, for one channel.
    """
    units = torch.eye(x[0, 0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[2:])
    return _apply(node, units, values).amax(0, keepdim=True)  # [inputs, 1, outputs ...] -> [1, 1, outputs ...]


def _apply(node: fx.Node, x: Tensor, values: dict[fx.Node, Tensor]) -> Tensor:
    """The node's operation on another first argument."""
    module = module_of(node)
    if module is not None:
        return module(x)
    rest = fx.node.map_arg(node.args[1:], lambda arg: values[arg])
    kwargs = fx.node.map_arg(node.kwargs, lambda arg: values[arg])
    run = getattr(x, node.target) if isinstance(node.target, str) else partial(node.target, x)
    return run(*rest, **kwargs)


def _transposed(linear, x: Tensor, h: Tensor) -> Tensor:
    """The transposed Jacobian of a function at x, times h."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(linear(leaf), leaf, h)[0]


def _unbroadcast(h: Tensor, x: Tensor) -> Tensor:
    return h.sum_to_size(x.shape) if h.shape != x.shape else h


class _Run(fx.Interpreter):
    """Runs a network once and keeps what every node gives."""

    def __init__(self, network: fx.GraphModule):
        super().__init__(network)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, node: fx.Node):
        self.values[node] = super().run_node(node)
        return self.values[node]
