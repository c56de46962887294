"""What fits a night: which budget, how many seeds, or which ratios, each changed alone from the sweep file."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qprune.registry.duration import duration_text
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig, load_config
from qprune.sweep.faults import NONE, Faults
from qprune.sweep.forecast import Measured, time_updates, timing_lines, wall_seconds_of
from qprune.sweep.rehearsal import rehearse
from qprune.sweep.run import open_sweep

MOST_TIMES = 64  # times the file's budget that are tried, and seeds


@dataclass(frozen=True)
class Fit:
    """A change of the sweep file, as typed after --set, and what it is forecast to take: seconds of wall time.

    most: it is the largest that was tried, so that more may fit too.
    """

    change: str
    seconds: float
    most: bool = False


@dataclass(frozen=True)
class Knob:
    """Numbers of which the file has one, and the change of the file that each of them is."""

    numbers: range
    now: int
    change: Callable[[int], str]


def fits(
    config: SweepConfig,
    out: Path,
    seconds: float,
    workers: int,
    measured: dict[tuple[str, str], Measured],
    faults: Faults = NONE,
) -> list[Fit]:
    """The largest budget, the most seeds and the most ratios with which the rest of a sweep takes at most so long.

    Of more than fit, the first seeds are taken, and ratios evenly from the smallest to the largest. What is done already
    costs nothing. Left out is what doesn't fit however small, what the file has already, and a budget where phases have
    their own.
    """
    assert config.source is not None, "a sweep file is needed"
    source = config.source

    def cost(change: str) -> float | None:
        """None: it can't be made so."""
        try:
            changed = load_config(source.path, [*source.overrides, change])
            plan, store, folder = open_sweep(changed, out)
        except UserError:
            return None
        return wall_seconds_of(plan, store, folder, measured, workers, faults)

    knobs = filter(None, (_budgets(config), _seeds(config), _ratios(config)))
    return [best for knob in knobs if (best := _largest(knob, cost, seconds))]


def _budgets(config: SweepConfig) -> Knob | None:
    if config.budget is None:
        return None
    key = config.budget.given or "epochs"
    now = getattr(config.budget, key)
    return Knob(range(1, MOST_TIMES * now + 1), now, lambda number: f"budget.{key}={number}")


def _seeds(config: SweepConfig) -> Knob:
    new = range(max(config.seeds) + 1, max(config.seeds) + 1 + MOST_TIMES)
    seeds = [*config.seeds, *new]
    return Knob(range(1, MOST_TIMES + 1), len(config.seeds), lambda count: f"seeds={seeds[:count]}")


def _ratios(config: SweepConfig) -> Knob:
    ratios = sorted(config.prune.ratios)

    def change(count: int) -> str:
        step = (len(ratios) - 1) / max(count - 1, 1)
        chosen = [ratios[round(place * step)] for place in range(count)]
        return f"prune.ratios={chosen}"

    fewest = 2 if ratios[0] == 0 else 1  # ratio 0 alone prunes nothing
    return Knob(range(fewest, len(ratios) + 1), len(ratios), change)


def _largest(knob: Knob, cost: Callable[[str], float | None], seconds: float) -> Fit | None:
    """The largest number whose change costs at most so much, but for the file's own. Costs grow with numbers; what can't be
    made is too small for that below the file's number, and too large from there on."""
    low, high = knob.numbers.start, knob.numbers.stop
    best: tuple[int, float] | None = None
    while low < high:
        middle = (low + high) // 2
        takes = cost(knob.change(middle))
        if middle >= knob.now if takes is None else takes > seconds:
            high = middle
        else:
            best = best if takes is None else (middle, takes)
            low = middle + 1
    if best is None or best[0] == knob.now:
        return None
    number, takes = best
    return Fit(knob.change(number), takes, number == knob.numbers[-1])


def show_fits(
    config: SweepConfig, out: Path, seconds: float, workers: int, console: Console, anew: bool = False
) -> None:
    """Print whether a sweep fits so many seconds, and what would. anew: as for show_plan."""
    plan, store, folder = open_sweep(config, out)
    faults = rehearse(plan, (), console).faults
    measured = time_updates(plan, faults, console, anew)
    takes = wall_seconds_of(plan, store, folder, measured, workers, faults)
    fit, most = takes <= seconds, "at most" if config.strategy == "front" else "about"
    said = f"{config.name}: {most} {duration_text(takes)} with {workers} worker(s) of 1 thread"
    console.print(f"{said}; {'fits' if fit else 'does not fit'} {duration_text(seconds)}", highlight=False)
    for line in timing_lines(measured):
        console.print(line, highlight=False, soft_wrap=True)
    found = fits(config, out, seconds, workers, measured, faults)
    if found:
        console.print(f"each of these alone fits{' too' if fit else ''}:", highlight=False)
    for one in found:
        more = "; more may, too" if one.most else ""
        text = f"  --set {shlex.quote(one.change)}  ({most} {duration_text(one.seconds)}{more})"
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    if config.budget is None:
        console.print("no budget is among them: its phases have their own (write `budget:` for one)", highlight=False)
    if not found and not fit:
        console.print("nothing smaller fits; a cheaper network or data set is needed", highlight=False)
