"""How a sweep's updates are made, on each network and data set: what its file says, and what `auto` there comes to."""

from qprune.methods.facts import Facts
from qprune.recipe import Recipe, shuffle_of, takes_channels_last
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig


def recipe_of(config: SweepConfig, data: Choice, facts: Facts, batch_size: int | None = None) -> Recipe:
    """facts: of the network on these data. batch_size: another one than the sweep's."""
    train, batch = config.train, batch_size or config.train.batch_size
    last = train.channels_last if train.channels_last != "auto" else _takes_channels_last(facts, batch)
    return Recipe(
        batch_size=batch,
        momentum=train.momentum or 0.0,
        weight_decay=train.weight_decay,
        optimizer=train.optimizer,
        math=train.math,
        channels_last=last,
        shuffle=shuffle_of(_bytes(data, facts)) if train.shuffle == "auto" else train.shuffle,
    )


def _takes_channels_last(facts: Facts, batch_size: int) -> bool:
    try:
        return takes_channels_last(facts.values_per_weight, batch_size)
    except UserError:  # what can't be counted is never trained: the rehearsal gives its cells up, and says why
        return False


def _bytes(data: Choice, facts: Facts) -> int:
    """Of the images to train on, as they are stored."""
    channels, _, side = facts.spec.image_shape
    side = data.settings.get("store_size") or side
    return facts.images * channels * side**2
