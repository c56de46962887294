"""Settings -> cells and the stages that they are made of.

What a cell is made of is its method's affair (qprune/methods). Cells share every stage that they can: a stage is named
by all that it is, so equal work has one name in all sweeps.
"""

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qprune.analysis.front import NO_CRITERION
from qprune.data import shown_name
from qprune.methods import Made, Maker
from qprune.methods.facts import MAX_NETWORKS, Facts
from qprune.methods.maker import ratio_text
from qprune.methods.prune_first import chain as prune_first_chain
from qprune.methods.spending import Spending
from qprune.pruning.criteria import criterion_label
from qprune.pruning.maps import left_out_lines
from qprune.recipe import Recipe
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig, place_of
from qprune.settings.methods import METHODS, Method
from qprune.stages import Phase, Stage

MAX_CELLS = 100_000  # of one sweep; planning them takes about 15 seconds


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    equal: what it has as much of as the pruned cells, "updates" or training "flops"; cap: times their updates, where equal
    FLOPs would have been more; variant: the method, and what is equal if that isn't the updates, as tables name it; stages: kind -> id of its stage, in the order in which its network goes through them; network: the stage whose
    network is evaluated. Of the same seed, dense: the dense network after N updates; baseline: the evaluation of ratio 0
    in FP32.
    """

    id: str
    model: str
    data: str
    criterion: str
    method: str
    precision: str
    ratio: float
    seed: int
    equal: str
    cap: float | None
    variant: str
    stages: dict[str, str]
    network: str
    dense: str
    baseline: str


@dataclass(frozen=True)
class Plan:
    """A sweep's cells, and all stages that they need, each after its inputs. facts, spending, recipes: of (model, data),
    by their names."""

    config: SweepConfig
    cells: tuple[Cell, ...]
    stages: dict[str, Stage]
    facts: dict[tuple[str, str], Facts]
    spending: dict[tuple[str, str], Spending]
    recipes: dict[tuple[str, str], Recipe]

    def left_out_lines(self) -> Iterator[str]:
        """Of each network, which maps can't be pruned, and why."""
        for name, group in itertools.groupby(self.facts.items(), key=lambda item: item[0][0]):
            _, facts = next(group)  # a network's layers are the same on every data set
            yield from (f"{name}: {line}" for line in (left_out_lines(facts.layout) if facts.layout else ()))

    def needed_by(self, stages: Iterable[str]) -> set[str]:
        """These stages and all that they are computed from."""
        found: set[str] = set()
        frontier = list(stages)
        while frontier:
            if (name := frontier.pop()) not in found:
                found.add(name)
                frontier += self.stages[name].inputs
        return found

    def updates_of(self, stages: Iterable[str]) -> int:
        """What these stages train, in all."""
        return sum(self.stages[name].updates for name in stages)

    def phases(self, cell: Cell) -> list[Phase]:
        """The phases that the cell's network goes through, from its first update on, those of each stage by themselves."""
        line: list[Stage] = []
        name: str | None = cell.network
        while name is not None:
            line.append(self.stages[name])
            name = line[-1].continues
        return [phase for stage in reversed(line) for phase in stage.phases]

    def updates_by_phase(self, cell: Cell) -> dict[str, int]:
        """Phase -> updates of the cell's network, in the order of its phases."""
        updates: dict[str, int] = {}
        for phase in self.phases(cell):
            updates[phase.name] = updates.get(phase.name, 0) + phase.updates
        return updates

    def total_updates(self, cell: Cell) -> int:
        """N + P + F + Q: the same for every cell of equal updates that shares model, data and settings."""
        return sum(phase.updates for phase in self.phases(cell))


def methods_of(config: SweepConfig) -> list[Method]:
    """The methods that a sweep asks for, in its order."""
    names = [*config.order, *(["scratch"] if config.train.scratch_baseline else []), *config.baselines]
    return [METHODS.get(name) for name in dict.fromkeys(names)]


def make_plan(config: SweepConfig) -> Plan:
    """All cells of the grid and the stages behind them. Trains nothing; raises UserError where a cell can't be made."""
    check_size(config)
    stages: dict[str, Stage] = {}
    cells: list[Cell] = []
    facts: dict[tuple[str, str], Facts] = {}
    spending: dict[tuple[str, str], Spending] = {}
    recipes: dict[tuple[str, str], Recipe] = {}
    names = short_names(config)
    for model, data, criterion, seed in itertools.product(
        config.model, config.data, config.prune.criterion, config.seeds
    ):
        maker = Maker(config, model, data, criterion, seed, stages)
        place = names[model], names[data]
        facts[place], spending[place], recipes[place] = maker.facts, maker.spending, maker.recipe
        dense, *_, baseline = prune_first_chain(maker, "fp32", 0.0)
        for method in methods_of(config):
            if not method.ranks and criterion != config.prune.criterion[0]:
                continue  # it has been made
            ranking = criterion_label(criterion.settings) if method.ranks else NO_CRITERION
            for made in method.load()(maker):
                cells.append(_cell(made, names[model], names[data], ranking, method.name, seed, dense.id, baseline.id))
    plan = Plan(config, tuple(cells), stages, facts, spending, recipes)
    _check_budgets(plan)
    return plan


def _cell(made: Made, model: str, data: str, criterion: str, method: str, seed: int, dense: str, baseline: str) -> Cell:
    *_, last, evaluated = made.stages
    stages = {stage.kind: stage.id for stage in made.stages}
    if len(stages) < len(made.stages) or not evaluated.ends_cell or evaluated.continues != last.id:
        raise ValueError(
            f"method {method}: stages {list(stages)} don't end in an evaluation, or one kind is there twice"
        )
    variant = method if made.equal == "updates" else f"{method}.{made.equal}"  # as criteria name their options
    how = [
        part for part, shown in ((criterion, criterion != NO_CRITERION), (variant, method != "prune_first")) if shown
    ]
    label = "-".join([model, data, *how, made.precision, f"r{ratio_text(made.ratio)}", f"s{seed}"])
    place = (criterion, method, made.precision, made.ratio, seed, made.equal, made.cap, variant)
    return Cell(label, model, data, *place, stages, network=last.id, dense=dense, baseline=baseline)


def _check_budgets(plan: Plan) -> None:
    """Raises UserError where two cells of one model and data set differ in updates, but for those that are to have equal
    training FLOPs: such a comparison would not be fair."""
    first: dict[tuple[str, str], tuple[Cell, int]] = {}
    for cell in plan.cells:
        if cell.equal != "updates":
            continue
        updates = plan.total_updates(cell)
        other, others = first.setdefault((cell.model, cell.data), (cell, updates))
        if updates != others:
            raise UserError(
                f"method {cell.method} gives {cell.id} {updates:,} updates, and method {other.method} gives "
                f"{other.id} {others:,}: cells that are compared must have as many"
            )


def check_size(config: SweepConfig) -> None:
    """Raises UserError where the grid is larger than anyone can train."""
    networks = len(config.model) * len(config.data)
    axes = {
        ("model",): (len(config.model), "network"),
        ("data",): (len(config.data), "data set"),
        ("seeds",): (len(config.seeds), "seed"),
        ("prune", "criterion"): (len(config.prune.criterion), "criterion"),
        ("prune", "ratios"): (len(config.prune.ratios), "ratio"),
        ("precisions",): (len(config.precisions), "precision"),
        ("order",): (len(methods_of(config)), "method"),
    }
    if networks > MAX_NETWORKS:
        place = place_of(config, "model" if len(config.model) >= len(config.data) else "data")
        problem = f"{networks:,} networks on data sets are more than {MAX_NETWORKS}, the most that one sweep takes"
    elif (cells := math.prod(length for length, _ in axes.values())) > MAX_CELLS:
        place = place_of(config, *max(axes, key=lambda axis: axes[axis]))
        counted = " x ".join(f"{length:,} {noun}{'s' if length > 1 else ''}" for length, noun in axes.values())
        counted = counted.replace("criterions", "criteria")
        problem = f"{cells:,} cells ({counted}) are more than {MAX_CELLS:,}, the most that one sweep takes"
    else:
        return
    raise UserError(f"{place}: {problem}; shorten this list, or split it over several sweeps: stages are shared")


def short_names(config: SweepConfig) -> dict[Choice, str]:
    """Short names for models and data sets that are fit for file names, and different where the choices are.

    ASCII letters, digits, "_" and "." (not first), at most 67 of them: a cell's id, made of two, can be a file's name.
    """
    names: dict[Choice, str] = {}
    for axis in (config.model, config.data):
        whole = [
            re.sub(r"[^A-Za-z0-9_.]+", "_", shown_name(choice.settings).removeprefix("torchvision:")) for choice in axis
        ]
        plain = [re.sub(r"^\.", "_", name[:60]) for name in whole]
        count = Counter(plain)
        for choice, name, long in zip(axis, plain, whole, strict=True):
            alone = count[name] == 1 and len(long) <= 60
            names[choice] = name if alone else f"{name}.{hashlib.sha256(choice.canonical.encode()).hexdigest()[:6]}"
    return names
