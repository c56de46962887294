"""The computing of a stage: where it reads its inputs and data, keeps its unfinished work, and puts its files."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, fx, nn

from qprune.data import Dataset, load_data
from qprune.networks import load_pretrained
from qprune.recipe import Recipe, seed_of
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.stages.base import DataStage, Stage, TrainingStage
from qprune.stages.fingerprints import data_fingerprint_of, file_hash, model_fingerprint_of
from qprune.stages.partial import Partial
from qprune.stages.provenance import provenance
from qprune.stages.saved import NetworkSpec
from qprune.storage.correctness import pack_bits, pack_classes
from qprune.storage.store import Store
from qprune.training import Evaluation, evaluate, minibatch, tf32

CALIBRATION_IMAGES = 256


class Changed(UserError):
    """Something that a stage is made from is not what it was when the stage was planned."""


@dataclass
class Work:
    """What the computing of one stage has at hand."""

    store: Store
    device: torch.device
    partial: Partial
    trust: tuple[str, ...] = ()
    note: Callable[[str], None] = lambda text: None

    def spec(self, stage: str) -> NetworkSpec:
        """What the network of a finished stage is rebuilt from."""
        return NetworkSpec.from_json(self.store.meta(stage)["network"], self.trust, self.store.folder / stage)

    def load_fp32(self, stage: str) -> tuple[NetworkSpec, fx.GraphModule]:
        """The FP32 network that a finished stage left, on the device."""
        spec = self.spec(stage)
        return spec, spec.load_fp32(self.store.tensors(stage)).to(self.device)

    def data(self, stage: DataStage, device: torch.device | None = None) -> Dataset:
        """The stage's data set, on the device."""
        return on_device(_data_of(stage.data), device or self.device)


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
        report, tensors = stage.compute(Work(store, device, partial, stage.trust, note))
    parts = partial.counters.items()
    meta = {
        "kind": stage.kind,
        "label": stage.label,
        "named_by": stage.named_by,
        "continues": stage.continues,
        "updates": {part: counter.reached for part, counter in parts},
        "curves": {part: counter.curve() for part, counter in parts},
        **report,
        "inputs": {name: store.meta(name).get("tensors_sha256") for name in stage.inputs},
        "seconds": partial.seconds,
        "provenance": provenance(device),
    }
    store.write(stage.id, meta, tensors)


# What stages are named by ---------------------------------------------------------------------------------------------


def _check_unchanged(stage: Stage) -> None:
    """Raises Changed where what the stage is named by is another thing than when it was planned.

    The user's own code, images and checkpoint are looked at once by each process, which then keeps them.
    """
    for source, name, current in (
        ("data", "data_fingerprint", data_fingerprint_of),
        ("model", "model_fingerprint", model_fingerprint_of),
        ("checkpoint", "checkpoint_sha256", file_hash),
    ):
        planned = getattr(stage, name, None)
        if planned is not None and planned != current(getattr(stage, source)):
            raise Changed(f"the {source} of {stage.label} has changed since the sweep was planned; run it again")


@lru_cache(maxsize=4)
def _data_of(data: Choice) -> Dataset:
    """load_data, whose files are looked at once in each process."""
    return load_data(data.settings)


# What several kinds do ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def on_device(data: Dataset, device: torch.device) -> Dataset:
    """The data set with all its images on the device (uint8); moved once, as long as it stays the latest but one."""
    if device.type == "cpu":
        return data
    return dataclasses.replace(data, train=data.train.to(device), val=data.val.to(device), test=data.test.to(device))


def dense_spec(model: Choice, data: Dataset) -> NetworkSpec:
    """The unpruned network for a data set."""
    channels, _, width = data.train.images.shape[1:]
    return NetworkSpec(model.settings, channels, width, data.num_classes, data.mean, data.std)


def recipe_of(stage: TrainingStage, data: Dataset) -> Recipe:
    """The stage's training recipe, with the data set's augmentation."""
    return dataclasses.replace(stage.recipe, augment=tuple(data.augment))


def initial_network(
    model: Choice, data: Dataset, seed: int, pretrained: str | None, work: Work
) -> tuple[NetworkSpec, fx.GraphModule]:
    """An unpruned network before its first update: with random weights, those that its model names, or those of its
    pretraining, the dense stage of that id."""
    spec = dense_spec(model, data)
    torch.manual_seed(seed_of(seed, "initial weights"))
    network = spec.build(pretrained=True)
    if pretrained is not None:
        load_pretrained(network, work.store.tensors(pretrained), work.store.meta(pretrained)["label"])
    return spec, network.to(work.device)


def calibration_images(data: Dataset, seed: int) -> Tensor:
    """Images from which scales start, the same for all cells of a seed: float 0..1, [n, c, h, w]."""
    calm = Recipe(batch_size=min(CALIBRATION_IMAGES, len(data.train.labels)))
    return minibatch(data.train, calm, seed_of(seed, "calibration"), 0)[0]


def correctness(evaluation: Evaluation) -> dict[str, str]:
    """Which images are classified right, packed."""
    return {"correct": pack_bits(evaluation.correct.numpy())}


def classes(evaluation: Evaluation) -> dict[str, str]:
    """The label and the predicted class of each image, packed."""
    return {
        "labels": pack_classes(evaluation.labels.numpy()),
        "predicted": pack_classes(evaluation.predicted.numpy()),
    }


def evaluations(network: nn.Module, data: Dataset, of_images: Callable[[Evaluation], dict[str, str]]) -> dict:
    """Accuracy, loss and what of_images keeps of the single images, on the validation and test images, as plain JSON."""
    report = {}
    for name, split in (("val", data.val), ("test", data.test)):
        evaluation = evaluate(network, split)
        report[name] = {
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss,
            **of_images(evaluation),
            "images": len(evaluation.labels),
        }
    return report
