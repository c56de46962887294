"""A rehearsal before anything trains: what a network can't bear is told now, by layer and precision, and not after a night.

Each network on its data set is run in batches of one and of two, cut as far as the sweep's path goes, and at each precision
of the grid prepared, counted, finished, counted again, and written and run as ONNX, all on random weights and images: seconds.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qprune.cost import count_cost
from qprune.data import Split
from qprune.deploy.cells import DeployedCell
from qprune.deploy.export import try_export
from qprune.deploy.formats import Format
from qprune.methods.facts import blame
from qprune.networks import load_checkpoint
from qprune.precision import get_precision
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import select
from qprune.pruning.shrink import layer_widths
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec
from qprune.sweep.faults import Trial
from qprune.sweep.plan import Plan, short_names
from qprune.sweep.rehearsal import Rehearsal, note_passed, rehearsal_of, tried_formats

CLOSE = 1e-3  # of the largest logit: by how much an image's logits may differ alone and beside another one
SETTLED_ON = 16  # images whose statistics batch normalisation is given
IMAGES = 4  # that an exported file is tried on


def try_all(plan: Plan, formats: Sequence[str] = ()) -> Trial:
    """What can't be finished, and what can't be written in these formats, where their packages are installed and they bear the
    precision. What passed is noted (qprune.sweep.rehearsal), and not tried again.

    A network that can be had at no precision loses all of its cells. Raises UserError, with the place in the sweep file, where
    it is the only one, and for a checkpoint that doesn't fit.
    """
    trial = Trial()
    config, names = plan.config, short_names(plan.config)
    tried = tried_formats(formats)
    for model in config.model:
        for data in config.data:
            facts = plan.facts[names[model], names[data]]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                try:
                    with blame(config, "model", config.model.index(model)):
                        faults, unwritten = _try(rehearsal_of(config, model, facts), config.precisions, tried)
                except UserError as error:
                    if len(plan.facts) == 1:
                        raise
                    faults, unwritten = dict.fromkeys(config.precisions, str(error)), []
            for precision, fault in faults.items():
                trial.faults[names[model], names[data], precision] = fault
            trial.unwritten.extend(f"{names[model]} on {names[data]}, {said}" for said in unwritten)
            if config.train.checkpoint is not None:
                with blame(config, "train", "checkpoint"):
                    load_checkpoint(facts.spec.build(), config.train.checkpoint)
    return trial


def _try(
    rehearsal: Rehearsal, precisions: tuple[str, ...], formats: Sequence[Format]
) -> tuple[dict[str, str], list[str]]:
    """Precision -> its fault, of those that have one; and a sentence for each precision and format that can't be exported."""
    faults: dict[str, str] = {}
    unwritten: list[str] = []
    smaller = None
    for precision in precisions:
        if rehearsal.has_passed(precision, formats):
            continue
        wanted = rehearsal.unwritten(precision, formats)
        smaller = settle(cut(rehearsal), rehearsal.spec) if smaller is None else smaller
        try:
            made = finish_at(rehearsal, smaller, precision)
        except UserError as error:
            faults[precision] = f"{precision}: {' '.join(str(error).split())}"
            continue
        note_passed(rehearsal.name(precision))
        for form in wanted:
            try:
                try_export(made, form)
            except UserError as error:
                said = " ".join(str(error).split())
                unwritten.append(f"{precision}: can't be written as {form.name}: {said}")
            else:
                note_passed(rehearsal.name(precision, form))
    return faults, unwritten


def cut(rehearsal: Rehearsal) -> fx.GraphModule:
    """The network at the path's end, whichever maps are gone. Raises UserError where it can't be cut, or an image's logits
    depend on those beside it."""
    network = rehearsal.spec.build()
    _check_alone(_run(network, rehearsal.spec, "the network"), network)
    if rehearsal.until == 0:
        return network
    gated = GatedNetwork(network, rehearsal.spec.image_shape, rehearsal.linear, rehearsal.ignore)
    kept = (rehearsal.min_channels, rehearsal.round_to, rehearsal.max_layer_ratio)
    scores, gone = torch.rand(gated.groups.total), int(rehearsal.until * gated.groups.total)
    gated.mask(select(scores, gated.alive, gated.groups, gone, *kept))
    return gated.shrink()


def finish_at(rehearsal: Rehearsal, network: fx.GraphModule, typed: str) -> DeployedCell:
    """A network at a precision, untrained: prepared, counted, finished, counted and run. Raises UserError with what goes wrong."""
    images, spec = images_of(rehearsal.spec), rehearsal.spec
    try:
        precision = get_precision(typed, rehearsal.first_last_bits).choose_unmeasured(network)
        trained = precision.prepare(network, images).eval()
        count_cost(trained, spec.image_shape)
        finished = precision.finish(trained).eval()
        count_cost(finished, spec.image_shape)
    except UserError:
        raise
    except Exception as error:  # the libraries behind a precision raise whatever they like on a layer they don't know
        first = next(iter(str(error).splitlines()), "") or "no message"
        raise UserError(f"{type(error).__name__}: {first[:200]}; leave {typed} out of `precisions`") from error
    _run(finished, spec, f"the finished {typed} network")
    made = replace(spec, widths=layer_widths(network)).at(
        precision.name, rehearsal.first_last_bits, precision.layer_bits
    )
    some = Split((images_of(spec, IMAGES) * 255).byte(), torch.zeros(IMAGES, dtype=torch.int64))
    classes = tuple(map(str, range(spec.num_classes)))
    return DeployedCell("untrained", {}, made, trained.state_dict(), finished, some, classes)


def settle(network: fx.GraphModule, spec: NetworkSpec) -> fx.GraphModule:
    """Give batch normalisation the statistics of random images, in place: with those that it starts from, a deep network's
    logits are all alike, and whether a file gives the same can't be seen."""
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]
    if not norms:
        return network
    momenta = [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(SETTLED_ON, *spec.image_shape, generator=torch.Generator().manual_seed(1)))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network


def images_of(spec: NetworkSpec, n: int = 2) -> Tensor:
    """Random images [n, c, h, w], float in 0..1."""
    return torch.rand(n, *spec.image_shape, generator=torch.Generator().manual_seed(0))


def _run(network: nn.Module, spec: NetworkSpec, what: str) -> tuple[Tensor, Tensor]:
    """Logits of two images, side by side and one by one. Raises UserError where these are no finite logits."""
    images = images_of(spec)
    network.eval()
    with torch.no_grad():
        try:
            both, alone = network(images), [network(image[None]) for image in images]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"{what} doesn't run on one and on two images: {str(error).splitlines()[0]}") from error
    shapes = [list(logits.shape) for logits in (both, *alone)]
    if shapes != [[2, spec.num_classes], [1, spec.num_classes], [1, spec.num_classes]]:
        raise UserError(
            f"{what} gives logits {shapes[0]} for two images and {shapes[1]} for one, where {spec.num_classes} for each image "
            "are wanted; a squeeze() without a dimension drops the batch of one: flatten(1) doesn't"
        )
    if not both.isfinite().all():
        raise UserError(f"{what} gives logits that are not finite on random pixels, before it is trained")
    return both, torch.cat(alone)


def _check_alone(logits: tuple[Tensor, Tensor], network: nn.Module) -> None:
    """Raises UserError where an FP32 network gives an image other logits in company. A format that rounds is not asked: sums
    of another order may fall on the other side of a tie."""
    both, alone = logits
    difference, largest = (both - alone).abs().max().item(), both.abs().max().item()
    if difference > CLOSE * largest + 1e-6:
        raise UserError(
            f"the network gives an image other logits beside another image than alone (by {difference / largest:.0%} of the "
            f"largest): an accuracy would depend on the batches.{_statistics(network)}"
        )


def _statistics(network: nn.Module) -> str:
    """Which layers normalise by the batch in eval mode, and what to do about it."""
    own = [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    return f" Give {', '.join(own)} running statistics (track_running_stats=True)." if own else ""
