"""A cell -> a file that is put in place only after its own runtime has run it over the whole test split.

Before anything is trained, `try_export` asks the same of an untrained network and a few images.
"""

import copy
import dataclasses
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qprune.deploy.cells import DeployedCell, recorded_classes
from qprune.deploy.check import CLOSE, Parity, Run, compare, logits_of
from qprune.deploy.embed import logits_of_files
from qprune.deploy.export_forms import tensors_of
from qprune.deploy.formats import Format
from qprune.networks.graph import module_of
from qprune.precision import PRECISIONS
from qprune.registry.errors import UserError
from qprune.storage.durable import write_whole

MOVED = 1 / 255  # by which each pixel is moved at most, to see how sure an untrained network is of its logits


@dataclass(frozen=True)
class Exported:
    """Where the file lies (with `.unverified` behind its name where it failed its check), its bytes, and the check."""

    path: Path
    size: int
    parity: Parity


def export_cell(cell: DeployedCell, form: Format, output: Path, labelled: bool = True, **options: Any) -> Exported:
    """Write a cell's network in a format, check it, and put it in place at once.

    labelled: whether its test images have labels; options: what the format's `write` takes.

    The file is written and checked in a temporary folder: nothing appears at `output` before. Agreement under
    check.REQUIRED_AGREEMENT leaves it as `<output>.unverified`. Raises UserError where the exporter can't follow the
    network, or the runtime can't load the file.
    """
    form.require()
    expected = logits_of(cell.network, cell.test)
    with _draft(form) as draft:
        try:
            run = _written(cell, form, draft, **options)
            found = logits_of_files(run, cell.pictures) if cell.pictures else logits_of(run, cell.test)
        except UserError:
            raise
        except Exception as error:  # exporters and runtimes raise whatever they like on an operator they don't know
            raise UserError(f"{cell.name} as {form.name}: {_refusal(cell, form, error)}") from error
        parity = compare(found, expected, cell.test.labels if labelled else None, recorded_classes(cell))
        path = output if parity.holds else unverified(output)
        _place(draft, path)
    if parity.holds:
        unverified(output).unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, parity)


def try_export(cell: DeployedCell, form: Format) -> None:
    """Write an untrained network in a format and run it there on its few test images, together and the first alone.

    Raises UserError, naming the layer, where that can't be done, and where the logits are others: by more, on average, than
    CLOSE of the largest, and than twice what the network's own are apart when each pixel is moved by a level of 255 at most
    (random weights put sums close to where they are rounded up or down, the more so the fewer bits).
    """
    form.require()
    expected = logits_of(cell.network, cell.test)
    noise = MOVED * (2 * torch.rand(cell.test.images.shape, generator=torch.Generator().manual_seed(0)) - 1)
    moved = logits_of(lambda images: cell.network((images + noise).clamp(0, 1)), cell.test)
    with _draft(form) as draft:
        try:
            run = _written(cell, form, draft)
            found = logits_of(run, cell.test)
            run(cell.test.images[:1].float().div_(255))
        except UserError:
            raise
        except Exception as error:
            raise UserError(_refusal(cell, form, error)) from error
    close = CLOSE[PRECISIONS.get(cell.spec.precision).weights] * expected.abs().max()
    if not _apart(found, expected) <= max(close, 2 * _apart(moved, expected)):
        apart = ((found - expected).abs().max() / expected.abs().max()).item()
        raise UserError(
            f"the file gives other logits than the untrained network, by {apart:.0%} of the largest; train it, and "
            "qprune export says of how many test images that is so"
        )


def _apart(found: Tensor, expected: Tensor) -> Tensor:
    """The root of the mean square of the difference."""
    return (found - expected).square().mean().sqrt()


@contextmanager
def _draft(form: Format):
    with tempfile.TemporaryDirectory(prefix="qprune-export-") as folder:
        yield Path(folder) / f"network{form.load().SUFFIX}"


def _written(cell: DeployedCell, form: Format, draft: Path, **options: Any) -> Run:
    """The file, written and loaded."""
    module = form.load()
    module.write(cell, draft, **options)
    return module.load(draft, cell)


def _refusal(cell: DeployedCell, form: Format, error: Exception) -> str:
    """What an exporter or a runtime didn't bear, in a sentence with a remedy."""
    layer = _refused_at(cell, form)
    return (
        f"{f'{layer}: ' if layer else ''}{type(error).__name__}: {_first_line(error)}. "
        "The network has an operation that this format doesn't bear"
        f"{'; --format torch holds every network' if cell.tensors else ''}"
    )


def _refused_at(cell: DeployedCell, form: Format) -> str:
    """The layer or operation up to which a network can't be written and run in a format; "" where it is none of them.

    By bisection: the network's first operations alone, one time after another.
    """
    tensors = tensors_of(cell.network, cell.spec.image_shape)
    nodes = [node for node in tensors if node.op.startswith("call_")]

    def bears(node: fx.Node) -> bool:
        network = _up_to(cell.network, node, tensors[node].is_quantized)
        part = dataclasses.replace(cell, network=network, pictures=())
        try:
            with _draft(form) as draft:
                run = _written(part, form, draft)
                run(cell.test.images[:2].float().div_(255))
        except Exception:
            return False
        return True

    low, high = 0, len(nodes) - 1  # the first that isn't borne is in nodes[low : high + 1]
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if bears(nodes[middle]) else (low, middle)
    if not nodes or bears(nodes[low]):
        return ""
    module = module_of(nodes[low])
    if module is not None:
        return f"layer {nodes[low].target} ({type(module).__name__})"
    return f"operation {nodes[low].name}"


def _up_to(network: fx.GraphModule, last: fx.Node, quantized: bool) -> fx.GraphModule:
    """A copy of the network that gives what one of its nodes gives, in float."""
    network = copy.deepcopy(network)
    node = next(node for node in network.graph.nodes if node.name == last.name)
    output = next(iter(reversed(network.graph.nodes)))
    if quantized:
        with network.graph.inserting_before(output):
            node = network.graph.call_method("dequantize", (node,))
    output.args = (node,)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def unverified(output: Path) -> Path:
    """The name of a file that failed its check."""
    return output.with_name(output.name + ".unverified")


def _place(draft: Path, path: Path) -> None:
    try:
        write_whole(path, draft.read_bytes())
    except OSError as error:
        raise UserError(f"--output {path}: can't be written: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0].partition(". Please feel free to request support")[0] if lines else "no message"
    return first.rstrip(".")[:300]
