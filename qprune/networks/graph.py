"""The form in which every network flows through qprune: a torch.fx graph that normalises its own input."""

import itertools

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from qprune.networks.in_place import out_of_place
from qprune.networks.modes import settle_dropout, unite
from qprune.networks.operations import (
    UNKNOWN,
    Operation,
    is_brevitas,
    look_up,
    register_operation,
)
from qprune.networks.plain_weights import with_plain_weights
from qprune.networks.tracing import trace_in
from qprune.registry.errors import UserError


class Normalize(nn.Module):
    """(images - mean) / std per channel: images are float in 0..1, [batch, c, h, w]."""

    mean: Tensor  # [c, 1, 1]
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Leaf(nn.Module):
    """Base of qprune's own modules that tracing must not look into (gates, roundings).

    bits: width of what it gives, where it rounds; weight_bits: of its weights and biases
    """

    bits: int | None = None
    weight_bits: int = 32


register_operation(Normalize, Leaf, macs=0, in_place=True)


def trace(model: nn.Module) -> fx.GraphModule:
    """The model as a torch.fx graph that holds in training and in evaluation, every in-place operation made out-of-place.

    Modules keep their names, so a layer is called what its author calls it. Scores are read and masks are
    set between operations, which an in-place operation would overwrite. Weights that are computed from others
    (weight_norm) become plain ones.

    Raises UserError where torch.fx can't follow the model's Python code, where forward is another in training than in
    evaluation (qprune.networks.modes), takes more than images or gives more than logits, and for layers that share a tensor.
    """
    refuse_ties(model)
    in_evaluation, network = trace_in(model, False), trace_in(model, True)
    for form in (in_evaluation, network):
        out_of_place(form)
        settle_dropout(form, form is network, add_module)
        form.graph.eliminate_dead_code()
    unite(model, network, in_evaluation, add_module)
    with_plain_weights(network)
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]  # torch types every attribute as a tensor or module
    network.graph.eliminate_dead_code()
    _refuse_borrowed_weights(network)
    _give_by_place(network)
    network.recompile()
    network.train(model.training)
    return network


def _give_by_place(network: fx.GraphModule) -> None:
    """What torch's layers and functions are given by the names of their first arguments is given by place, where it is looked for."""
    for node in network.graph.nodes:
        module = module_of(node)
        if operation_of(node) is UNKNOWN or module is not None and not type(module).__module__.startswith("torch.nn"):
            continue
        names = ["input", "tensors", "other"] if not node.args else ["other"] if len(node.args) == 1 else []
        given = [name for name in names if name in node.kwargs]
        node.args = (*node.args, *(node.kwargs[name] for name in given))
        node.kwargs = {name: value for name, value in node.kwargs.items() if name not in given}


def refuse_ties(model: nn.Module) -> None:
    """UserError where two layers' tensors lie in one storage: cut or rounded, each would have another one."""
    owners: dict[tuple[torch.device, int], tuple[nn.Module, str, str]] = {}
    for place, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            storage = tensor.device, tensor.untyped_storage().data_ptr()
            owner, other, whose = owners.setdefault(storage, (module, place, name))
            if owner is not module and storage[1]:  # 0: on the meta device, or of no element
                raise _tied(f"{other}.{whose}", f"{place}.{name}")


def _refuse_borrowed_weights(network: fx.GraphModule) -> None:
    """UserError where a function is given a tensor of a layer that runs too."""
    layers = {layer_of(node) for node in network.graph.nodes if node.op == "call_module"}
    for node in network.graph.nodes:
        users = [user for user in node.users if user.target is not getattr]  # its dtype or shape may be asked for
        if node.op == "get_attr" and users and str(node.target).rpartition(".")[0] in layers:
            raise _tied(str(node.target), users[0].name)


def _tied(one: str, other: str) -> UserError:
    return UserError(
        f"{one} and {other} share one tensor, and pruning and quantising would give each its own. Run one layer twice "
        "in forward, or give each a tensor of its own before (torch.nn.Parameter(weight.detach().clone()))."
    )


def with_normalize(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> fx.GraphModule:
    """The traced model behind its input normalisation: takes images as the data set gives them, float in 0..1.

    The model's own layer names are kept (no prefix); the normalisation is the submodule `normalize`, or `normalize_1` ...
    where the model has one of that name (qprune.networks.weights.normalization_name).
    """
    network = trace(model)
    insert_behind(
        next(node for node in network.graph.nodes if node.op == "placeholder"), "normalize", Normalize(mean, std)
    )
    network.graph.lint()
    network.recompile()
    return network


def insert_behind(node: fx.Node, name: str, module: nn.Module) -> None:
    """Put a module into the node's network, in place, through which all that use the node's result then get it.

    name: what it is called, if nothing is called so yet, as for add_module
    """
    name = add_module(network_of(node), name, module)
    with node.graph.inserting_after(node):
        result = node.graph.call_module(name, (node,))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def add_module(network: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Give the network a module more, in place; its name: `name`, or the first of name_1, name_2 ... that is free."""
    free = (f"{name}_{count}" if count else name for count in itertools.count())
    name = next(each for each in free if not hasattr(network, each))
    network.add_submodule(name, module)
    return name


def network_of(node: fx.Node) -> fx.GraphModule:
    """The network whose graph the node is in."""
    network = node.graph.owning_module
    assert network is not None
    return network


def source_of(node: fx.Node) -> fx.Node:
    """The tensor that is a node's first argument."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def sources_of(node: fx.Node) -> list[fx.Node]:
    """The tensors in a node's first argument, a list: what a concatenation joins."""
    sources = node.args[0]
    assert isinstance(sources, (list, tuple))
    return [source for source in sources if isinstance(source, fx.Node)]


def layer_of(node: fx.Node) -> str:
    """The name of the module that a call_module node runs."""
    assert isinstance(node.target, str)
    return node.target


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a call_module node runs, else None."""
    if node.op != "call_module":
        return None
    return network_of(node).get_submodule(layer_of(node))


_QUANTIZER = Operation(macs=0, in_place=True)  # of Brevitas


def operation_of(node: fx.Node) -> Operation:
    """What a node runs, as the table has it; UNKNOWN where it hasn't, and where the node runs nothing."""
    module = module_of(node)
    if module is None:
        return look_up(node.target) if node.op in ("call_function", "call_method") else UNKNOWN
    found = look_up(type(module))
    return _QUANTIZER if found is UNKNOWN and is_brevitas(module) and hasattr(module, "act_quant") else found


def kind_of(node: fx.Node) -> str:
    """What a node runs: the class of its layer, or the name of its function or method."""
    module = module_of(node)
    return type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))


def image_shape_of(images: Tensor) -> tuple[int, int, int]:
    """(c, h, w) of a batch of images [n, c, h, w]."""
    _, channels, height, width = images.shape
    return channels, height, width


def record_shapes(network: fx.GraphModule, image_shape: tuple[int, int, int]) -> None:
    """Run two images through the network in eval mode and note each tensor's shape in node.meta["tensor_meta"]."""
    training = network.training
    network.eval()
    images = torch.rand(2, *image_shape, device=next(network.parameters()).device)
    with torch.no_grad():
        ShapeProp(network).propagate(images)
    network.train(training)
