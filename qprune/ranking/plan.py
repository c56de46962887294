"""Settings -> the stages of a ranking: for each dense network of a sweep file, scores, the oracle's, and removals."""

import hashlib
import itertools
import json
from dataclasses import dataclass, replace

from qprune.pruning.criteria import CRITERIA, criterion_label
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.path import check_reachable
from qprune.pruning.sets import QUADRANTS
from qprune.settings.config import SweepConfig
from qprune.stages import Stage
from qprune.stages.ranking import GRADIENT, VERSION, minibatches_of, passes
from qprune.sweep.plan import gather_facts, make_plan, short_names

MAPS_PER_STAGE = 16  # of the oracle
STARTS = ("both", "taylor", "activation")
VARIATIONS = (
    *(("both", criterion, quadrant) for criterion in ("taylor", "activation") for quadrant in QUADRANTS),
    ("taylor", "activation", "case_2"),  # for maps of case 1
    ("activation", "taylor", "case_1"),  # for maps of case 2
)  # (start, put_in, quadrant)


@dataclass(frozen=True)
class Removal:
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
    removals: tuple[Removal, ...]

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
    whole = make_plan(config)
    dense = {(cell.model, cell.data, cell.seed): cell.stages["dense"] for cell in whole.cells}
    names = short_names(config)
    stages: dict[str, Stage] = {}
    networks = []
    for model, data, seed in itertools.product(config.model, config.data, config.seeds):
        facts = gather_facts(model.canonical, data.canonical, config.prune.linear, config.prune.ignore, True)
        check_reachable(facts.groups, max(config.rank.shares), config.prune.min_channels)
        source = whole.stages[dense[names[model], names[data], seed]]
        stages |= {name: whole.stages[name] for name in (*source.inputs, source.id)}
        maker = _Maker(config, source, facts.groups, facts.images, stages, f"{model.name} on {data.name}, seed {seed}")
        networks.append(maker.ranked(names[model], names[data], seed))
    stages = {name: replace(stage, trust=config.user_code) for name, stage in stages.items()}
    return RankPlan(config, tuple(networks), stages)


def criteria_of(config: SweepConfig) -> dict[str, dict]:
    """Label -> settings of what is scored: the criteria asked for (or all), and what question A needs."""
    asked = [choice.settings for choice in config.rank.criteria or ()] or [{"name": name} for name in CRITERIA.names()]
    needed = [{"name": "taylor"}, {"name": "activation"}]
    labelled = {criterion_label(settings): settings for settings in [*needed, *asked]}
    return {**labelled, GRADIENT: {"name": GRADIENT}}


class _Maker:
    """Makes the stages of one dense network."""

    def __init__(self, config: SweepConfig, dense: Stage, groups, images: int, stages: dict, title: str):
        self.config, self.dense, self.groups, self.stages, self.title = config, dense, groups, stages, title
        self.rank, self.recipe = config.rank, dense.settings["recipe"]
        self.batch_size = self.recipe["batch_size"]
        self.minibatches = minibatches_of(images, self.rank.images, self.batch_size)
        self.few = min(self.rank.oracle_images, images)
        kept = ("data", "data_fingerprint", "seed")
        self.common = {name: dense.settings[name] for name in kept}
        self.common |= {"linear": config.prune.linear, "ignore": list(config.prune.ignore)}

    def ranked(self, model: str, data: str, seed: int) -> Ranked:
        scores = {label: self._score(label, settings) for label, settings in criteria_of(self.config).items()}
        total = self.groups.total
        oracle = tuple(
            self._oracle(start, min(start + MAPS_PER_STAGE, total)) for start in range(0, total, MAPS_PER_STAGE)
        )
        inputs = (self.dense.id, *(scores[label] for label in ("taylor", "activation", GRADIENT)))
        removals = [self._removal(inputs, 0.0, "none", None, None)]
        for share in self.rank.shares:
            removals += [self._removal(inputs, share, start, None, None) for start in STARTS]
            removals += [self._removal(inputs, share, *variation) for variation in VARIATIONS]
        least = self.config.prune.min_channels
        return Ranked(model, data, seed, self.groups, least, self.dense.id, scores, oracle, tuple(removals))

    def _score(self, label: str, criterion: dict) -> str:
        settings = {"criterion": criterion, "batch_size": self.batch_size, "minibatches": self.minibatches}
        return self._add("score", settings, (self.dense.id,), self.minibatches, f"{label} scores of {self.title}")

    def _oracle(self, start: int, stop: int) -> str:
        settings = {"oracle_images": self.few, "start": start, "stop": stop, "batch_size": self.batch_size}
        work = (stop - start) * passes(self.few, self.batch_size)
        return self._add("oracle", settings, (self.dense.id,), work, f"oracle {start}..{stop - 1} of {self.title}")

    def _removal(self, inputs: tuple, share: float, start: str, put_in: str | None, quadrant: str | None) -> Removal:
        settings = {
            "recipe": self.recipe,
            "oracle_images": self.few,
            "share": share,
            "min_channels": self.config.prune.min_channels,
            "start": start,
            "put_in": put_in,
            "quadrant": quadrant,
            "updates": self.rank.finetune_updates,
            "lr": self.config.finetune.lr,
        }
        swap = f", {quadrant} of {put_in}'s put in" if put_in else ""
        label = f"remove {share:g} of {self.title}: {start}{swap}"
        stage = self._add("removal", settings, inputs, self.rank.finetune_updates, label)
        return Removal(share, start, put_in, quadrant, stage)

    def _add(self, kind: str, settings: dict, inputs: tuple[str, ...], work: int, label: str) -> str:
        settings = {**self.common, **settings}
        identity = json.dumps([kind, VERSION[kind], settings, inputs], sort_keys=True)
        name = f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self.stages.setdefault(name, Stage(name, kind, settings, inputs, work, label))
        return name
