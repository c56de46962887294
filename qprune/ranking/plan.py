"""Settings -> the stages of a ranking: for each dense network of a sweep file, scores, the oracle's, and removals."""

import itertools
from dataclasses import dataclass

from qprune.methods import Maker
from qprune.methods.facts import gather_facts
from qprune.methods.maker import Common
from qprune.pruning.criteria import CRITERIA, criterion_label
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.schedule import check_reachable
from qprune.pruning.sets import QUADRANTS
from qprune.recipe import updates_per_epoch
from qprune.registry.choice import Choice
from qprune.settings.config import SweepConfig
from qprune.stages import Cut, Stage
from qprune.stages.oracle import Oracle
from qprune.stages.removal import Removal
from qprune.stages.score import GRADIENT, Score
from qprune.sweep.plan import check_size, short_names

MAPS_PER_STAGE = 16  # of the oracle
STARTS = ("both", "taylor", "activation")
VARIATIONS = (
    *(("both", criterion, quadrant) for criterion in ("taylor", "activation") for quadrant in QUADRANTS),
    ("taylor", "activation", "case_2"),  # for maps of case 1
    ("activation", "taylor", "case_1"),  # for maps of case 2
)  # (start, put_in, quadrant)


@dataclass(frozen=True)
class RemovedSet:
    """One set that is removed. share: of all maps; start, put_in, quadrant: as for qprune.pruning.sets.removal."""

    share: float
    start: str
    put_in: str | None
    quadrant: str | None
    stage: str


@dataclass(frozen=True)
class Ranked:
    """One dense network and the ids of its stages.

    scores: criterion's label -> id; oracle: ids, in the order of maps.
    """

    model: str
    data: str
    seed: int
    groups: ChannelGroups
    min_channels: int
    dense: str
    scores: dict[str, str]
    oracle: tuple[str, ...]
    removals: tuple[RemovedSet, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        return (self.dense, *self.scores.values(), *self.oracle, *(removal.stage for removal in self.removals))


@dataclass(frozen=True)
class RankPlan:
    """All dense networks of a sweep file, and all stages, each after its inputs."""

    config: SweepConfig
    networks: tuple[Ranked, ...]
    stages: dict[str, Stage]


def make_rank_plan(config: SweepConfig) -> RankPlan:
    """The stages behind a ranking. Trains nothing; raises UserError as make_plan does, and for a share out of reach."""
    check_size(config)
    names = short_names(config)
    stages: dict[str, Stage] = {}
    networks = []
    for model, data, seed in itertools.product(config.model, config.data, config.seeds):
        maker = Maker(config, model, data, config.prune.criterion[0], seed, stages)
        facts = gather_facts(model, data, config.prune.linear, config.prune.ignore, True)
        check_reachable(facts.groups, max(config.rank.shares), config.prune.min_channels)
        networks.append(_Ranking(maker, facts.groups).ranked(names[model], names[data], seed))
    return RankPlan(config, tuple(networks), stages)


def criteria_of(config: SweepConfig) -> dict[str, dict]:
    """Label -> settings of what is scored: the criteria asked for (or all), and what question A needs."""
    asked = [choice.settings for choice in config.rank.criteria or ()] or [{"name": name} for name in CRITERIA.names()]
    needed = [{"name": "taylor"}, {"name": "activation"}]
    labelled = {criterion_label(settings): settings for settings in [*needed, *asked]}
    return {**labelled, GRADIENT: {"name": GRADIENT}}


class _Common(Common):
    cut: Cut
    dense: str


class _Ranking:
    """Makes the stages of one dense network."""

    def __init__(self, maker: Maker, groups: ChannelGroups):
        self.maker, self.groups, self.rank = maker, groups, maker.config.rank
        self.dense = maker.dense()
        self.batch_size = maker.recipe.batch_size
        self.few = min(self.rank.oracle_images, maker.facts.images)
        self.common: _Common = {**maker.common, "cut": maker.cut, "dense": self.dense.id}

    def ranked(self, model: str, data: str, seed: int) -> Ranked:
        scores = {label: self._score(label, settings) for label, settings in criteria_of(self.maker.config).items()}
        total, least = self.groups.total, self.maker.config.prune.min_channels
        oracle = tuple(
            self._oracle(start, min(start + MAPS_PER_STAGE, total)) for start in range(0, total, MAPS_PER_STAGE)
        )
        sets: list[tuple[float, str, str | None, str | None]] = [(0.0, "none", None, None)]
        for share in self.rank.shares:
            sets += [(share, start, None, None) for start in STARTS]
            sets += [(share, *variation) for variation in VARIATIONS]
        removals = tuple(RemovedSet(*each, self._removal(scores, *each)) for each in sets)
        return Ranked(model, data, seed, self.groups, least, self.dense.id, scores, oracle, removals)

    def _score(self, label: str, criterion: dict) -> str:
        minibatches = updates_per_epoch(
            min(self.maker.facts.images, self.rank.images or self.maker.facts.images), self.batch_size
        )
        stage = Score(
            **self.common,
            criterion=Choice.of(criterion),
            batch_size=self.batch_size,
            minibatches=minibatches,
            label=f"{label} scores of {self.maker.title}",
        )
        return self.maker.add(stage).id

    def _oracle(self, start: int, stop: int) -> str:
        label = f"oracle {start}..{stop - 1} of {self.maker.title}"
        return self.maker.add(
            Oracle(
                **self.common,
                oracle_images=self.few,
                batch_size=self.batch_size,
                start=start,
                stop=stop,
                label=label,
            )
        ).id

    def _removal(
        self, scores: dict[str, str], share: float, start: str, put_in: str | None, quadrant: str | None
    ) -> str:
        swap = f", {quadrant} of {put_in}'s put in" if put_in else ""
        stage = Removal(
            **self.common,
            recipe=self.maker.recipe,
            oracle_images=self.few,
            share=share,
            min_channels=self.maker.config.prune.min_channels,
            start=start,
            put_in=put_in,
            quadrant=quadrant,
            budget=self.rank.finetune_updates,
            lr=self.maker.config.finetune.lr,
            rate=self.maker.finetune_rate(self.rank.finetune_updates),
            taylor=scores["taylor"],
            activation=scores["activation"],
            gradient=scores[GRADIENT],
            label=f"remove {share:g} of {self.maker.title}: {start}{swap}",
        )
        return self.maker.add(stage).id
