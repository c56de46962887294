"""What `strategy: front` would have left of finished full grids: their hypervolume and their updates, with no training.

python tests/benchmarks/adaptive.py results/review_c ...; each folder's sweep file is sweeps/<its name>.yaml.

The search is run against the recorded outcomes, with each seed alone and with all. Columns, all shares of the full grid's:
hypervolume_means: of the operating points that have every seed; hypervolume_seeds: the mean of the seeds' own, scouted cells among them; updates: of distinct stages, networks from scratch on neither side;
cells; updates_bound: dense networks, baselines and one path to its end, which no choice of cells with that path saves;
updates_oracle: what knowing all outcomes beforehand takes for 98% of the means' hypervolume, choosing greedily.
"""

import dataclasses
import sys
from pathlib import Path

from bench import write

from qprune.analysis.front import hypervolume, operating_points
from qprune.analysis.studies import BELOW_BASELINE
from qprune.settings.config import load_config
from qprune.storage.results import read_cells
from qprune.sweep.plan import Plan, make_plan
from qprune.sweep.search import Search, is_of_the_grid

SWEEPS = Path(__file__).parent.parent.parent / "sweeps"
ENOUGH = 0.98


def outcomes_of(plan: Plan, cells) -> dict[str, tuple[float, float] | None]:
    """What a finished grid's table says of the evaluations of a plan's cells and baselines."""
    rows, outcomes = cells.set_index("cell"), {}
    for cell in plan.cells:
        row = rows.loc[cell.id]
        if row.status == "done":
            outcomes[cell.baseline] = (row.baseline_val_accuracy, row.bit_gflops / row.relative_bops)
    for cell in plan.cells:
        row = rows.loc[cell.id]
        done = row.status == "done"
        outcomes[cell.stages["evaluate"]] = (row.val_accuracy, row.bit_gflops) if done else None
    return outcomes


def stages_of(plan: Plan, asked: set[str]) -> set[str]:
    """All stages that these cells need, with their baselines."""
    cells = [cell for cell in plan.cells if cell.id in asked]
    return plan.needed_by({name for cell in cells for name in (*cell.stages.values(), cell.baseline)})


class Grid:
    """The full grid of a plan: its hypervolumes and updates."""

    def __init__(self, plan: Plan, cells):
        self.plan = plan
        self.cells = cells[cells.cell.isin({cell.id for cell in plan.cells}) & (cells.status == "done")]
        self.cost = (self.cells.bit_gflops / self.cells.relative_bops).max()
        self.accuracy = self.cells.baseline_val_accuracy.mean() - BELOW_BASELINE
        self.seeds = self.cells.seed.nunique()
        self.all = {cell.id for cell in plan.cells}
        self.updates = plan.updates_of(stages_of(plan, self.all))

    def _volume(self, points) -> float:
        return hypervolume(points.bit_gflops.to_numpy(), points.val_accuracy.to_numpy(), self.cost, self.accuracy)

    def of_means(self, asked: set[str]) -> float:
        points = operating_points(self.cells[self.cells.cell.isin(asked)])
        return self._volume(points[points.seeds == self.seeds])

    def of_seeds(self, asked: set[str]) -> float:
        chosen = self.cells[self.cells.cell.isin(asked)]
        return sum(self._volume(operating_points(seed)) for _, seed in chosen.groupby("seed")) / self.seeds

    def share_of_updates(self, asked: set[str]) -> float:
        return self.plan.updates_of(stages_of(self.plan, asked)) / self.updates

    def bound(self) -> float:
        """Dense networks, baselines, and of each seed the first variant's path to its end."""
        last = max(cell.ratio for cell in self.plan.cells)
        firsts = {cell.seed: cell for cell in reversed(self.plan.cells) if cell.ratio == last}
        needed = {name for cell in firsts.values() for name in stages_of(self.plan, {cell.id})}
        own = {cell.stages[kind] for cell in firsts.values() for kind in ("finetune", "quantize")}
        return self.plan.updates_of(needed - own) / self.updates

    def oracle(self) -> float:
        """Greedily, by the means' hypervolume for the updates, from the baselines on."""
        points = operating_points(self.cells)
        groups: dict[tuple, set[str]] = {}
        for cell in self.plan.cells:
            groups.setdefault((cell.criterion, cell.variant, cell.precision, cell.ratio), set()).add(cell.id)
        keys = zip(points.criterion, points.method, points.precision, points.pruning_ratio, strict=True)
        needed = [stages_of(self.plan, groups[key]) for key in keys]
        spent = self.plan.needed_by({cell.baseline for cell in self.plan.cells})
        chosen = [number for number, stages in enumerate(needed) if stages <= spent]
        while self._volume(points.loc[chosen]) < ENOUGH * self._volume(points):
            volume = self._volume(points.loc[chosen])

            def worth(number: int, volume=volume) -> float:
                price = self.plan.updates_of(needed[number] - spent)
                return (self._volume(points.loc[[*chosen, number]]) - volume) / max(price, 1)

            best = max((number for number in points.index if number not in chosen), key=worth)
            chosen.append(best)
            spent |= needed[best]
        return self.plan.updates_of(spent) / self.updates


def replay(plan: Plan, cells) -> set[str]:
    """The cells that the search asks for."""
    search = Search(plan)
    left = search.advance(outcomes_of(plan, cells))
    assert not left, f"{left[0].id} isn't in the table"
    return search.asked


def row_of(folder: Path, plan: Plan, cells, seeds: list[int]) -> dict:
    searched = (cell for cell in plan.cells if cell.seed in seeds and is_of_the_grid(cell))
    plan = dataclasses.replace(plan, cells=tuple(searched))
    grid, asked = Grid(plan, cells), replay(plan, cells)
    return {
        "grid": folder.name,
        "seeds": " ".join(map(str, seeds)),
        "hypervolume_means": round(grid.of_means(asked) / grid.of_means(grid.all), 4),
        "hypervolume_seeds": round(grid.of_seeds(asked) / grid.of_seeds(grid.all), 4),
        "updates": round(grid.share_of_updates(asked), 4),
        "cells": round(len(asked) / len(grid.all), 4),
        "full_updates": grid.updates,
        "updates_bound": round(grid.bound(), 4),
        "updates_oracle": round(grid.oracle(), 4),
    }


def main() -> None:
    rows = []
    for folder in map(Path, sys.argv[1:]):
        plan, cells = make_plan(load_config(SWEEPS / f"{folder.name}.yaml")), read_cells(folder)
        seeds = sorted({cell.seed for cell in plan.cells})
        every = [[seed] for seed in seeds] + ([seeds] if len(seeds) > 1 else [])
        rows += [row_of(folder, plan, cells, some) for some in every]
    write("adaptive", rows)


if __name__ == "__main__":
    main()
