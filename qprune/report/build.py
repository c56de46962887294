"""Cells, records and stages of finished sweeps -> the data of the page, as plain JSON."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

import qprune
from qprune.analysis.costs import COST_WORDS, cost_words
from qprune.analysis.front import (
    BASELINES,
    COSTS,
    GROUP,
    MEASURED,
    NO_CRITERION,
    ON_A_DEVICE,
    POINT,
    RECALLS,
    STUDY,
    base_of,
    costs_in,
    from_the_median,
    is_on_front,
    on_devices,
    operating_points,
)
from qprune.analysis.gains import PREFIXES, Gains, Own, decide, gain_over_seeds, rows_of
from qprune.analysis.lambdas import chosen_lambdas, lambda_curve
from qprune.analysis.pick import MAXIMA, MINIMA
from qprune.analysis.published import VERIFIED, Published, same_name
from qprune.analysis.sentences import undecayed
from qprune.analysis.statistics import Interval, interval
from qprune.analysis.studies import (
    REFERENCES,
    budget,
    drops,
    equal_cost,
    hypervolumes,
    interactions,
    of_group,
    orders,
    references,
    scratch_like,
)
from qprune.analysis.worth import Worth, baselines_beside, headline, octave_verdict, why_unknown, worth
from qprune.pruning.criteria import criterion_label
from qprune.registry.errors import UserError
from qprune.report.cells import measured_how, own_code, read_measured
from qprune.report.classes import class_tables
from qprune.report.details import (
    DETAILED_CELLS,
    correct_images,
    curve_tables,
    layer_tables,
    read_log,
    record_if_kept,
    sampling_errors,
)
from qprune.storage.results import read_lambdas, read_sweep_file

CELL_COLUMNS = (
    "cell", *GROUP, "precision", "pruning_ratio", "achieved_ratio", "seed", "status", "val_accuracy", "accuracy", *RECALLS,
    "val_loss", "test_loss", "baseline_val_accuracy", "baseline_accuracy", *COSTS, "gbops", "macs", "params", "speedup",
    "total_updates", "training_flops", "training_flops_cap", "seconds", "reason", "protocol", "ratio_of",
)  # fmt: skip
POINT_COLUMNS = (
    "precision", "pruning_ratio", "achieved_ratio", "cell", "seeds", "val_accuracy", "accuracy", "val_accuracy_sd",
    "accuracy_sd", *RECALLS, "val_gain", "val_loss", "test_loss", "baseline_val_accuracy", "baseline_accuracy", "gbops", "macs", "params", "speedup",
    *COSTS, *(f"{cost}_sd" for cost in COSTS),
)  # fmt: skip
CHOSEN_BY = (*MAXIMA, *MINIMA)  # the page holds limits against them, to the last bit as the command does
MEASURES = ("val_accuracy", "accuracy", "val_loss", "test_loss")
ENDS = ("mean", "low", "high")  # of an interval
WAYS = ("pruned", "quantised", "both")  # of EqualCost
TEXTS = ("cell", *GROUP, "precision", "status", "reason", "protocol", "ratio_of")


def report_data(folders: list[Path], labels: list[str] | None = None, published: Sequence[Published] = ()) -> dict:
    """All that the page shows of the sweeps in these folders. labels: other names for the sweeps, all different.

    published: results of papers to show beside them.

    Raises UserError for a folder that isn't a sweep's, and Damaged for a file that is not what was written.
    """
    cells, places = read_sweeps(folders, labels)
    points = operating_points(cells)
    costs = [cost for cost in costs_in(points) if cost in points and points[cost].notna().any()]
    times = on_devices(costs)
    costs = costs or [cost for cost in COSTS if cost not in MEASURED]  # nothing is finished yet
    detailed = _detailed(cells, points)
    records = [record_if_kept(places[sweep], cell) for cell, sweep in zip(detailed.cell, detailed.sweep, strict=True)]
    record_of = {
        (sweep, record["cell"]): record for sweep, record in zip(detailed.sweep, records, strict=True) if record
    }
    correct = {place: right for place, one in record_of.items() if (right := correct_images(one)) is not None}
    groups = points[GROUP].drop_duplicates().reset_index(drop=True)
    lambdas = {sweep: read_lambdas(folder) for sweep, folder in places.items()}
    group_of = {tuple(row): number for number, row in enumerate(groups.itertuples(index=False))}
    point_of = {tuple(row): number for number, row in enumerate(points[POINT].itertuples(index=False))}
    counts = cells.status.value_counts()
    return {
        "version": qprune.__version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "sweeps": [_sweep(label, folder, cells[cells.sweep == label]) for label, folder in places.items()],
        "counts": {status: int(counts.get(status, 0)) for status in ("done", "failed", "pending", "skipped")},
        "costs": costs,
        "words": {cost: asdict(cost_words(cost)) for cost in (*COST_WORDS, *costs)},
        "cells": _columns(cells, (*CELL_COLUMNS, *times), digits=7)
        | {"point": [point_of.get(tuple(row), -1) for row in cells[POINT].itertuples(index=False)]},
        "points": _columns(points, (*POINT_COLUMNS, *times, *(f"{one}_sd" for one in times)))
        | _gains(points, cells, record_of, places)
        | {"group": [group_of[tuple(row)] for row in points[GROUP].itertuples(index=False)]},
        "groups": [
            row | {"baseline": _is_baseline(row), "studies": _studies_of(row, cells, points, correct, lambdas)}
            for row in groups.to_dict("records")
        ],
        "hypervolumes": _hypervolumes(cells) if len(places) > 1 else [],
        "published": [_published(one, cells) for one in published],
        "details": {
            "rows": [int(row) for row in detailed.index],
            "all": len(detailed) == int(counts.get("done", 0)),
            "layers": layer_tables(records),
            "curves": _curves(places, detailed, records),
            "predicted": class_tables(detailed, points, records),
        },
    }


def read_sweeps(folders: list[Path], labels: list[str] | None):
    """(the cells of all sweeps, one after the other; label -> folder)."""
    import pandas as pd

    frames, places = [], {}
    for number, folder in enumerate(map(Path, folders)):
        frame = read_measured(folder)
        texts = [name for name in TEXTS if name in frame and name != "reason"]
        frame[texts] = frame[texts].astype(str)
        label = labels[number] if labels else str(frame.sweep.iloc[0]) if len(frame) else folder.name
        if "reason" in frame:
            frame["reason"] = _reasons(frame, folder)
        frame["sweep"] = label
        frames.append(frame)
        places[label] = folder
    return pd.concat(frames, ignore_index=True), places


def _reasons(frame, folder: Path):
    """Why each cell failed, with the end of its log where there is one."""
    reasons = frame.reason.astype(object)
    for row in frame.index[frame.status == "failed"]:
        if log := read_log(folder, frame.cell[row]):
            reasons[row] = f"{reasons[row]}\n\nThe end of its log:\n{log}"
    return reasons


def _detailed(cells, points):
    """The done cells whose layers and curves the page has: all, or of many those of the fronts, then the first ones."""
    done = cells[cells.status == "done"]
    if len(done) <= DETAILED_CELLS:
        return done
    on_front = np.zeros(len(points), dtype=bool)
    for _, some in points.groupby([*STUDY, "precision"]):
        front = is_on_front(some.bit_gflops.to_numpy(), some.val_accuracy.to_numpy())
        on_front[some.index[front]] = True
    wanted = points.cell[on_front | ((points.precision == "fp32") & (points.pruning_ratio == 0))]
    first = done[done.cell.isin(set(wanted))]
    others = done.drop(first.index)
    return done.loc[sorted([*first.index, *others.index][:DETAILED_CELLS])]


def _sweep(label: str, folder: Path, cells) -> dict:
    """Provenance of one sweep."""
    written = read_sweep_file(folder) if (folder / "sweep.json").is_file() else {}
    machines = []
    done = cells[cells.status == "done"]
    if len(done):
        for machine, count in done[["device", "host", "threads", "versions"]].astype(str).value_counts().items():
            machines.append(
                {**dict(zip(("device", "host", "threads", "versions"), machine, strict=True)), "cells": count}
            )
    return {
        "name": label,
        "folder": str(folder),
        "measured": measured_how(folder),
        "own_code": own_code(folder),
        "file": written.get("file", {}),
        "settings": written.get("settings", {}),
        "criteria": _criteria(written.get("settings", {})),
        "machines": machines,
        "seconds": float(done.seconds.sum()),
        "updates": int(done.total_updates.max()) if len(done) else 0,
        "seeds": sorted(int(seed) for seed in cells.seed.unique()),
    }


def _criteria(settings: dict) -> dict[str, dict]:
    """Label, as the column has it -> settings of each criterion that the sweep file names."""
    found = {}
    for one in settings.get("prune", {}).get("criterion", ()):
        with suppress(UserError):  # one that isn't registered here
            found[criterion_label(one)] = one
    return found


def _is_baseline(row: dict) -> bool:
    return base_of(row["method"]) in BASELINES


def _studies_of(row: dict, *rest) -> dict | None:
    return None if row["criterion"] == NO_CRITERION or _is_baseline(row) else _studies(row, *rest)


def _studies(row: dict, cells, points, correct: dict, lambdas: dict) -> dict:
    """The comparisons within one sweep, model, data set, criterion and method, and of both orders where there are both.

    Tables are columns, with an interval's ends as columns of its own; operating points are their numbers.
    """
    both_orders = of_group(cells, row, [column for column in GROUP if column != "method"])
    scratch, beside = scratch_like(cells, row), baselines_beside(cells, row)
    cells, first = of_group(cells, row), of_group(points, row)
    right = {cell: correct[row["sweep"], cell] for cell in cells.cell if (row["sweep"], cell) in correct}
    sampling = sampling_errors(cells, right)
    on_validation, equal = drops(cells), equal_cost(cells, first)
    places = [(one.precision, one.ratio) for one in on_validation]
    test = {(one.precision, one.ratio): one.drop for one in drops(cells, "accuracy", "baseline_accuracy")}
    on_images = [sampling.get(place, interval([])) for place in places]
    number = [int(place) for place in first.index]
    return {
        "worth": [_worth(one) for one in worth(cells, beside)],
        "worth_unknown": why_unknown(beside),
        "drops": _places(on_validation)
        | {
            "validation": _intervals([one.drop for one in on_validation]),
            "test": _intervals([test[place] for place in places]),
            "images": {end: [_number(getattr(one, end)) for one in on_images] for end in ENDS},
        },
        "interactions": {column: _effects(interactions(cells, column)) for column in MEASURES},
        "orders": {column: _effects(orders(both_orders, column)) for column in MEASURES},
        "budget": {"updates": _updates(cells), "undecayed": undecayed(cells).strip()}
        | {column: _budget(cells, scratch, column) for column in REFERENCES},
        "lambda": _lambda(row, lambdas[row["sweep"]]),
        "equal_cost": {"limit": [one.limit for one in equal]}
        | {way: [None if (best := getattr(one, way)) is None else number[best] for one in equal] for way in WAYS}
        | {"difference": _intervals([one.difference for one in equal])},
    }


def _gains(points, cells, records: dict[tuple[str, str], dict], places: dict[str, Path]) -> dict:
    """Each point's gains over the baseline, as intervals in columns, and the bound by which cheapest-within chooses.

    records: of the cells that have details; of others one is read only where the bound hangs on it.
    """
    own: dict[tuple, list[Own]] = {}
    for one in rows_of(from_the_median(cells)):
        own.setdefault(one.point, []).append(one)
    decides = {
        (one.sweep, one.cell)
        for some in own.values()
        if not decide(gain_over_seeds(some, "validation"))
        for one in some
    }
    decides |= {
        (one.sweep, one.cell)
        for some in own.values()
        for one in some
        if one.precision == "fp32" and one.pruning_ratio == 0
    }

    @cache
    def both(sweep: str, cell: str) -> dict[str, np.ndarray | None]:
        record = records.get((sweep, cell))
        if record is None and (sweep, cell) in decides:
            record = record_if_kept(places[sweep], cell)
        return {split: correct_images(record, split) for split in PREFIXES}

    def correct(sweep: str, cell: str, split: str) -> np.ndarray | None:
        return both(sweep, cell)[split]

    gains = Gains(cells, correct)
    each = [own[tuple(row)] for row in points[POINT].itertuples(index=False)]
    found = {split: [gains.of(some, split) for some in each] for split in PREFIXES}
    return {
        "val_gain_bound": [_number(one.low) for one in found["validation"]],
        "gains": {
            split: {
                "seeds": _intervals([one.seeds for one in some]),
                "images": _intervals([one.images for one in some]),
            }
            for split, some in found.items()
        },
    }


def _worth(one: Worth) -> dict:
    octaves = one.octaves
    return {
        "baseline": one.baseline,
        "sentence": headline(one),
        "rows": {name: [getattr(each, name) for each in octaves] for name in ("precision", "cost", "pruned", "other")}
        | {name: _intervals([getattr(each, name) for each in octaves]) for name in ("test", "validation")}
        | {"p": [_number(each.p) for each in octaves], "verdict": [octave_verdict(each) for each in octaves]},
    }


def _lambda(row: dict, lambdas) -> dict | None:
    """The curve by which cross-validation chose the group's lambda, LambdaPoint's fields; None where it chose none."""
    if lambdas is None:
        return None
    own = lambdas[np.logical_and.reduce([lambdas[name] == row[name] for name in ("model", "data", "criterion")])]
    if not len(own):
        return None
    curve, chosen = lambda_curve(own), chosen_lambdas(own)
    return {
        "folds": int(own.fold.nunique()),
        "chosen": {"seed": list(chosen), "weight": list(chosen.values())},
        "curve": {name: [getattr(one, name) for one in curve] for name in ("weight", "ratio")}
        | {name: _intervals([getattr(one, name) for one in curve]) for name in ("loss", "gain")},
    }


def _budget(cells, scratch, column: str) -> dict:
    """What the page shows of the unpruned network's updates: its accuracies, and a table of Budget's fields."""
    lines = {
        name: {
            "mean": _number(values.mean()),
            "sd": _number(values.std(ddof=1)) if len(values) > 1 else None,
            "seeds": len(values),
        }
        for name, values in references(cells, scratch, column).items()
    }
    losses = budget(cells, scratch, column)
    parts = {
        name: _intervals([getattr(one, name) for one in losses]) for name in ("apparent", "fair", "scratch", "extra")
    }
    return {"lines": lines, "rows": _places(losses) | parts}


def _updates(cells) -> dict[str, int]:
    """N, of dense training, and N + M, of every cell as a whole; those of the first cell, for all are equal."""
    first = cells[cells.status == "done"].iloc[0]
    return {"dense": int(first.updates_dense), "total": int(first.total_updates)}


def _hypervolumes(cells) -> list[dict]:
    return [
        {"data": data, "sweep": sweep, "volume": _interval(volume)}
        for data, group in cells.groupby("data", sort=False)
        for sweep, volume in hypervolumes(group).items()
    ]


def _published(one: Published, cells) -> dict:
    """A published result, what it costs on the axes that have it, and which of the models and data sets are its own."""
    own = {name: [here for here in cells[name].unique() if same_name(getattr(one, name), here)] for name in STUDY}
    derived = {"counts_alike": one.counts_alike, "checked": one.is_checked, "costs": one.costs, "own": own}
    return asdict(one) | derived | {"verified": VERIFIED[one.verified]}


def _curves(places: dict[str, Path], detailed, records: list) -> dict:
    """curve_tables of all sweeps; the stages lie beside the sweep's folder."""
    curves: list[dict] = []
    by_row: dict[int, dict] = {}
    for sweep, folder in places.items():
        rows = [number for number, name in enumerate(detailed.sweep) if name == sweep]
        tables = curve_tables(folder.parent / "stages", [records[row] for row in rows])
        for row, parts in zip(rows, tables["cells"], strict=True):
            by_row[row] = {"phase": [phase for phase, _ in parts], "curve": [place + len(curves) for _, place in parts]}
        curves += tables["curves"]
    return {"curves": curves, "cells": [by_row[row] for row in range(len(records))]}


def _interval(one: Interval) -> dict:
    return {end: _number(getattr(one, end)) for end in ENDS} | {"seeds": one.n}


def _intervals(some: list[Interval]) -> dict[str, list]:
    """Intervals as columns."""
    return {end: [_number(getattr(one, end)) for one in some] for end in ENDS} | {"seeds": [one.n for one in some]}


def _places(some: list) -> dict[str, list]:
    return {"precision": [one.precision for one in some], "ratio": [one.ratio for one in some]}


def _effects(some: list) -> dict:
    return _places(some) | {"effect": _intervals([one.effect for one in some])}


def _number(value: float, digits: int | None = None):
    """JSON has no nan: null. Whole numbers lose their ".0"."""
    if value is None or math.isnan(value) or math.isinf(value):
        return None
    value = float(value) if digits is None else float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _columns(frame, names: tuple[str, ...], digits: int | None = None) -> dict:
    """Columns as lists, numbers to so many digits but for those of CHOSEN_BY; of texts, {"names": distinct ones, "index": [...]}. Columns without any value are left out."""
    columns: dict[str, dict | list] = {}
    for name in names:
        if name not in frame or frame[name].isna().all():
            continue
        if name in TEXTS:
            index, distinct = frame[name].factorize()
            columns[name] = {"names": [str(text) for text in distinct], "index": index.tolist()}
        else:
            own = None if name in CHOSEN_BY or name.startswith(ON_A_DEVICE) else digits
            columns[name] = [_number(value, own) for value in frame[name].astype(float).tolist()]
    return columns
