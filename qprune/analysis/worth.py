"""Is pruning worth it? The fronts of pruned networks against those of networks from random weights that were never wide.

Unpruned networks (ratio 0) are on both fronts. Points are chosen by mean validation accuracy; what is compared is the test
accuracy of those, seed by seed, with the validation accuracy beside it.
"""

from dataclasses import dataclass, replace

from qprune.analysis.front import NO_CRITERION, base_of, hypervolume, is_baseline, is_on_front, measured
from qprune.analysis.sentences import verdict
from qprune.analysis.statistics import Interval, holm, interval, paired_p
from qprune.analysis.studies import BELOW_BASELINE, best_at_cost, of_group

POINT = ["precision", "pruning_ratio"]
MOST_OCTAVES = 20


@dataclass(frozen=True)
class Octave:
    """The best pruned and the best other network at no more than a share of the dense cost, 2^-octaves, at one precision.

    pruned, other: ratios of these points, None where there is none that cheap; test, validation: differences in accuracy
    (a fraction), paired by seed; p: Holm-adjusted over the table, nan where nothing is compared or both are one network.
    """

    precision: str
    octaves: int
    cost: float
    pruned: float | None
    other: float | None
    test: Interval
    validation: Interval
    p: float


@dataclass(frozen=True)
class Worth:
    """Pruned minus baseline. baseline: its method, as tables name it; equal: "updates" or "flops"; restarted: whether the pruned
    networks had been trained before their budget began, which the baseline can't have been; test, validation: hypervolumes,
    octaves of bit_gflops x percentage points, over the costs that both sides reach, paired by seed.

    points: operating points of either side; skipped: those that a search has left out. As these are what the front of all
    networks together can do without, the fronts of the two sides are not known then, and nothing is compared. reaches: whether any network of
    either side is within BELOW_BASELINE of the baseline, so that there is a hypervolume.
    """

    baseline: str
    equal: str
    restarted: bool
    test: Interval
    validation: Interval
    octaves: tuple[Octave, ...]
    points: int
    skipped: int
    reaches: bool = True


def baselines_beside(cells, group: dict):
    """The cells of baselines that are of the group's sweep, model and data set; in the shape of pruned ones, of its criterion."""
    same = of_group(cells, group, ["sweep", "model", "data"])
    own = is_baseline(same.method) & same.criterion.isin((NO_CRITERION, group["criterion"]))
    return same[own & (same.pruning_ratio.astype(float) > 0)]


def worth(cells, beside) -> list[Worth]:
    """One comparison for each baseline. cells: of_group, pruned and unpruned; beside: baselines_beside of it."""
    if beside.empty:
        return []
    pruned = _numbers(measured(cells))
    unpruned = pruned[pruned.pruning_ratio == 0]
    restarted = "protocol" in pruned and bool((pruned.protocol == "restart").any())
    found = []
    for method, rows in beside.groupby("method", sort=False):
        equal = "flops" if str(method).endswith(".flops") else "updates"
        both = _concat(cells, rows)
        points, skipped = (len(some.groupby(["method", *POINT])) for some in (both, both[both.status == "skipped"]))
        if skipped:
            found.append(Worth(str(method), equal, restarted, interval([]), interval([]), (), points, skipped))
            continue
        own = _numbers(measured(rows))
        other = _concat(unpruned, own)
        seeds = sorted(set(pruned.seed) & set(own.seed))
        if not seeds or own.empty or not (pruned.pruning_ratio > 0).any():
            continue
        ways = [_complete(way, seeds) for way in (pruned, other)]
        if any(way.empty for way in ways):
            continue
        end = max(_means(way).bit_gflops.min() for way in ways)
        tested, validated = ([_volumes(way, column, end) for way in ways] for column in ("accuracy", "val_accuracy"))
        reaches = any(any(volumes.values()) for volumes in tested)
        octaves = tuple(_octaves(*ways))
        found.append(
            Worth(str(method), equal, restarted, _gain(*tested), _gain(*validated), octaves, points, skipped, reaches)
        )
    return found


def _numbers(cells):
    cells = cells.copy()
    for column in (
        "accuracy",
        "val_accuracy",
        "baseline_accuracy",
        "baseline_val_accuracy",
        "bit_gflops",
        "relative_bops",
    ):
        cells[column] = cells[column].astype(float)
    return cells


def _concat(*frames):
    import pandas as pd

    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _complete(cells, seeds: list[int]):
    """The cells of points that have all these seeds, and only of these."""
    cells = cells[cells.seed.isin(seeds)]
    return cells[cells.groupby(POINT).seed.transform("nunique") == len(seeds)]


def _means(cells):
    return cells.groupby(POINT, sort=False)[["bit_gflops", "val_accuracy"]].mean().reset_index()


def front_of(cells):
    """The cells (all seeds) of the points that are on the front by mean validation accuracy and mean bit_gflops."""
    means = _means(cells)
    front = is_on_front(means.bit_gflops.to_numpy(), means.val_accuracy.to_numpy())
    return cells.merge(means.loc[front, POINT], on=POINT)


def best_within(cells, cost: float):
    """The cells of the point of best mean validation accuracy at a mean cost of no more than that; None: there is none."""
    if cells.empty:
        return None
    means = _means(cells)
    best = best_at_cost(means.bit_gflops.to_numpy(), means.val_accuracy.to_numpy(), cost)
    return None if best is None else cells.merge(means.loc[[best], POINT], on=POINT)


def _volumes(cells, column: str, end: float) -> dict[int, float]:
    """Seed -> hypervolume in octaves x percentage points, of the front by mean validation accuracy, at costs from `end` on:
    what is cheaper than the cheapest network of the other side has no counterpart, and counts as if it cost as much."""
    dense = _dense_cost(cells)
    return {
        int(seed): 100
        * hypervolume(
            own.bit_gflops.clip(lower=end), own[column], dense, own[f"baseline_{column}"].iloc[0] - BELOW_BASELINE
        )
        for seed, own in front_of(cells).groupby("seed")
    }


def _dense_cost(cells) -> float:
    """bit_gflops of the dense FP32 network."""
    return float((cells.bit_gflops / cells.relative_bops).iloc[0])


def _gain(these: dict[int, float], those: dict[int, float]) -> Interval:
    return interval([these[seed] - those[seed] for seed in sorted(these.keys() & those.keys())])


def _octaves(pruned, other) -> list[Octave]:
    dense, rows = _dense_cost(pruned), []
    for precision in dict.fromkeys(pruned.precision):
        ways = [way[way.precision == precision] for way in (pruned, other)]
        for octaves in range(MOST_OCTAVES):
            limit = dense * 2.0**-octaves * (1 + 1e-9)
            best = [best_within(way, limit) for way in ways]
            if all(one is None for one in best):
                break
            if any(_any_within(way, limit / 2, limit) for way in ways):  # else the octave below says the same
                rows.append(_octave(precision, octaves, dense * 2.0**-octaves, *best))
    adjusted = holm([one.p for one in rows])
    return [replace(one, p=p) for one, p in zip(rows, adjusted, strict=True)]


def _any_within(cells, above: float, limit: float) -> bool:
    """Whether a point's mean cost is above one limit and within the other."""
    costs = _means(cells).bit_gflops
    return bool(((costs > above) & (costs <= limit)).any())


def _octave(precision: str, octaves: int, cost: float, pruned, other) -> Octave:
    """With its own p, which isn't adjusted yet."""
    ratios = [None if one is None else float(one.pruning_ratio.iloc[0]) for one in (pruned, other)]
    test, validation, p = interval([]), interval([]), float("nan")
    if pruned is not None and other is not None:
        sides = [way.set_index("seed") for way in (pruned, other)]
        differences = [list((sides[0][name] - sides[1][name]).dropna()) for name in ("accuracy", "val_accuracy")]
        test, validation = map(interval, differences)
        p = float("nan") if ratios == [0.0, 0.0] else paired_p(differences[0])
    return Octave(precision, octaves, cost, ratios[0], ratios[1], test, validation, p)


# In words --------------------------------------------------------------------------------------------------------------

NOT_RUN = "No baseline was run, so nothing says whether a narrower network would have done: --set baselines=[narrower]."
NOT_COMPARED = (
    "Baselines are in the table, but none can be compared yet: pruned networks and baselines both need finished cells of "
    "the same seeds."
)
NAMES = {"narrower": "narrower networks from random weights", "same_shape": "the same shapes with new weights"}


def why_unknown(beside) -> str:
    """Why there is no comparison, and what there has to be. beside: as worth takes it."""
    return NOT_RUN if beside.empty else NOT_COMPARED


def headline(one: Worth) -> str:
    """One sentence: is pruning shown better, worse, or neither."""
    name = NAMES.get(base_of(one.baseline), one.baseline)
    equal = "equal training FLOPs (at most 4 times the updates)" if one.equal == "flops" else "equal updates"
    if one.skipped:
        return (
            f"At {equal}, nothing can be said of pruning against {name}: the search has skipped {one.skipped} of their "
            f"{one.points} points, which the front of all together can do without; --set strategy=grid computes them."
        )
    if not one.reaches:
        return (
            f"At {equal}, nothing can be said of pruning against {name}: no network of either front comes within "
            f"{100 * BELOW_BASELINE:.0f} percentage points of its unpruned FP32 baseline on the test images."
        )
    size = f"{abs(one.test.mean):.1f}"
    span = f" [{one.test.low:+.1f}, {one.test.high:+.1f}]" if one.test.n > 1 else ""
    said = {
        "better": f"shown better than {name} by {size}{span}",
        "worse": f"shown worse than {name} by {size}{span}",
        "one seed: can't say": f"{one.test.mean:+.1f} against {name}, but one seed can't say",
    }.get(verdict(one.test, "better", "worse"), f"not shown better or worse than {name}: {one.test.mean:+.1f}{span}")
    text = (
        f"At {equal}, pruning is {said} (test hypervolume of fronts that validation chose, octaves of bit_gflops x "
        f"percentage points, over the costs that both reach, {one.test.n} seed{'s' if one.test.n != 1 else ''})."
    )
    if one.restarted:
        text += " The pruned networks had been trained before; what they had then is outside the budget, and the others had none of it."
    return text


def octave_verdict(one: Octave) -> str:
    """Which is the better at one octave and precision; differences count that Holm's method leaves below 5%."""
    if one.pruned is None or one.other is None:
        return "no overlap"
    if one.pruned == one.other == 0:
        return "the same network"
    if one.test.n < 2:
        return "one seed: can't say"
    if one.p < 0.05:
        return "pruned" if one.test.mean > 0 else "baseline"
    return "no difference shown"
