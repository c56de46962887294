"""Lambda of Taylor + lambda x activation, by k-fold cross-validation on the training images alone.

For each fold a dense network is trained without its images; for each lambda it is pruned along the path and fine-tuned
without them; and its loss on them is noted at each ratio. The lambda of the least mean loss, over folds and ratios, is
taken. lambda 0 is plain Taylor. VERSION of a kind is raised when its result would change.
"""

import torch

from qprune.data import Split
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.path import PathSchedule, walk
from qprune.pruning.scoring import Scorer
from qprune.training import cosine, evaluate, seed_of, train

VERSION = {"fold": 1, "lambda": 1}
LAMBDAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 5


def without_fold(split: Split, fold: int) -> tuple[Split, Split]:
    """(the training images without a fold, the fold's): each image is in one of FOLDS folds, drawn once for all."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed_of("folds", FOLDS)))
    held = torch.zeros(len(split), dtype=torch.bool)
    held[order[fold::FOLDS]] = True
    held = held.to(split.labels.device)
    return Split(split.images[~held], split.labels[~held]), Split(split.images[held], split.labels[held])


def fold_losses(stage, work) -> tuple[dict, None]:
    """One fold: {"losses": lambda -> ratio -> mean loss on the fold}."""
    from qprune.stages import initial_network, recipe_of

    settings = stage.settings
    data = work.data(settings["data"])
    seed, recipe = settings["seed"], recipe_of(settings, data)
    rest, held = without_fold(data.train, settings["fold"])
    spec, dense = initial_network(stage, work, data)
    dense.to(work.device)
    updates, rate = range(settings["updates"]), cosine(settings["lr"], settings["updates"])
    trained = work.partial.train("dense", dense, rest, recipe, updates, rate, seed_of(seed, "dense"))
    counter, losses = work.partial.counter("lambdas"), {}
    if work.partial.saved:
        meta, tensors = work.partial.saved
        dense.load_state_dict(tensors)
        losses = {float(number): ratios for number, ratios in meta["losses"].items()}
    for number in LAMBDAS[len(losses) :]:
        gated = GatedNetwork(dense, spec.image_shape, settings["linear"], tuple(settings["ignore"]))
        criterion = get_criterion({**settings["criterion"], "lambda": number})
        scorer = Scorer(gated.network, gated.groups, gated.gates, criterion)
        schedule = PathSchedule(gated.groups.total, settings["per_step"], settings["updates_between"])
        optimizer, done, losses[number] = None, 0, {}
        for ratio in sorted(settings["ratios"]):
            steps = schedule.steps_to(ratio)
            optimizer = walk(
                gated, scorer, schedule, range(done, steps), rest, recipe, settings["path_lr"], seed_of(seed, "prune"),
                settings["min_channels"], settings["round_to"], settings["normalize"], optimizer, counter,
            )  # fmt: skip
            done = steps
            small, tuning = gated.shrink(), settings["finetune_updates"]
            rate = cosine(settings["finetune_lr"], tuning)
            train(small, rest, recipe, range(tuning), rate, seed_of(seed, "finetune"), on_update=counter)
            losses[number][ratio] = evaluate(small, held).loss
        work.partial.save({"part": "lambdas", "losses": losses}, dense.state_dict)
    return {"losses": losses, "updates": trained.updates + counter.updates}, None


def choose(stage, work) -> tuple[dict, None]:
    """The folds' losses -> {"lambda": the chosen one, "curve": [{"lambda", "ratio", "fold", "loss"}]}."""
    curve = [
        {"lambda": float(number), "ratio": float(ratio), "fold": fold, "loss": loss}
        for fold, name in enumerate(stage.inputs)
        for number, ratios in work.store.meta(name)["losses"].items()
        for ratio, loss in ratios.items()
    ]
    return {"lambda": best_lambda(curve), "curve": curve, "updates": 0}, None


def curve_rows(plan, store) -> list[dict]:
    """The whole curve of every lambda that a sweep's plan has chosen by now, as rows of one table."""
    rows: dict[str, list[dict]] = {}
    for cell in plan.cells:
        path = plan.stages.get(cell.stages.get("path", ""))
        chosen = path.settings.get("lambda_stage") if path else None
        if chosen and chosen not in rows and store.done(chosen):
            meta = store.meta(chosen)
            key = {"model": cell.model, "data": cell.data, "criterion": cell.criterion, "seed": cell.seed}
            rows[chosen] = [{**key, "chosen": meta["lambda"], **point} for point in meta["curve"]]
    return [row for own in rows.values() for row in own]


def best_lambda(curve: list[dict]) -> float:
    """The lambda of the least mean loss over all folds and ratios; of equal ones the smallest."""
    totals: dict[float, float] = {}
    for point in curve:
        totals[point["lambda"]] = totals.get(point["lambda"], 0.0) + point["loss"]
    return min(sorted(totals), key=totals.__getitem__)


KINDS = {"fold": fold_losses, "lambda": choose}
