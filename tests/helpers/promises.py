"""What qprune makes of a network that nobody had in mind: each promise held, or refused in words, before any training.

`check` tries them all. A promise that isn't held, and an error that isn't a UserError, is a fault.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from generated import CLASSES, Written, build
from networks import batch
from stored_bytes import stored_bytes
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from qprune.cost import count_cost
from qprune.data import Split
from qprune.deploy import onnx_file
from qprune.deploy.cells import DeployedCell
from qprune.precision import get_precision
from qprune.precision.torch_ao import ActivationFakeQuantize
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import select
from qprune.pruning.shrink import layer_widths
from qprune.pruning.sizes import Sizes
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec
from qprune.storage.store import Store
from qprune.sweep.trial import Rehearsal, cut

PRECISIONS = ("fp32", "fp16", "int8", "w4a4")
OK, FAULT, REFUSED = "ok", "fault: ", "refused: "
LONGEST = 400  # characters of a refusal
TRUSTED = ["generated:build"]


def check(written: Written, precisions: tuple[str, ...] = PRECISIONS, onnx: bool = True) -> dict[str, str]:
    """What was tried -> OK, why it was refused, or what is wrong: "trace", "macs", "prune", each precision ..."""
    found: dict[str, str] = {}
    images, labels = batch(64, written.size, CLASSES, written.channels)
    spec = written.spec
    torch.manual_seed(written.seed)
    network = _tried(found, "trace", lambda: traced(written, spec, images))
    if network is None:
        return found
    _trained(network, images[:16], labels[:16])
    _tried(found, "macs", lambda: _counted(network, written))
    smaller = _tried(found, "prune", lambda: _pruned(network, spec))
    spec = replace(spec, widths=layer_widths(smaller or network))
    for precision in precisions:
        _at(found, precision, smaller or network, spec, images, onnx)
    return found


def _tried(found: dict[str, str], what: str, attempt: Callable[[], Any]) -> Any:
    """What the attempt gives; None where it fails, and `found` then has why."""
    try:
        given = attempt()
    except UserError as error:
        text = " ".join(str(error).split())
        found[what] = (REFUSED if len(text) <= LONGEST else f"{FAULT}too long a refusal: ") + text
        return None
    except Exception as error:
        found[what] = f"{FAULT}{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return None
    found[what] = OK
    return given


def traced(written: Written, spec: NetworkSpec, images: Tensor) -> fx.GraphModule:
    """The network, as the rehearsal before a sweep lets it pass; it gives what plain torch gives."""
    torch.manual_seed(written.seed)
    plain = build(CLASSES, written.source).eval()
    torch.manual_seed(written.seed)
    network = cut(Rehearsal(spec, "", 0.0, False, (), 1, 1, None, 8))
    with torch.no_grad():
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
        torch.testing.assert_close(network(images), plain((images - mean) / std))
    return network


def _trained(network: nn.Module, images: Tensor, labels: Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), lr=0.01)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()


def flop_macs(network: nn.Module, written: Written) -> int:
    """Multiply-accumulates for one image, by PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.rand(1, written.channels, written.size, written.size))
    return counter.get_total_flops() // 2


def _counted(network: fx.GraphModule, written: Written) -> bool:
    counted = count_cost(network, written.spec.image_shape).macs
    plain = flop_macs(build(CLASSES, written.source), written)
    assert counted == plain == flop_macs(network, written), f"{counted} MACs counted, by torch {plain}"
    return True


def _pruned(network: fx.GraphModule, spec: NetworkSpec) -> fx.GraphModule:
    """About half of the maps masked, and gone: the same logits, sizes as they were reckoned, saved and loaded."""
    gated = GatedNetwork(network, spec.image_shape)
    sizes = Sizes.of(gated.network, gated.groups, spec.image_shape)
    alive = select(torch.rand(gated.groups.total), gated.alive, gated.groups, gated.groups.total // 2)
    gated.mask(alive)
    smaller = gated.shrink().eval()
    images = torch.rand(8, *spec.image_shape)
    with torch.no_grad():
        masked, small = gated.network.eval()(images), smaller(images)
    torch.testing.assert_close(small, masked, rtol=1e-3, atol=1e-4)
    cost = count_cost(smaller, spec.image_shape)
    reckoned = sizes.left("macs", alive), sizes.left("params", alive)
    params = sum(each.numel() for each in smaller.parameters())
    assert reckoned == (cost.macs, cost.params), f"{reckoned} reckoned, {cost.macs, cost.params} counted"
    assert params == cost.params, f"{cost.params} parameters counted, {params} there"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        smaller(images[:1])
    assert cost.macs == counter.get_total_flops() // 2, f"{cost.macs} MACs, by torch {counter.get_total_flops() // 2}"
    return smaller


def _at(found: dict, precision: str, network: fx.GraphModule, spec: NetworkSpec, images: Tensor, onnx: bool) -> None:
    """At one precision: prepared, trained, finished, counted, compared, saved and loaded, exported."""
    made = _tried(found, precision, lambda: _finished(precision, network, spec, images))
    if made is None:
        return
    trained, finished, spec = made
    _tried(found, f"{precision} bytes", lambda: _same_bytes(finished, spec))
    _tried(found, f"{precision} agrees", lambda: _agree(trained(images), finished(images), step_of(trained)))
    _tried(found, f"{precision} saved", lambda: _saved(trained, finished, spec, images))
    if onnx:
        _tried(found, f"{precision} onnx", lambda: _exported(trained, finished, spec, images))


def _finished(precision: str, network: fx.GraphModule, spec: NetworkSpec, images: Tensor) -> Any:
    number_format = get_precision(precision).choose(network, images)
    untrained = number_format.prepare(network, images)
    count_cost(number_format.finish(untrained.eval()), spec.image_shape)  # what can't be made is refused here
    labels = network(images[:16]).argmax(1)
    _trained(untrained, images[:16], labels)
    finished = number_format.finish(untrained).eval()
    cost = count_cost(finished, spec.image_shape)
    assert cost.macs == count_cost(network, spec.image_shape).macs
    return untrained, finished, spec.at(precision, 8, number_format.layer_bits)


def _same_bytes(finished: nn.Module, spec: NetworkSpec) -> bool:
    counted, stored = count_cost(finished, spec.image_shape).weight_bytes, stored_bytes(finished)
    assert counted == stored, f"{counted} bytes counted, {stored} stored"
    return True


def step_of(trained: fx.GraphModule) -> float:
    """The step of the logits where they are rounded, else 0."""
    (result,) = next(node for node in trained.graph.nodes if node.op == "output").all_input_nodes
    last = trained.get_submodule(str(result.target)) if result.op == "call_module" else None
    return float(last.scale) if isinstance(last, ActivationFakeQuantize) else 0.0


@torch.no_grad()
def _agree(expected: Tensor, found: Tensor, step: float) -> bool:
    """Predictions, but for ties: images whose two largest logits are closer than two steps of the logits."""
    spread = (expected.max() - expected.min()).item()
    largest = (found - expected).abs().max().item()
    top = expected.topk(2).values
    clear = (top[:, 0] - top[:, 1]) > max(2 * step, 0.01 * spread)
    agreement = (found.argmax(1) == expected.argmax(1))[clear].double().mean().item() if clear.any() else 1.0
    assert agreement >= 0.9, (
        f"{agreement:.0%} of {int(clear.sum())} agree; logits by {largest / max(spread, 1e-12):.1%} of their range"
    )
    return True


@torch.no_grad()
def _saved(trained: fx.GraphModule, finished: nn.Module, spec: NetworkSpec, images: Tensor) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.write("stage", {"network": spec.to_json()}, trained.state_dict())
        again = NetworkSpec.from_json(store.meta("stage")["network"], TRUSTED, "").load(store.tensors("stage"))
    assert torch.equal(again(images), finished(images)), "another network after it was saved and loaded"
    return True


@torch.no_grad()
def _exported(trained: fx.GraphModule, finished: fx.GraphModule, spec: NetworkSpec, images: Tensor) -> bool:
    split = Split((images * 255).byte(), torch.zeros(len(images), dtype=torch.int64))
    cell = DeployedCell("generated", {}, spec, trained.state_dict(), finished, split, tuple("abcde"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        onnx_file.write(cell, file)
        given = torch.as_tensor(onnx_file.load(file, cell)(images))
    return _agree(finished(images), given, step_of(trained))
