"""How many updates each phase of a cell has: those of the sweep file, or its shares of one budget."""

from dataclasses import dataclass

from qprune.methods.facts import Facts, blame
from qprune.pruning.schedule import PathSchedule
from qprune.recipe import updates_per_epoch
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig


@dataclass(frozen=True)
class Spending:
    """N, P, F and Q, in updates; P as steps of `updates_between` updates, each of which removes `per_step` maps on average."""

    dense: int
    prune: int
    finetune: int
    quantize: int
    updates_between: int
    per_step: float

    @property
    def total(self) -> int:
        """N + P + F + Q: what every cell's network has had."""
        return self.dense + self.prune + self.finetune + self.quantize


def spend(config: SweepConfig, facts: Facts) -> Spending:
    """The updates of one model on one data set. Under a budget P is the whole steps that are nearest to its share (each has
    one update at least), and F what the others leave.

    Raises UserError, with the place in the file, where a budget is too small for its phases.
    """
    prune, per_epoch = config.prune, updates_per_epoch(facts.images, config.train.batch_size)
    per_step = prune.channels_per_step.channels(facts.maps)
    steps = PathSchedule(facts.maps, per_step, 1).steps_to(prune.until) if prune.until else 0
    if config.budget is None:
        dense, finetune, quantize = (
            phase.in_updates(per_epoch) for phase in (config.train, config.finetune, config.quantize)
        )
        assert prune.updates_between is not None
        between = prune.updates_between
        return Spending(dense, steps * between, finetune, quantize, between, per_step)
    total, shares = config.budget.in_updates(per_epoch), config.budget.shares
    dense, quantize = (round(share * total) for share in (shares.dense, shares.quantize))
    between = max(round(shares.prune * total / max(steps, 1)), _least_between(config))
    finetune = total - dense - steps * between - quantize
    if finetune < 1 or (shares.dense and not dense):
        with blame(config, "budget", config.budget.given or "epochs"):
            raise UserError(
                f"{total:,} updates are too few: N {dense:,}, P {steps} steps of {between} and Q {quantize:,} leave nothing "
                "to fine-tune; raise it, or prune.channels_per_step"
            )
    return Spending(dense, steps * between, finetune, quantize, between, per_step)


def _least_between(config: SweepConfig) -> int:
    """Updates of a step that its scores need."""
    from qprune.pruning.criteria import CRITERIA

    return 2 if any(CRITERIA.get(choice.name).several_minibatches for choice in config.prune.criterion) else 1
