"""The stages of a ranking: a criterion's scores, the oracle's, and what removing a set of maps costs.

All start from a dense network, watched and measured in eval mode, where examples are independent of each other.
VERSION of a kind is raised when its result would change. A removal's inputs are the dense network and the scores of
Taylor, activation and the mean gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from qprune.data import Dataset, Split
from qprune.data.base import first_of_train
from qprune.pruning.criteria import get_criterion
from qprune.pruning.criteria.base import StaticCriterion, WatchedCriterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.scoring import Scorer
from qprune.pruning.sets import quadrants, removal
from qprune.registry.errors import UserError
from qprune.training import Diverged, Recipe, cosine, evaluate, minibatch, seed_of, updates_per_epoch

VERSION = {"score": 1, "oracle": 1, "removal": 2}
GRADIENT = "mean_gradient"  # what the plane's second axis is called among the scores


class MeanGradient(WatchedCriterion):
    """Mean over examples and positions of |dC/dz|: an axis of the plane, and no criterion that one would prune by."""

    def per_example(self, z: Tensor, dz: Tensor) -> Tensor:
        return dz.abs().sum(2)  # [batch, c, positions] -> [batch, c]

    def per_batch(self, sums: Tensor, positions: Tensor) -> Tensor:
        return sums.mean(0) / positions  # [batch, maps] -> [maps]


def gather_scores(
    gated: GatedNetwork,
    criterion,
    split: Split,
    batch_size: int,
    minibatches: int,
    seed: int,
    on_minibatch: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """A criterion's raw scores in eval mode, and what it ranks maps by over all layers (l2-normalised): float64 [maps].

    It sees `minibatches` minibatches, drawn without augmentation as training draws them with this seed.
    Raises UserError where the criterion doesn't work on the network.
    """
    network = gated.network.eval()
    scorer = Scorer(network, gated.groups, gated.gates, criterion)
    static = all(isinstance(part, StaticCriterion) for part in scorer.parts)
    for number in range(0 if static else minibatches):
        images, labels = minibatch(split, Recipe(batch_size=batch_size), seed, number)
        torch.manual_seed(seed_of(seed, "minibatch", number))  # of estimators that draw
        network.zero_grad(set_to_none=True)
        with scorer.minibatch():
            F.cross_entropy(network(images), labels).backward()
        on_minibatch()
    network.zero_grad(set_to_none=True)
    both = [give(torch.Generator().manual_seed(seed)) for give in (scorer.scores, scorer.ranking)]
    return both[0].detach().cpu().double(), both[1].detach().cpu().double()


def loss_without(gated: GatedNetwork, removed: Tensor, split: Split) -> float:
    """The mean loss on a split when these maps (bool [maps]) are switched off; afterwards all are on again."""
    gated.mask(~removed)
    loss = evaluate(gated.network, split).loss
    gated.mask(torch.ones_like(removed))
    return loss


def score(stage, work) -> tuple[dict, dict[str, Tensor]]:
    """One criterion's scores of one dense network, or why it has none there."""
    settings = stage.settings
    gated, data = _gated(stage, work)
    try:
        criterion = (
            MeanGradient() if settings["criterion"]["name"] == GRADIENT else get_criterion(settings["criterion"])
        )
        scores, ranking = gather_scores(
            gated, criterion, data.train, settings["batch_size"], settings["minibatches"],
            seed_of(settings["seed"], "score"), lambda: work.partial.tick(1),
        )  # fmt: skip
    except Diverged:
        raise
    except UserError as error:
        return {"left_out": str(error)}, {}
    if not scores.isfinite().all():
        return {"left_out": f"{int((~scores.isfinite()).sum())} of its scores are not finite"}, {}
    return {"left_out": None}, {"scores": scores, "ranking": ranking}


def oracle(stage, work) -> tuple[dict, dict[str, Tensor]]:
    """The change of the mean training loss when one map is switched off, for the maps start .. stop-1: float64.

    Molchanov et al. (ICLR 2017), Sec. 2.2 "Oracle pruning"; the signed change is oracle-loss.
    """
    settings = stage.settings
    gated, data = _gated(stage, work)
    split = _few(data, settings)
    base = loss_without(gated, torch.zeros(gated.groups.total, dtype=torch.bool), split)
    changes = []
    for number in range(settings["start"], settings["stop"]):
        changes.append(loss_without(gated, torch.arange(gated.groups.total) == number, split) - base)
        work.partial.tick(passes(len(split), settings["batch_size"]))
    return {"loss": base, "images": len(split)}, {"changes": torch.tensor(changes, dtype=torch.float64)}


def remove(stage, work) -> tuple[dict, dict[str, Tensor]]:
    """The losses when a set of maps is switched off, before and after a short fine-tuning; see sets.removal().

    Where a variation concerns no map, nothing is measured.
    """
    settings = stage.settings
    gated, data = _gated(stage, work)
    taylor, activation, gradient = (_scored(work, source) for source in stage.inputs[1:])
    places = quadrants(activation["scores"], gradient["scores"], gated.groups)
    rankings = {"taylor": taylor["ranking"], "activation": activation["ranking"]}
    removed, maps = removal(settings, rankings, places, gated.groups)
    if settings["put_in"] is not None and maps == 0:
        return {"maps": 0, "removed": int(removed.sum()), "losses": None}, {"removed": removed}
    few = _few(data, settings)
    gated.mask(~removed)
    losses = {"before": _losses(gated, data, few)}
    if settings["updates"]:
        recipe = Recipe(**settings["recipe"], augment=tuple(data.augment))
        updates, rate = range(settings["updates"]), cosine(settings["lr"], settings["updates"])
        seed = seed_of(settings["seed"], "finetune")
        work.partial.train("finetune", gated.network, data.train, recipe, updates, rate, seed)
        losses["after"] = _losses(gated, data, few)
    return {"maps": maps, "removed": int(removed.sum()), "losses": losses}, {"removed": removed}


KINDS = {"score": score, "oracle": oracle, "removal": remove}


def passes(images: int, batch_size: int) -> int:
    """How many updates a forward pass over so many images is reckoned as, for the progress bar."""
    return max(images // (3 * batch_size), 1)


def minibatches_of(images: int, limit: int | None, batch_size: int) -> int:
    """Whole minibatches of an epoch, or of the limit where it is less."""
    return updates_per_epoch(min(images, limit or images), batch_size)


def _gated(stage, work) -> tuple[GatedNetwork, Dataset]:
    settings, dense = stage.settings, stage.inputs[0]
    spec = work.spec(dense)
    network = spec.load_fp32(work.store.tensors(dense)).to(work.device)
    gated = GatedNetwork(network, spec.image_shape, settings["linear"], tuple(settings["ignore"]))
    return gated, work.data(settings["data"])


def _few(data: Dataset, settings: dict) -> Split:
    """The fixed training images that the oracle and the removals are measured on, the same for every seed."""
    device = data.train.labels.device
    whole = Split(data.train.images.cpu(), data.train.labels.cpu())
    few = first_of_train(whole, min(settings["oracle_images"], len(whole)))
    return Split(few.images.to(device), few.labels.to(device))


def _scored(work, source: str) -> dict[str, Tensor]:
    if reason := work.store.meta(source)["left_out"]:
        raise UserError(f"{source} has no scores: {reason}")
    return work.store.tensors(source)


def _losses(gated: GatedNetwork, data: Dataset, few: Split) -> dict[str, float]:
    val = evaluate(gated.network, data.val)
    return {"val_loss": val.loss, "val_accuracy": val.accuracy, "train_loss": evaluate(gated.network, few).loss}
