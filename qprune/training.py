"""The one training loop: dense training, the pruning path, fine-tuning, QAT.

Which images an update sees, and how they are augmented, depends on the seed and the number of the update alone;
so a run that stops and goes on is the run that never stopped, and cells that are compared see the same batches.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qprune.data import Split, augment
from qprune.data.augmentation import takes_crops
from qprune.networks.memory_format import trained_as
from qprune.recipe import TEACHER_SHARE, TEMPERATURE, Recipe, seed_of, updates_per_epoch
from qprune.registry.errors import UserError

BLOCK_BYTES = 2**20  # of neighbours that are read together
WINDOW_BLOCKS = 1024  # that are shuffled among each other: 1 GiB
READ_LOSS_EVERY = 20  # updates, on a GPU


class Watcher(Protocol):
    """What watches the forward and backward pass of a minibatch, as qprune.pruning.scoring.Scorer does."""

    def minibatch(self) -> AbstractContextManager: ...


class Diverged(UserError):
    """The loss is not a finite number any more."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may compute in TF32 inside. PyTorch's own default allows it in convolutions; here nothing is silent."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Around a forward pass: BF16 where the recipe asks for it, else FP32 whatever is around."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.math == "bf16", cache_enabled=False)


def minibatch(split: Split, recipe: Recipe, seed: int, update: int) -> tuple[Tensor, Tensor]:
    """Images (float 0..1, [batch, c, h, w]) and labels [batch] of one update, in shuffled epochs."""
    count = len(split.labels)
    per_epoch = updates_per_epoch(count, recipe.batch_size)
    source = split.images if split.stored is None or not takes_crops(recipe.augment) else split.stored
    of_a_block = max(1, BLOCK_BYTES // source[0].numel()) if recipe.shuffle == "windowed" else 0
    order = _shuffled(count, seed_of(seed, "epoch", update // per_epoch), of_a_block)
    start = (update % per_epoch) * recipe.batch_size
    chosen = order[start : start + recipe.batch_size].to(split.labels.device)
    images = source[chosen].float().div_(255)
    if recipe.augment:
        generator = torch.Generator(images.device).manual_seed(seed_of(seed, "augment", update))
        images = augment(images, recipe.augment, generator, split.images.shape[-1])
    return images, split.labels[chosen]


def windowed_order(count: int, of_a_block: int, generator: torch.Generator) -> Tensor:
    """A shuffle of `count` images that are read in runs: int64 [count].

    Blocks of neighbours are shuffled, and the images of each WINDOW_BLOCKS of them among each other. So each image comes
    once, as in a full shuffle; but neighbours are never further apart than a window, and an epoch's order has less
    randomness.
    """
    blocks = torch.randperm(-(-count // of_a_block), generator=generator)
    index = (blocks[:, None] * of_a_block + torch.arange(of_a_block)).flatten()
    window = torch.arange(len(index)) // (of_a_block * WINDOW_BLOCKS)
    key = window + torch.rand(len(index), generator=generator, dtype=torch.float64)
    index = index[key.argsort()]
    return index[index < count]


_last_order: tuple[tuple[int, int, int], Tensor] | None = None


def _shuffled(count: int, seed: int, of_a_block: int) -> Tensor:
    """of_a_block: 0 for a full shuffle."""
    global _last_order
    asked = count, seed, of_a_block
    if _last_order is None or _last_order[0] != asked:
        generator = torch.Generator().manual_seed(seed)
        windowed = of_a_block and of_a_block * WINDOW_BLOCKS < count
        order = windowed_order(count, of_a_block, generator) if windowed else torch.randperm(count, generator=generator)
        _last_order = asked, order
    return _last_order[1]


def make_optimizer(network: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """A fresh optimizer of all that isn't frozen (requires_grad=False); UserError where everything is.

    Weight decay acts on weights of convolutions and linear layers, not on biases, BN or scales. foreach: the same steps to
    the bit, in 0.7 of the time (results/benchmarks/update_shortened.csv).
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_weight = parameter.dim() > 1 and name.rpartition(".")[2] == "weight"
            (decayed if is_weight else others).append(parameter)
    if not decayed and not others:
        raise UserError("every parameter of the network is frozen (requires_grad=False), so there is nothing to train")
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, foreach=True)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=nesterov, foreach=True)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """(1 - a) CE(labels) + a T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    logits, teacher_logits: [batch, classes]; labels: [batch]; T is TEMPERATURE, a is TEACHER_SHARE. T^2 keeps the
    size of the second term's gradients (Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2).
    """
    soft, target = F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(teacher_logits / TEMPERATURE, 1)
    divergence = F.kl_div(soft, target, reduction="batchmean", log_target=True)
    return (1 - TEACHER_SHARE) * F.cross_entropy(logits, labels) + TEACHER_SHARE * TEMPERATURE**2 * divergence


def _loss(network: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
    if teacher is None:
        return F.cross_entropy(network(images), labels)
    with torch.no_grad():
        teacher_logits = teacher(images)
    return distillation_loss(network(images), teacher_logits, labels)


def train(
    network: nn.Module,
    split: Split,
    recipe: Recipe,
    updates: range,
    lr: Callable[[int], float],
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    scorer: Watcher | None = None,
    on_update: Callable[[int, float | None], None] | None = None,
    teacher: nn.Module | None = None,
) -> torch.optim.Optimizer:
    """Train in place, for the updates of the given numbers; returns the optimizer, to go on with.

    on_update: told each update's number and its loss (None where reading it would make a GPU wait). teacher: a network
    whose logits on the same minibatch, in eval mode, are learned too (distillation_loss); its weights and
    statistics stay as they are.
    The network is in train mode and contiguous afterwards. Raises Diverged on a loss that is not finite.
    """
    optimizer = optimizer or make_optimizer(network, recipe, lr(updates.start))
    network.train()
    with trained_as(network, recipe.channels_last) as layout, tf32(recipe.math == "tf32"):
        if teacher is not None:
            teacher.eval().to(memory_format=layout)
        for update in updates:
            images, labels = minibatch(split, recipe, seed, update)
            torch.manual_seed(seed_of(seed, "dropout", update))
            for group in optimizer.param_groups:
                group["lr"] = lr(update)
            images = images.contiguous(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            with scorer.minibatch() if scorer is not None else nullcontext():
                with autocast(recipe, images.device):
                    loss = _loss(network, teacher, images, labels)
                loss.backward()
            read = not loss.is_cuda or update % READ_LOSS_EVERY == 0 or update == updates.stop - 1
            value = loss.item() if read else None
            if value is not None and not math.isfinite(value):
                raise Diverged(f"the loss is {value} at update {update}, learning rate {lr(update):.3g}; lower it")
            optimizer.step()
            if on_update is not None:
                on_update(update, value)
    return optimizer


@dataclass(frozen=True)
class Evaluation:
    """loss: mean cross-entropy; labels, predicted: of each image, int64 [images], in the order of the split."""

    loss: float
    labels: Tensor
    predicted: Tensor

    @property
    def correct(self) -> Tensor:
        """Which images are classified right, bool [images]."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of images classified right, 0..1."""
        return self.correct.double().mean().item()


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, batch_size: int = 256) -> Evaluation:
    """Loss and predicted classes on a split, in eval mode and FP32; the network's mode is left as it was."""
    training = network.training
    network.eval()
    loss, predicted = 0.0, []
    with tf32(False), autocast(Recipe(), split.labels.device):
        for start in range(0, len(split.labels), batch_size):
            labels = split.labels[start : start + batch_size]
            logits = network(split.images[start : start + batch_size].float().div_(255))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            predicted.append(logits.argmax(1).cpu())
    network.train(training)
    if not math.isfinite(loss):
        raise Diverged("the network's loss is not finite in evaluation; lower the learning rates")
    return Evaluation(loss / len(split.labels), split.labels.cpu(), torch.cat(predicted))
