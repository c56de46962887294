"""What a cell is made of: dense training, the pruning path, recovery, quantisation, evaluation.

Each function computes one stage: the stage's own settings and its inputs' files in, a report and tensors out.
VERSION of a kind is raised when its result would change.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, fx

from qprune.correctness import pack_bits
from qprune.cost import Cost, count_cost
from qprune.data import Dataset, load_data
from qprune.models import load_checkpoint
from qprune.precision import get_precision
from qprune.provenance import provenance
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import PathSchedule, walk
from qprune.pruning.scoring import Scorer
from qprune.pruning.shrink import layer_widths
from qprune.saved import NetworkSpec
from qprune.store import Store
from qprune.training import (
    Evaluation,
    Recipe,
    constant,
    cosine,
    evaluate,
    make_optimizer,
    minibatch,
    seed_of,
    train,
)

VERSION = {"dense": 1, "path": 1, "recover": 1, "quantize": 1, "evaluate": 1}
CALIBRATION_IMAGES = 256
CURVE_POINTS = 50  # of a stage's training curve


@dataclass(frozen=True)
class Stage:
    """One piece of work, computed once whoever needs it.

    id: kind and hash of settings, inputs and code version; settings: plain JSON; inputs: ids of other stages;
    updates: what it will train; label: for people.
    """

    id: str
    kind: str
    settings: dict
    inputs: tuple[str, ...]
    updates: int
    label: str


@dataclass
class Work:
    """Where a stage reads its inputs and data, and how it tells of its updates."""

    store: Store
    device: torch.device
    tick: Callable[[int], None]

    def data(self, settings: dict) -> Dataset:
        return on_device(load_data(settings), self.device)


def compute(stage: Stage, store: Store, device: torch.device, tick: Callable[[int], None]) -> None:
    """Compute one stage whose inputs are done, and put its files in place."""
    started = time.perf_counter()
    meta, tensors = _KINDS[stage.kind](stage, Work(store, device, tick))
    meta["kind"], meta["label"], meta["inputs"] = stage.kind, stage.label, list(stage.inputs)
    meta["seconds"] = time.perf_counter() - started
    meta["provenance"] = provenance(device)
    store.write(stage.id, meta, tensors)


@lru_cache(maxsize=2)
def on_device(data: Dataset, device: torch.device) -> Dataset:
    """The data set with all its images on the device (uint8); moved once, as long as it stays the latest but one."""
    if device.type == "cpu":
        return data
    moved = {
        part: dataclasses.replace(split, images=split.images.to(device), labels=split.labels.to(device))
        for part in ("train", "val", "test")
        for split in [getattr(data, part)]
    }
    return dataclasses.replace(data, **moved)


def dense_spec(settings: dict, data: Dataset) -> NetworkSpec:
    """The unpruned network for a data set."""
    channels, _, width = data.train.images.shape[1:]
    return NetworkSpec(settings["model"], channels, width, data.num_classes, data.mean, data.std)


def recipe_of(settings: dict, data: Dataset) -> Recipe:
    """The stage's training recipe, with the data set's augmentation."""
    return Recipe(**settings["recipe"], augment=tuple(data.augment))


def _dense(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """N updates from initial (or ImageNet) weights, the learning rate decaying to its end; or a checkpoint."""
    settings = stage.settings
    data = work.data(settings["data"])
    spec = dense_spec(settings, data)
    torch.manual_seed(seed_of(settings["seed"], "initial weights"))
    network = spec.build(pretrained=True)
    counter = _Counter(work.tick)
    if settings["checkpoint"]:
        load_checkpoint(network, settings["checkpoint"])
        network.to(work.device)
        done = settings["updates"]  # trained elsewhere
    else:
        network.to(work.device)
        seed = seed_of(settings["seed"], "dense")
        rate = cosine(settings["lr"], settings["updates"])
        train(network, data.train, recipe_of(settings, data), range(settings["updates"]), rate, seed, on_update=counter)
        done = counter.updates
    spec = dataclasses.replace(spec, widths=layer_widths(network))
    meta = {"network": spec.to_json(), "updates": done, "curve": counter.curve(), **_evaluations(network, data)}
    meta["macs"] = count_cost(network, spec.image_shape).macs
    return meta, network.state_dict()


def _path(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The walk up to one snapshot, from the furthest earlier snapshot of this path that exists."""
    settings = stage.settings
    data = work.data(settings["data"])
    dense = work.store.meta(settings["dense"])
    spec = NetworkSpec.from_json(dense["network"])
    prefix = stage.id.rsplit("-", 1)[0]
    earlier = [step for step in range(settings["step"] - 1, 0, -1) if work.store.has_tensors(f"{prefix}-{step:05d}")]
    start = earlier[0] if earlier else 0
    tensors = work.store.tensors(f"{prefix}-{start:05d}" if start else settings["dense"])
    network = _network_of(spec, tensors).to(work.device)
    gated = GatedNetwork(network, spec.image_shape, settings["linear"], tuple(settings["ignore"]))
    recipe = recipe_of(settings, data)
    optimizer = None
    done = 0
    if start:
        gated.mask(tensors["path/alive"])
        optimizer = _load_optimizer(gated.network, recipe, settings["lr"], tensors)
        done = work.store.meta(f"{prefix}-{start:05d}")["updates"]
    counter = _Counter(work.tick)
    schedule = PathSchedule(gated.groups.total, settings["per_step"], settings["updates_between"])
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(settings["criterion"]))
    optimizer = walk(
        gated, scorer, schedule, range(start, settings["step"]), data.train, recipe, settings["lr"],
        seed_of(settings["seed"], "prune"), settings["min_channels"], settings["round_to"], optimizer, counter,
    )  # fmt: skip
    meta = {
        "network": spec.to_json(),
        "updates": done + counter.updates,
        "curve": counter.curve(),
        "achieved_ratio": gated.pruned,
        "maps": gated.groups.total,
        "layers": [
            {
                "name": layer.name,
                "maps": layer.stop - layer.start,
                "kept": int(gated.alive[layer.start : layer.stop].sum()),
            }
            for layer in gated.groups.layers
        ],
    }
    saved = {f"path/{name}": tensor for name, tensor in _optimizer_tensors(gated.network, optimizer).items()}
    return meta, {**gated.network.state_dict(), **saved, "path/alive": gated.alive}


def _network_of(spec: NetworkSpec, tensors: dict[str, Tensor]) -> fx.GraphModule:
    """The FP32 network in a dense stage's tensors or a snapshot's, which also have the path's state under path/."""
    return spec.load_fp32({name: tensor for name, tensor in tensors.items() if not name.startswith("path/")})


def _recover(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The snapshot made smaller; then the rest of the path's P updates at its rate; then F updates, decaying."""
    settings = stage.settings
    data = work.data(settings["data"])
    (source,) = stage.inputs
    meta, tensors = work.store.meta(source), work.store.tensors(source)
    spec = NetworkSpec.from_json(meta["network"])
    network = _network_of(spec, tensors).to(work.device)
    achieved = 0.0
    if meta["kind"] == "path":
        gated = GatedNetwork(network, spec.image_shape, settings["linear"], tuple(settings["ignore"]))
        gated.mask(tensors["path/alive"])
        achieved = gated.pruned
        network = gated.shrink()
    recipe = recipe_of(settings, data)
    walked = meta["updates"] if meta["kind"] == "path" else 0
    waited, tuned = _Counter(work.tick), _Counter(work.tick)
    rest = range(walked, settings["path_updates"])
    if len(rest):
        rate = constant(settings["path_lr"])
        train(network, data.train, recipe, rest, rate, seed_of(settings["seed"], "prune"), on_update=waited)
    if settings["updates"]:
        rate = cosine(settings["lr"], settings["updates"])
        seed = seed_of(settings["seed"], "finetune")
        train(network, data.train, recipe, range(settings["updates"]), rate, seed, on_update=tuned)
    spec = dataclasses.replace(spec, widths=layer_widths(network))
    report = {
        "network": spec.to_json(),
        "updates": waited.updates + tuned.updates,
        "updates_prune": walked + waited.updates,
        "updates_finetune": tuned.updates,
        "curve_prune": waited.curve(),
        "curve_finetune": tuned.curve(),
        "achieved_ratio": achieved,
    }
    return report, network.state_dict()


def _quantize(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The network at the cell's precision: scales from a calibration batch, then Q updates, decaying."""
    settings = stage.settings
    data = work.data(settings["data"])
    (source,) = stage.inputs
    spec = NetworkSpec.from_json(work.store.meta(source)["network"])
    network = spec.load_fp32(work.store.tensors(source)).to(work.device)
    calm = Recipe(batch_size=min(CALIBRATION_IMAGES, len(data.train.labels)))
    calibration, _ = minibatch(data.train, calm, seed_of(settings["seed"], "calibration"), 0)
    trained = get_precision(settings["precision"], settings["first_last_bits"]).prepare(network, calibration)
    trained.to(work.device)
    counter = _Counter(work.tick)
    if settings["updates"]:
        rate = cosine(settings["lr"], settings["updates"])
        seed = seed_of(settings["seed"], "quantize")
        recipe = recipe_of(settings, data)
        train(trained, data.train, recipe, range(settings["updates"]), rate, seed, on_update=counter)
    spec = spec.at(settings["precision"], settings["first_last_bits"])
    report = {"network": spec.to_json(), "updates": counter.updates, "curve": counter.curve()}
    return report, trained.eval().state_dict()


def _evaluate(stage: Stage, work: Work) -> tuple[dict, None]:
    """Accuracy and cost of the network that is handed over."""
    (source,) = stage.inputs
    spec = NetworkSpec.from_json(work.store.meta(source)["network"])
    trained = spec.load_trained(work.store.tensors(source)).eval()
    cost = count_cost(trained, spec.image_shape)
    network = get_precision(spec.precision, spec.first_last_bits).finish(trained).eval()
    device = work.device if spec.precision != "int8" else torch.device("cpu")  # torch.ao's kernels are the CPU's
    data = on_device(load_data(stage.settings["data"]), device)
    report = {"updates": 0, **_evaluations(network.to(device), data)}
    return {**report, "network": spec.to_json(), "cost": cost_as_dict(cost)}, None


def cost_as_dict(cost: Cost) -> dict:
    """A cost as plain JSON: the totals, and each layer under "layers"."""
    totals = ("macs", "gflops", "bit_gflops", "linear_gflops", "gbops", "gbops_acc", "params", "weight_bytes")
    return {name: getattr(cost, name) for name in totals} | {
        "layers": [dataclasses.asdict(layer) for layer in cost.layers]
    }


_KINDS = {"dense": _dense, "path": _path, "recover": _recover, "quantize": _quantize, "evaluate": _evaluate}


class _Counter:
    """Counts the updates that were really made, and keeps their losses."""

    def __init__(self, tick: Callable[[int], None]):
        self.updates, self.tick = 0, tick
        self.losses: list[tuple[int, float]] = []

    def __call__(self, update: int, loss: float | None) -> None:
        if loss is not None:
            self.losses.append((self.updates, loss))
        self.updates += 1
        self.tick(1)

    def curve(self) -> list[tuple[int, float]]:
        """(update, mean training loss) of at most CURVE_POINTS stretches of updates."""
        size = -(-len(self.losses) // CURVE_POINTS) or 1
        parts = [self.losses[start : start + size] for start in range(0, len(self.losses), size)]
        return [(part[0][0], round(sum(loss for _, loss in part) / len(part), 5)) for part in parts]


def _evaluations(network: torch.nn.Module, data: Dataset) -> dict:
    report = {}
    for name, split in (("val", data.val), ("test", data.test)):
        evaluation: Evaluation = evaluate(network, split)
        report[name] = {
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss,
            "correct": pack_bits(evaluation.correct.numpy()),
            "images": len(evaluation.correct),
        }
    return report


def _optimizer_tensors(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"optimizer/{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(
    network: torch.nn.Module, recipe: Recipe, lr: float, tensors: dict[str, Tensor]
) -> torch.optim.Optimizer:
    optimizer = make_optimizer(network, recipe, lr)
    for name, parameter in network.named_parameters():
        prefix = f"path/optimizer/{name}/"
        state = {
            key.removeprefix(prefix): value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = state
    return optimizer
