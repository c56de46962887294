"""What a cell is made of: dense training, the pruning path, recovery, quantisation, evaluation.

Each function computes one stage: the stage's own settings and its inputs' files in, a report and tensors out.
VERSION of a kind is raised when its result would change.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, fx

from qprune.cost import Cost, count_cost
from qprune.data import Dataset, data_fingerprint, load_data
from qprune.networks import load_checkpoint, load_pretrained, model_fingerprint
from qprune.precision import Precision, get_precision
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import PathSchedule, walk
from qprune.pruning.quantized import QuantizedGatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.pruning.shrink import layer_widths
from qprune.registry.errors import UserError
from qprune.stages import cross_validation
from qprune.stages.partial import Counter, Partial, load_optimizer, optimizer_tensors
from qprune.stages.provenance import provenance
from qprune.stages.saved import NetworkSpec
from qprune.storage.correctness import pack_bits
from qprune.storage.store import Store
from qprune.training import (
    Evaluation,
    Recipe,
    constant,
    cosine,
    evaluate,
    minibatch,
    seed_of,
    tf32,
    updates_per_epoch,
)

VERSION = {"dense": 1, "path": 2, "recover": 1, "quantize": 1, "quantize_dense": 1, "evaluate": 1}
VERSION |= cross_validation.VERSION
WITHOUT_TENSORS = ("evaluate", "fold", "lambda")  # kinds whose result is their report alone
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Stage:
    """One piece of work, computed once whoever needs it.

    id: kind and hash of settings, inputs and code version; settings: plain JSON; inputs: ids of other stages;
    updates: what it will train; label: for people; trust: the sweep's own code (module:function), which may be run.
    """

    id: str
    kind: str
    settings: dict
    inputs: tuple[str, ...]
    updates: int
    label: str
    trust: tuple[str, ...] = ()

    @property
    def keeps_tensors(self) -> bool:
        return self.kind not in WITHOUT_TENSORS


@dataclass
class Work:
    """Where a stage reads its inputs and data, and keeps its unfinished work."""

    store: Store
    device: torch.device
    partial: Partial
    trust: tuple[str, ...] = ()
    note: Callable[[str], None] = lambda text: None

    def spec(self, stage: str) -> NetworkSpec:
        """What the network of a finished stage is rebuilt from."""
        return NetworkSpec.from_json(self.store.meta(stage)["network"], self.trust, self.store.folder / stage)

    def data(self, settings: dict) -> Dataset:
        return on_device(load_data(settings), self.device)


def compute(
    stage: Stage,
    store: Store,
    device: torch.device,
    tick: Callable[[int], None] = lambda updates: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Compute one stage whose inputs are done, and put its files in place; the caller holds the stage's lock.

    Goes on from the unfinished work of a process that was killed. tick: told of updates as they are made; note: told
    what a person should know.
    """
    _check_unchanged(stage)
    partial = Partial(store, stage.id, tick, note)
    with tf32(False):
        meta, tensors = _function_of(stage.kind)(stage, Work(store, device, partial, stage.trust, note))
    meta["kind"], meta["label"] = stage.kind, stage.label
    meta["inputs"] = {name: store.meta(name).get("tensors_sha256") for name in stage.inputs}
    meta["seconds"] = partial.seconds
    meta["provenance"] = provenance(device)
    store.write(stage.id, meta, tensors)


def _check_unchanged(stage: Stage) -> None:
    """Raises Changed where what the stage is named by is another thing than when it was planned.

    The user's own code, images and checkpoint are looked at once by each process, which then keeps them.
    """
    settings = stage.settings
    now = {
        "data_fingerprint": lambda: data_fingerprint_of(json.dumps(settings["data"], sort_keys=True)),
        "model_fingerprint": lambda: model_fingerprint_of(json.dumps(settings["model"], sort_keys=True)),
        "checkpoint_sha256": lambda: file_hash(settings["checkpoint"]),
    }
    for name, current in now.items():
        if name in settings and settings[name] != current():
            what = name.partition("_")[0]
            raise Changed(f"the {what} of {stage.label} has changed since the sweep was planned; run it again")


class Changed(UserError):
    """Something that a stage is made from is not what it was when the stage was planned."""


@lru_cache
def data_fingerprint_of(canonical: str) -> str:
    """data_fingerprint of settings as canonical JSON, once in each process."""
    return data_fingerprint(json.loads(canonical))


@lru_cache
def model_fingerprint_of(canonical: str) -> str:
    """model_fingerprint of settings as canonical JSON, once in each process."""
    return model_fingerprint(json.loads(canonical))


@lru_cache
def file_hash(path: str) -> str:
    """SHA-256 of a file, once in each process. Raises UserError where it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"train.checkpoint: {path} can't be read: {error.strerror}") from None


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
    """The stage's training recipe, with the data set's augmentation; in FP32 where the stage has a precision."""
    recipe = Recipe(**settings["recipe"], augment=tuple(data.augment))
    return recipe.in_fp32 if "precision" in settings else recipe


def initial_network(stage: Stage, work: Work, data: Dataset) -> tuple[NetworkSpec, fx.GraphModule]:
    """The unpruned network of a stage before its first update: with random weights, those that its model names, or
    those of its pretraining, which is the stage's input if it has one."""
    spec = dense_spec(stage.settings, data)
    torch.manual_seed(seed_of(stage.settings["seed"], "initial weights"))
    network = spec.build(pretrained=True)
    for source in stage.inputs:
        load_pretrained(network, work.store.tensors(source), work.store.meta(source)["label"])
    return spec, network


def _dense(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """N updates from initial (or pretrained) weights, the learning rate decaying to its end; or a checkpoint."""
    settings = stage.settings
    data = work.data(settings["data"])
    spec, network = initial_network(stage, work, data)
    if settings["checkpoint"]:
        load_checkpoint(network, settings["checkpoint"])
        network.to(work.device)
        done, curve = settings["updates"], []  # trained elsewhere
    else:
        network.to(work.device)
        seed = seed_of(settings["seed"], "dense")
        rate = cosine(settings["lr"], settings["updates"])
        recipe = recipe_of(settings, data)
        trained = work.partial.train("dense", network, data.train, recipe, range(settings["updates"]), rate, seed)
        done, curve = trained.updates, trained.curve()
    spec = dataclasses.replace(spec, widths=layer_widths(network))
    meta = {"network": spec.to_json(), "updates": done, "curve": curve, **_evaluations(network, data)}
    meta["macs"] = count_cost(network, spec.image_shape).macs
    return meta, network.state_dict()


def _path(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The walk up to one snapshot, from the furthest earlier snapshot of this path that exists."""
    settings = stage.settings
    data = work.data(settings["data"])
    spec = work.spec(settings["source"])
    start, done, tensors = _furthest(stage, work)
    gated = _gated(spec, settings, tensors, work.device)
    recipe = recipe_of(settings, data)
    optimizer = None
    if start:
        gated.mask(tensors["path/alive"])
        optimizer = load_optimizer(gated.network, recipe, settings["lr"], tensors, "path/optimizer/")
    counter = work.partial.counter("path")
    schedule = PathSchedule(gated.groups.total, settings["per_step"], settings["updates_between"])
    scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(_chosen(settings, work)))
    between = settings["updates_between"]
    stride = max(updates_per_epoch(len(data.train.labels), recipe.batch_size) // between, 1)  # steps of about an epoch

    def state() -> dict[str, Tensor]:
        optimized = optimizer_tensors(gated.network, optimizer, "path/optimizer/")
        return {**gated.network.state_dict(), **optimized, "path/alive": gated.alive}

    while start < settings["step"]:
        steps = range(start, min(start + stride, settings["step"]))
        optimizer = walk(
            gated, scorer, schedule, steps, data.train, recipe, settings["lr"], seed_of(settings["seed"], "prune"),
            settings["min_channels"], settings["round_to"], settings["normalize"], optimizer, counter,
        )  # fmt: skip
        start = steps.stop
        if start < settings["step"]:
            work.partial.save({"step": start, "done": done}, state)
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
    return meta, state()


def _chosen(settings: dict, work: Work) -> dict:
    """The criterion's settings, with the lambda that cross-validation has chosen."""
    chosen = settings.get("lambda_stage")
    return settings["criterion"] | ({"lambda": work.store.meta(chosen)["lambda"]} if chosen else {})


def _furthest(stage: Stage, work: Work) -> tuple[int, int, dict[str, Tensor]]:
    """From where the path goes on: steps taken, updates of earlier stages, and the state. That is the furthest of the
    dense network, the snapshots that exist, and the unfinished work of a process that was killed."""
    reached = work.partial.saved[0]["step"] if work.partial.saved else 0
    for step in range(stage.settings["step"] - 1, reached, -1):
        name = f"{stage.id.rsplit('-', 1)[0]}-{step:05d}"
        if work.store.has_tensors(name):
            try:
                found = step, work.store.meta(name)["updates"], work.store.tensors(name)
            except UserError as error:  # another ratio's, so no start of this sweep has looked at it
                work.note(f"{error}; not gone on from")
                continue
            work.partial.saved = None
            return found
    if work.partial.saved:
        meta, tensors = work.partial.saved
        return meta["step"], meta["done"], tensors
    return 0, 0, work.store.tensors(stage.settings["source"])


def _gated(spec: NetworkSpec, settings: dict, tensors: dict[str, Tensor], device: torch.device) -> GatedNetwork:
    """The gated network in a dense stage's tensors or a snapshot's, which also have the path's state under path/.

    In FP32, or under fake quantisation where the stage has a precision.
    """
    cut = settings["linear"], tuple(settings["ignore"])
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("path/")}
    if "precision" not in settings:
        return GatedNetwork(spec.load_fp32(state).to(device), spec.image_shape, *cut)
    precision = get_precision(settings["precision"], settings["first_last_bits"])
    gated = QuantizedGatedNetwork(spec.build(), spec.image_shape, precision, None, *cut)
    gated.network.load_state_dict(state)
    gated.network.to(device)
    return gated


def _calibration(data: Dataset, settings: dict) -> Tensor:
    """Images from which scales start, the same for all cells of a seed: float 0..1, [n, c, h, w]."""
    calm = Recipe(batch_size=min(CALIBRATION_IMAGES, len(data.train.labels)))
    return minibatch(data.train, calm, seed_of(settings["seed"], "calibration"), 0)[0]


def _recover(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The snapshot made smaller; then the rest of the path's P updates at its rate; then F updates, decaying.

    Where the stage has a precision, all of that at the precision: quantisers at the smaller shape, learned scales kept.
    """
    settings = stage.settings
    data = work.data(settings["data"])
    (source,) = stage.inputs
    meta, tensors = work.store.meta(source), work.store.tensors(source)
    spec = work.spec(source)
    achieved = 0.0
    if meta["kind"] == "dense":
        network = spec.load_fp32(tensors).to(work.device)
    else:
        gated = _gated(spec, settings, tensors, work.device)
        if meta["kind"] == "path":
            gated.mask(tensors["path/alive"])
        achieved = gated.pruned
        network = gated.shrink()
    spec = dataclasses.replace(spec, widths=layer_widths(network))
    if "precision" in settings:
        network = gated.rebuild(network, _calibration(data, settings)).to(work.device)
        spec = spec.at(settings["precision"], settings["first_last_bits"])
    recipe = recipe_of(settings, data)
    walked = meta["updates"] if meta["kind"] == "path" else 0
    rest, rate = range(walked, settings["path_updates"]), constant(settings["path_lr"])
    waited = work.partial.train("prune", network, data.train, recipe, rest, rate, seed_of(settings["seed"], "prune"))
    tuning, rate = range(settings["updates"]), cosine(settings["lr"], settings["updates"])
    seed = seed_of(settings["seed"], "finetune")
    tuned = work.partial.train("finetune", network, data.train, recipe, tuning, rate, seed)
    report = {
        "network": spec.to_json(),
        "updates": waited.updates + tuned.updates,
        "updates_prune": walked + waited.updates,
        "updates_finetune": tuned.updates,
        "curve_prune": waited.curve(),
        "curve_finetune": tuned.curve(),
        "achieved_ratio": achieved,
    }
    return report, network.eval().state_dict()


def _quantize(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The network at the cell's precision: scales from a calibration batch, then Q updates, decaying.

    With method ptq, these updates are made in FP32, and the scales come last.
    """
    settings = stage.settings
    data = work.data(settings["data"])
    source = stage.inputs[0]
    spec = work.spec(source)
    network = spec.load_fp32(work.store.tensors(source)).to(work.device)
    precision, images = get_precision(settings["precision"], settings["first_last_bits"]), _calibration(data, settings)
    trained = network
    if settings["method"] == "qat":
        precision = _choose_widths(precision, network, images, work)
        trained = precision.prepare(network, images).to(work.device)
    counter = _train_quantized(trained, stage, data, work)
    if settings["method"] == "ptq":
        precision = precision.choose(network, images)
        trained = precision.prepare(network, images).to(work.device)
    spec = spec.at(settings["precision"], settings["first_last_bits"], precision.layer_bits)
    report = {"network": spec.to_json(), "updates": counter.updates, "curve": counter.curve()}
    return report, trained.eval().state_dict()


def _choose_widths(precision: Precision, network: fx.GraphModule, images: Tensor, work: Work) -> Precision:
    """Precision.choose, once: a process that goes on from unfinished work takes the widths that this was trained with."""
    kept = work.partial.notes.get("layer_bits")
    if kept:
        return dataclasses.replace(precision, options={**precision.options, "layer_bits": kept})
    chosen = precision.choose(network, images)
    if chosen.layer_bits:
        work.partial.notes["layer_bits"] = chosen.layer_bits
    return chosen


def _quantize_dense(stage: Stage, work: Work) -> tuple[dict, dict[str, Tensor]]:
    """The dense network, with gates, at the cell's precision: what a path under fake quantisation begins with."""
    settings = stage.settings
    data = work.data(settings["data"])
    (source,) = stage.inputs
    spec = work.spec(source)
    network = spec.load_fp32(work.store.tensors(source)).to(work.device)
    precision = get_precision(settings["precision"], settings["first_last_bits"])
    cut = settings["linear"], tuple(settings["ignore"])
    gated = QuantizedGatedNetwork(network, spec.image_shape, precision, _calibration(data, settings), *cut)
    gated.network.to(work.device)
    counter = _train_quantized(gated.network, stage, data, work)
    report = {"network": spec.to_json(), "updates": counter.updates, "curve": counter.curve()}
    return report, gated.network.state_dict()


def _train_quantized(network: fx.GraphModule, stage: Stage, data: Dataset, work: Work) -> Counter:
    """Q updates, decaying; with `distill`, the dense FP32 network, the stage's last input, is their teacher."""
    settings, teacher = stage.settings, None
    if "distill" in settings:
        dense = stage.inputs[-1]
        teacher = work.spec(dense).load_fp32(work.store.tensors(dense)).to(work.device)
    updates, rate = range(settings["updates"]), cosine(settings["lr"], settings["updates"])
    seed, recipe = seed_of(settings["seed"], "quantize"), recipe_of(settings, data)
    return work.partial.train("quantize", network, data.train, recipe, updates, rate, seed, teacher)


def _evaluate(stage: Stage, work: Work) -> tuple[dict, None]:
    """Accuracy and cost of the network that is handed over."""
    (source,) = stage.inputs
    spec = work.spec(source)
    trained = spec.load_trained(work.store.tensors(source)).eval()
    cost = count_cost(trained, spec.image_shape)
    network = spec.number_format.finish(trained).eval()
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


_KINDS = {
    "dense": _dense,
    "path": _path,
    "recover": _recover,
    "quantize": _quantize,
    "quantize_dense": _quantize_dense,
    "evaluate": _evaluate,
}


def _function_of(kind: str) -> Callable[[Stage, Work], tuple[dict, dict[str, Tensor] | None]]:
    """What computes a kind of stage; those of a ranking are imported when the first is asked for."""
    kinds = _KINDS | cross_validation.KINDS
    if kind in kinds:
        return kinds[kind]
    from qprune.stages.ranking import KINDS

    return KINDS[kind]


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
