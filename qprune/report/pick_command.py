"""What qprune pick does: the answer as plain JSON, and as text for people."""

import json
import math
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from qprune.analysis.front import BASELINES, base_of, is_baseline
from qprune.analysis.gains import PREFIXES, Gain, Gains, decide, rows_of
from qprune.analysis.pick import (
    Choices,
    Limits,
    Pick,
    check_cost,
    choices_of,
    known_of,
    nearest_points,
    parse_limits,
    pick,
    price_of_limits,
)
from qprune.analysis.statistics import Interval, images_for, room_of
from qprune.analysis.studies import of_the_grid
from qprune.analysis.tables import with_method
from qprune.report.cells import correct_in, export_arguments, measured_how, read_measured
from qprune.report.commands import size_text

NOTHING_FITS = 3  # exit code
SHOWN = ("bit_gflops", "gflops", "weight_bytes", "stored_bytes", "peak_activation_bytes", "latency_ms")
A_POINT = 1.0  # percentage points that the validation split should be able to tell where no drop is named


def pick_command(
    folder: Path,
    max: list[str],
    min: list[str],
    prefer: str,
    as_json: bool,
    cost: str = "bit_gflops",
    data: str | None = None,
    model: str | None = None,
    max_drop: str | None = None,
) -> int:
    """Print the operating point that the limits and the preference single out; returns the exit code.

    0, or NOTHING_FITS. cost: what cheapest and knee go by; data, model: choose among the sweep's several.
    """
    cells = read_measured(folder)
    choices = choices_of(cells, folder, data, model)
    check_cost(choices.points, cost)
    limits = parse_limits(max, min, choices.points, prefer, max_drop)
    gains = Gains(cells, correct_in(folder))
    if limits.sure:
        choices = choices.with_bounds(gains)
    picked = pick(choices, limits, prefer, cost)
    unfinished = {status: int((cells.status == status).sum()) for status in ("pending", "failed")}
    answer = describe(choices, limits, picked, prefer, cost, folder, gains, unfinished)
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        named = {text.split("=")[0].strip() for text in min} & {"accuracy", "balanced_accuracy", "least_recall"}
        for name in sorted(named):
            print(f"note: {name} is understood as val_{name}; test accuracy chooses nothing")
        print_pick(answer, prefer)
    return 0 if answer["pick"] else NOTHING_FITS


def describe(
    choices: Choices,
    limits: Limits,
    picked: Pick,
    prefer: str,
    cost: str,
    folder: Path,
    gains: Gains,
    unfinished: dict[str, int],
) -> dict[str, Any]:
    """The pick and what belongs to it as plain JSON. unfinished: status -> how many of the sweep's cells have no result."""
    points = choices.points
    names = [*dict.fromkeys((*SHOWN, cost, *limits.largest, *limits.smallest))]

    def entry(place: int | None, made: Pick | None = None) -> dict | None:
        """A point; made: the pick by which it hands over its cell, else that of the median."""
        if place is None:
            return None
        row = points.iloc[place]
        values = {
            "precision": row.precision, "pruning_ratio": float(row.pruning_ratio), "model": row.model, "data": row.data,
            "criterion": row.criterion, "method": row.method, "seeds": int(row.seeds), "val_accuracy": _number(row.val_accuracy),
            "test_accuracy": _number(row.accuracy), "baseline_val_accuracy": _number(row.get("baseline_val_accuracy", math.nan)),
            "baseline_test_accuracy": _number(row.baseline_accuracy), "cell": row.cell,
        }  # fmt: skip
        values |= {name: _number(row[name]) for name in names if name in points and name not in values}
        if made is not None:
            cell = choices.cells.iloc[made.cells[place]]
            own = {"val_accuracy": _number(cell.val_accuracy), "test_accuracy": _number(cell.accuracy)}
            own |= {name: _number(cell[name]) for name in names if name in points and name not in own}
            values |= {"cell": cell.cell, "own": own | {"seed": int(cell.seed)}}
        return values

    answer: dict[str, Any] = {"limits": list(limits.texts().values()), "prefer": prefer, "decided_by": picked.prefer}
    answer["limited"] = [*limits.largest, *limits.smallest]
    answer |= {"cost": cost, "feasible": picked.feasible, "points": len(points), "pick": entry(picked.chosen, picked)}
    answer["runners_up"] = [entry(place, picked) for place in picked.runners_up]
    answer["mean_only"] = [entry(place) for place in picked.mean_only]
    answer["unfinished"] = unfinished
    answer["partly_measured"] = partly_measured(choices, limits, cost, folder)
    answer["unsure"] = unsure(choices, limits, gains)
    if picked.chosen is None:
        answer["nearest"] = [entry(place) for place in nearest_points(choices, limits)]
        prices = price_of_limits(choices, limits, prefer, cost)
        answer["without"] = {text: entry(one.chosen, one) for text, one in prices.items()}
        return answer
    grid = of_the_grid(points)
    dense = grid[(grid.precision == "fp32") & (grid.pruning_ratio == 0)]
    same = dense[dense.model == points.model.iloc[picked.chosen]]
    answer["baseline"] = entry(int(same.index[0])) if len(same) else None
    pruned = (~is_baseline(points.method) & (points.pruning_ratio > 0)).to_numpy()
    answer["pruned"] = bool(pruned[picked.chosen])
    if not answer["pruned"]:
        best = pick(_only(choices, pruned), limits, prefer, cost)
        answer["best_pruned"] = entry(best.chosen, best)
    own = choices.cells[choices.cells.point == picked.chosen]
    found = {split: gains.of(rows_of(own), split) for split in PREFIXES}
    answer["gain"] = {split: _gain(one) for split, one in found.items()}
    answer["warnings"] = warnings_of(found["validation"], limits)
    answer["export"] = shlex.join(export_arguments(folder, answer["pick"]["cell"]))
    return answer


def _only(choices: Choices, kept) -> Choices:
    """The same choices, of which the others have no validation accuracy to be chosen by. kept: bool [points]."""
    return Choices(choices.points.assign(val_accuracy=choices.points.val_accuracy.where(kept)), choices.cells)


def partly_measured(choices: Choices, limits: Limits, cost: str, folder: Path) -> list[str]:
    """What is to be said of the columns that were limited, or chosen by, and that only some of the points have."""
    columns = dict.fromkeys((cost, *limits.largest, *limits.smallest))
    how, total, told = measured_how(folder), len(choices.points), []
    for column, count in known_of(choices.points, list(columns)).items():
        ways = f" ({'; '.join(how[column])})" if column in how else ""
        told.append(f"{column}: {count} of {total} operating points have it{ways}; the others were never measured")
    return told


def unsure(choices: Choices, limits: Limits, gains: Gains) -> list[str]:
    """What is to be said of points that keep a drop by their mean, and of which that isn't sure."""
    if not limits.sure or limits.drop is None:
        return []
    left_out = np.flatnonzero(limits.unsure(choices.points))
    if not len(left_out):
        return []
    found = [gains.of(rows_of(own), "validation") for place, own in choices.cells.groupby("point") if place in left_out]
    told = f"{len(left_out)} points that keep --max-drop {limits.drop:g} by their mean are left out: the lower bound is under it"
    by_images = [one.images.n for one in found if not decide(one.seeds)]
    if not by_images:
        return [told]
    images = max(by_images)
    least, enough = 100 * room_of(images), math.ceil(images_for(limits.drop / 100)) if limits.drop else None
    more = f"; about {enough:,} would do, or three seeds" if enough and enough > images else ""
    return [f"{told} ({images} validation images leave room for {least:.2f} points at least{more})"]


def warnings_of(gain: Gain, limits: Limits) -> list[str]:
    """What is to be said where the validation images can't tell the difference that matters."""
    wanted = A_POINT if limits.drop is None else limits.drop
    if gain.images.n == 0 or 100 * gain.half_width <= wanted:
        return []
    what = "1 percentage point" if limits.drop is None else f"--max-drop {wanted:g}"
    return [
        f"{gain.images.n} validation images tell this difference to +-{100 * gain.half_width:.2f} percentage points only "
        f"(95%), which is wider than {what}"
    ]


def _gain(gain: Gain) -> dict:
    return {over: _interval(one) for over, one in (("seeds", gain.seeds), ("images", gain.images))}


def _interval(one: Interval) -> dict:
    return {"mean": _number(one.mean), "low": _number(one.low), "high": _number(one.high), "n": one.n}


def print_pick(answer: dict, prefer: str) -> None:
    """The answer of describe() for people."""
    if missing := [f"{count} {status}" for status, count in answer["unfinished"].items() if count]:
        print(f"note: the sweep isn't finished: {' and '.join(missing)} cell(s); this is of the others")
    limits = " ".join(answer["limits"])
    if answer["pick"] is None:
        _print_nothing(answer, limits)
        return
    chosen, own = answer["pick"], answer["pick"]["own"]
    if answer["decided_by"] != prefer:
        print(f"note: what fits has no {prefer}, so the most accurate is picked")
    made = f"{chosen['model']}, {with_method(chosen['criterion'], chosen['method'])}"
    print(f"{size_text(chosen['precision'], chosen['pruning_ratio'], chosen['method'])} ({made})")
    if not answer["pruned"]:
        best = answer["best_pruned"]
        what = _instead_of_pruning(chosen["method"])
        rest = f"the best pruned one that fits: {_line(best, answer['cost'])}" if best else "no pruned one fits"
        print(f"  this network was never pruned ({what}); {rest}")
    fit = (
        f"{answer['feasible']} of {answer['points']} operating points fit {limits}"
        if limits
        else f"of {answer['points']} operating points"
    )
    print(f"  {fit}; prefer {answer['decided_by']}")
    _print_notes(answer)
    base = answer["baseline"]
    print(f"  {'':<22}{'mean of ' + str(chosen['seeds']) + ' seed(s)':<30}the cell to export")
    for name in ("val_accuracy", "test_accuracy"):
        reference = chosen[f"baseline_{name}"]
        against = "" if reference is None else f" ({100 * (chosen[name] - reference):+.2f} to baseline)"
        _print_row(name, f"{100 * chosen[name]:.2f}%{against}", f"{100 * own[name]:.2f}%")
    for name in own:
        if name in ("val_accuracy", "test_accuracy", "seed") or chosen.get(name) is None:
            continue
        less = f" ({base[name] / chosen[name]:.3g}x less)" if base and base.get(name) and chosen[name] else ""
        _print_row(name, f"{chosen[name]:.6g}{less}", "-" if own[name] is None else f"{own[name]:.6g}")
    _print_gains(answer["gain"])
    for text in answer["warnings"]:
        print(f"  warning: {text}")
    print("  test accuracy is only shown, it chooses nothing")
    if answer["runners_up"]:
        print("\nrunners-up:")
        for one in answer["runners_up"]:
            print(f"  {_line(one, answer['cost'])}")
    print(f"\ncell (of those that keep the limits, nearest to the median validation accuracy): {chosen['cell']}")
    print(f"export:   {answer['export']}")


def _print_nothing(answer: dict, limits: str) -> None:
    print(f"nothing fits: none of {answer['points']} operating points keeps {limits}")
    _print_notes(answer)
    print("\nnearest:")
    for one in answer["nearest"]:
        print(f"  {_line(one, answer['cost'], answer['limited'])}")
    print("\nwhat each limit costs:")
    for text, one in answer["without"].items():
        rest = _line(one, answer["cost"], answer["limited"]) if one else "the others can't be kept either"
        print(f"  without {text}: {rest}")


def _print_notes(answer: dict) -> None:
    for one in answer["mean_only"]:
        size = size_text(one["precision"], one["pruning_ratio"], one["method"])
        print(f"  not {size} ({one['criterion']}): its mean keeps the limits, no seed's cell does")
    for text in (*answer["partly_measured"], *answer["unsure"]):
        print(f"  {text}")


def _print_row(name: str, mean: str, own: str) -> None:
    print(f"  {name:<22}{mean:<30}{own}")


def _print_gains(gain: dict) -> None:
    """The intervals of the differences to the baseline, where there are any."""
    lines = [(split, parts) for split, parts in gain.items() if any(one["low"] is not None for one in parts.values())]
    if lines:
        print("  to the FP32 baseline, percentage points, 95%:")
    for split, parts in lines:
        texts = [
            f"{100 * one['low']:+.2f} to {100 * one['high']:+.2f} over {one['n']} {over}"
            for over, one in parts.items()
            if one["low"] is not None
        ]
        print(f"    {split:<12}{'; '.join(texts)}")


def _instead_of_pruning(method: str) -> str:
    """What a network is that no one has pruned, by its cell's method."""
    base = base_of(method)
    if base not in BASELINES:
        return "it has all its maps"
    start = "has the widths of a pruned one" if base == "same_shape" else "was narrow from the start"
    return f"it {start}, with random weights"


def _line(one: dict, cost: str, limited: Collection[str] = ()) -> str:
    """A point in a line; limited: columns whose values matter, beside the usual ones."""
    names = dict.fromkeys((cost, "weight_bytes", *(name for name in limited if name != "val_accuracy")))
    numbers = ", ".join(f"{name} {one[name]:.4g}" for name in names if one.get(name) is not None)
    size = size_text(one["precision"], one["pruning_ratio"], one["method"])
    return f"{size}: val_accuracy {100 * one['val_accuracy']:.2f}%, {numbers} ({one['cell']})"


def _number(value) -> float | int | None:
    value = float(value)
    if value != value:
        return None
    return int(value) if value.is_integer() and abs(value) >= 2 else value
