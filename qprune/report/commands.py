"""What qprune report, pick and compare do."""

import json
import shlex
import webbrowser
from pathlib import Path
from typing import Any

from qprune.analysis.answers import Answer, compare_answers
from qprune.analysis.answers import answers as all_answers
from qprune.analysis.front import BASELINES, base_of, is_baseline, operating_points
from qprune.analysis.pick import (
    Limits,
    Pick,
    check_cost,
    choose_points,
    nearest_points,
    parse_limits,
    pick,
    price_of_limits,
)
from qprune.analysis.published import Published, read_published, standings
from qprune.analysis.studies import of_the_grid
from qprune.analysis.tables import markdown_table, with_method
from qprune.registry.errors import UserError
from qprune.report.build import read_sweeps, report_data
from qprune.report.cells import read_measured
from qprune.report.html import write_page
from qprune.storage.results import read_lambdas

NOTHING_FITS = 3  # exit code
SHOWN = ("bit_gflops", "gflops", "weight_bytes", "latency_ms")


def write_report(folder: Path) -> Path:
    """Write a sweep's report.html, of what is there; returns its path. Raises UserError for a folder without a sweep."""
    path = Path(folder) / "report.html"
    write_page(path, report_data([Path(folder)]))
    return path


def report_command(folder: Path, open_page: bool, figures: Path | None, answers: bool = False) -> None:
    """Write the report, and the figures where a folder for them is named; open it in a browser.

    answers: also print what the studies answer, as Markdown.
    """
    path = write_report(folder)
    print(f"report:   {path}")
    if figures is not None:
        _write_figures(path, figures, [folder])
    if answers:
        print_answers(folder)
    if open_page and not webbrowser.open(path.resolve().as_uri()):
        raise UserError(f"no browser could be started; open {path.resolve()} in one")


def _write_figures(page: Path, figures: Path, folders: list[Path]) -> None:
    from qprune.report.figures import write_figures

    written = write_figures(page, figures)
    if not written:
        raise UserError(f"{' and '.join(map(str, folders))}: no finished cell yet, so there are no figures")
    for one in written:
        print(f"figure:   {one}")


def print_answers(folder: Path) -> None:
    """Print what the studies of a sweep answer: sentences and their tables, as Markdown that can be quoted.

    Raises UserError for a folder that isn't a sweep's, and for one without a finished cell.
    """
    found = all_answers(read_measured(folder), lambdas=read_lambdas(folder))
    if not found:
        raise UserError(f"{folder} has no finished cell yet, so there are no answers; run the sweep first")
    _print_answers(found)


def _print_answers(found: list[Answer]) -> None:
    group = None
    for one in found:
        if one.group != group:
            group = one.group
            print(f"\n## {group}")
        print(f"\n### {one.question}\n\n{one.sentence}")
        if one.rows:
            print(f"\n{markdown_table(one.head, one.rows)}")
    print("\nChanges are in percentage points, paired by seed; 95% intervals are over seeds. Test chooses nothing.")


def compare_command(
    folders: list[Path],
    output: Path,
    answers: bool = False,
    published: list[Path] | None = None,
    figures: Path | None = None,
) -> None:
    """Write one page about several sweeps, and print the hypervolume of each.

    answers: also print, as Markdown, how each differs from the first where they have the same cells.
    published: tables of published results, to show beside the sweeps, and to print what these have at their cost; with
    any, one sweep is enough. figures: a folder for the page's charts, of what it shows at first, and with those results.
    """
    if len(folders) < 2 and not published:
        raise UserError(
            "compare needs two sweeps' folders or more, or one and --published FILE; qprune report shows one"
        )
    if len(folders) < 2 and answers:
        raise UserError("compare --answers needs two sweeps' folders or more; qprune report --answers is about one")
    labels = _labels(folders)
    results = read_published(published or [])
    data = report_data(folders, labels, results)
    write_page(output, data)
    for one in data["hypervolumes"]:
        volume = one["volume"]
        if volume["mean"] is None:
            continue
        ends = f"{volume['low']:.1f} to {volume['high']:.1f}" if volume["seeds"] > 1 else ""
        spread = f" (95%: {ends}, {volume['seeds']} seeds)" if ends else " (one seed)"
        print(f"{one['sweep']} on {one['data']}: hypervolume {volume['mean']:.1f} octaves x percentage points{spread}")
    if answers or results:
        cells = read_sweeps(folders, labels)[0]
    if results:
        print_published(operating_points(cells), results)
    print(f"report:   {output}")
    if figures is not None:
        _write_figures(output, figures, folders)
    if answers:
        _print_answers(compare_answers(cells))


def print_published(points, published: list[Published]) -> None:
    """Print, for each published result, what each sweep's operating points have at no more than its cost."""
    for one in published:
        note = "" if one.verified else ", unverified"
        print(
            f"published: {one.method} ({one.model} on {one.data}{note}): "
            f"{100 * one.accuracy:.2f}% at {one.axis} {one.cost:.4g}"
        )
        for standing in standings(points, one):
            caveats = f"; not comparable: {', '.join(standing.caveats)}" if standing.caveats else ""
            if standing.point is None:
                has = "no operating point is that cheap"
            else:
                point = points.loc[standing.point]
                gap = "" if standing.caveats else f" ({100 * (point.accuracy - one.accuracy):+.2f} percentage points)"
                has = f"{100 * point.accuracy:.2f}%{gap} at {point[one.axis]:.4g} ({_made(point)})"
            print(f"  {standing.sweep}, {standing.model} on {standing.data}: {has}{caveats}")
    if points.empty:
        print("  no cell of the sweeps is finished yet")
    print(
        "These are test accuracies; each operating point is the best by validation accuracy at no more than that cost."
    )


def _made(point) -> str:
    """What makes an operating point among those of its sweep, model and data set."""
    criterion = with_method(point.criterion, point.method)
    size = size_text(point.precision, point.pruning_ratio, point.method)
    return f"{size}, {criterion}, {point.seeds} seed(s)"


def _labels(folders: list[Path]) -> list[str]:
    """The folders' names; where two are the same, their whole paths."""
    names = [Path(folder).resolve().name for folder in folders]
    labels = [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"{twice} is named twice; compare takes different sweeps")
    return labels


def pick_command(
    folder: Path,
    max: list[str],
    min: list[str],
    prefer: str,
    as_json: bool,
    cost: str = "bit_gflops",
    data: str | None = None,
    model: str | None = None,
) -> int:
    """Print the operating point that the limits and the preference single out; returns the exit code.

    0, or NOTHING_FITS. cost: what cheapest and knee go by; data, model: choose among the sweep's several.
    """
    cells = read_measured(folder)
    points = choose_points(operating_points(cells), folder, data, model)
    check_cost(points, cost)
    limits = parse_limits(max, min, points)
    picked = pick(points, limits, prefer, cost)
    answer = describe(points, limits, picked, prefer, cost, folder)
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        if any(text.split("=")[0].strip() == "accuracy" for text in min):
            print("note: accuracy is understood as val_accuracy; test accuracy chooses nothing")
        print_pick(answer, prefer)
    return 0 if answer["pick"] else NOTHING_FITS


def describe(points, limits: Limits, picked: Pick, prefer: str, cost: str, folder: Path) -> dict:
    """The pick and what belongs to it as plain JSON."""

    def entry(place: int | None) -> dict | None:
        if place is None:
            return None
        row = points.iloc[place]
        values = {
            "precision": row.precision, "pruning_ratio": float(row.pruning_ratio), "model": row.model, "data": row.data,
            "criterion": row.criterion, "method": row.method, "seeds": int(row.seeds), "val_accuracy": _number(row.val_accuracy),
            "test_accuracy": _number(row.accuracy), "baseline_val_accuracy": _number(row.baseline_val_accuracy),
            "baseline_test_accuracy": _number(row.baseline_accuracy), "cell": row.cell,
        }  # fmt: skip
        names = [*dict.fromkeys((*SHOWN, cost, *limits.largest, *limits.smallest))]
        return values | {name: _number(row[name]) for name in names if name in points and name not in values}

    answer: dict[str, Any] = {
        "limits": list(limits.texts().values()),
        "prefer": prefer,
        "decided_by": picked.prefer,
        "cost": cost,
    }
    answer |= {"feasible": picked.feasible, "points": len(points), "pick": entry(picked.chosen)}
    answer["runners_up"] = [entry(place) for place in picked.runners_up]
    if picked.chosen is None:
        answer["nearest"] = [entry(place) for place in nearest_points(points, limits)]
        prices = price_of_limits(points, limits, prefer, cost)
        answer["without"] = {limits.texts()[column]: entry(place) for column, place in prices.items()}
    else:
        grid = of_the_grid(points)
        dense = grid[(grid.precision == "fp32") & (grid.pruning_ratio == 0)]
        same = dense[dense.model == points.model.iloc[picked.chosen]]
        answer["baseline"] = entry(int(same.index[0])) if len(same) else None
        pruned = ~is_baseline(points.method) & (points.pruning_ratio > 0)
        answer["pruned"] = bool(pruned.iloc[picked.chosen])
        rest = points[pruned.to_numpy() & limits.keep(points)]
        if not answer["pruned"]:
            best = pick(rest.reset_index(drop=True), Limits(), prefer, cost).chosen if len(rest) else None
            answer["best_pruned"] = None if best is None else entry(int(rest.index[best]))
        export = ["qprune", "export", str(folder), answer["pick"]["cell"], "--format", "onnx"]
        answer["export"] = shlex.join(export)
    return answer


def print_pick(answer: dict, prefer: str) -> None:
    """The answer of describe() for people."""
    limits = " ".join(answer["limits"]) or "no limits"
    chosen = answer["pick"]
    if chosen is None:
        print(f"nothing fits: none of {answer['points']} operating points keeps {limits}")
        print("\nnearest:")
        for one in answer["nearest"]:
            print(f"  {_line(one, answer['cost'])}")
        print("\nwhat each limit costs:")
        for text, one in answer["without"].items():
            rest = _line(one, answer["cost"]) if one else "the others can't be kept either"
            print(f"  without {text}: {rest}")
        return
    if answer["decided_by"] != prefer:
        print(f"note: what fits has no {prefer}, so the most accurate is picked")
    made = f"{chosen['model']}, {with_method(chosen['criterion'], chosen['method'])}"
    print(f"{size_text(chosen['precision'], chosen['pruning_ratio'], chosen['method'])} ({made})")
    if not answer["pruned"]:
        best = answer["best_pruned"]
        what = _instead_of_pruning(chosen["method"])
        rest = f"the best pruned one that fits: {_line(best, answer['cost'])}" if best else "no pruned one fits"
        print(f"  this network was never pruned ({what}); {rest}")
    print(f"  {answer['feasible']} of {answer['points']} operating points fit {limits}; prefer {answer['decided_by']}")
    base = answer["baseline"]
    for name in ("val_accuracy", "test_accuracy"):
        reference = chosen[f"baseline_{name}"]
        against = (
            ""
            if reference is None
            else f" ({100 * (chosen[name] - reference):+.2f} percentage points to the FP32 baseline)"
        )
        print(f"  {name:<14} {100 * chosen[name]:.2f}%{against}")
    for name in dict.fromkeys((*SHOWN, answer["cost"])):
        if chosen.get(name) is not None:
            less = f" ({base[name] / chosen[name]:.3g}x less)" if base and base.get(name) else ""
            print(f"  {name:<14} {chosen[name]:.6g}{less}")
    print(f"  means over {chosen['seeds']} seed(s); test accuracy is only shown, it chooses nothing")
    if answer["runners_up"]:
        print("\nrunners-up:")
        for one in answer["runners_up"]:
            print(f"  {_line(one, answer['cost'])}")
    print(f"\ncell (the seed of median validation accuracy): {chosen['cell']}")
    print(f"export:   {answer['export']}")


def _instead_of_pruning(method: str) -> str:
    """What a network is that no one has pruned, by its cell's method."""
    base = base_of(method)
    if base not in BASELINES:
        return "it has all its maps"
    start = "has the widths of a pruned one" if base == "same_shape" else "was narrow from the start"
    return f"it {start}, with random weights"


def size_text(precision: str, ratio: float, method: str) -> str:
    """A point's precision and ratio for people: what no one has pruned is smaller."""
    smaller = base_of(method) in BASELINES
    return f"{precision}, {100 * ratio:g}% {'smaller' if smaller else 'pruned'}"


def _line(one: dict, cost: str) -> str:
    others = [name for name in ("weight_bytes",) if name != cost]
    numbers = ", ".join(f"{name} {one[name]:.4g}" for name in (cost, *others) if one.get(name) is not None)
    size = size_text(one["precision"], one["pruning_ratio"], one["method"])
    return f"{size}: val_accuracy {100 * one['val_accuracy']:.2f}%, {numbers} ({one['cell']})"


def _number(value) -> float | int | None:
    value = float(value)
    if value != value:
        return None
    return int(value) if value.is_integer() and abs(value) >= 2 else value
