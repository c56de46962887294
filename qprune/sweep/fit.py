"""What fits a night: which budget, how many seeds, or which ratios, each changed alone from the sweep file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qprune.registry.duration import duration_text
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig, load_config
from qprune.sweep.forecast import Measured, measure, wall_seconds_of
from qprune.sweep.run import open_sweep

MOST_TIMES = 64  # times the file's budget that are tried, and seeds


@dataclass(frozen=True)
class Fit:
    """A change of the sweep file, as typed after --set, and what it is forecast to take: seconds of wall time."""

    change: str
    seconds: float


def fits(
    config: SweepConfig, out: Path, seconds: float, workers: int, measured: dict[tuple[str, str], Measured]
) -> list[Fit]:
    """The largest budget, the most seeds and the most ratios with which the rest of a sweep takes at most so long.

    Of more than fit, the first seeds are taken, and ratios evenly from the smallest to the largest. What is done already
    costs nothing. Left out is what doesn't fit however small, and a budget where phases have their own.
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
        return wall_seconds_of(plan, store, folder, measured, workers)

    found = []
    for numbers, change in (_budgets(config), _seeds(config), _ratios(config)):
        if best := _largest(numbers, change, cost, seconds):
            found.append(best)
    return found


Changes = tuple[range, Callable[[int], str]]


def _budgets(config: SweepConfig) -> Changes:
    if config.budget is None:
        return range(0), str
    key = config.budget.given or "epochs"
    now = getattr(config.budget, key)
    return range(1, MOST_TIMES * now + 1), lambda number: f"budget.{key}={number}"


def _seeds(config: SweepConfig) -> Changes:
    new = (seed for seed in range(max(config.seeds) + 1, max(config.seeds) + 1 + MOST_TIMES))
    seeds = [*config.seeds, *new]
    return range(1, MOST_TIMES + 1), lambda count: f"seeds={seeds[:count]}"


def _ratios(config: SweepConfig) -> Changes:
    ratios = sorted(config.prune.ratios)

    def change(count: int) -> str:
        step = (len(ratios) - 1) / max(count - 1, 1)
        chosen = [ratios[round(place * step)] for place in range(count)]
        return f"prune.ratios={chosen}"

    fewest = 2 if ratios[0] == 0 else 1  # ratio 0 alone prunes nothing
    return range(fewest, len(ratios) + 1), change


def _largest(
    numbers: range, change: Callable[[int], str], cost: Callable[[str], float | None], seconds: float
) -> Fit | None:
    """The largest number whose change costs at most so much; costs grow with numbers, and small ones may be impossible."""
    low, high, best = numbers.start, numbers.stop, None
    while low < high:
        middle = (low + high) // 2
        text = change(middle)
        takes = cost(text)
        if takes is not None and takes > seconds:
            high = middle
        else:
            best = best if takes is None else Fit(text, takes)
            low = middle + 1
    return best


def show_fits(config: SweepConfig, out: Path, seconds: float, workers: int, console: Console) -> None:
    """Print whether a sweep fits so many seconds, and what would."""
    plan, store, folder = open_sweep(config, out)
    measured = measure(plan)
    takes = wall_seconds_of(plan, store, folder, measured, workers)
    said = f"{config.name}: about {duration_text(takes)} with {workers} worker(s) of 1 thread"
    console.print(f"{said}; {'fits' if takes <= seconds else 'does not fit'} {duration_text(seconds)}", highlight=False)
    found = fits(config, out, seconds, workers, measured)
    if found:
        console.print("each of these alone fits:", highlight=False)
    for one in found:
        console.print(f"  --set {one.change}  (about {duration_text(one.seconds)})", highlight=False, soft_wrap=True)
    if not found:
        console.print("nothing smaller fits; a cheaper network or data set is needed", highlight=False)
