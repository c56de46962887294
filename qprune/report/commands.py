"""What qprune report and compare do."""

import webbrowser
from pathlib import Path

from qprune.analysis.answers import Answer, compare_answers
from qprune.analysis.answers import answers as all_answers
from qprune.analysis.front import BASELINES, base_of, operating_points
from qprune.analysis.published import ON, VERIFIED, Published, Standing, read_published, standing_words, standings
from qprune.analysis.tables import markdown_table, with_method
from qprune.registry.errors import UserError
from qprune.report.build import read_sweeps, report_data
from qprune.report.cells import read_measured
from qprune.report.html import write_page
from qprune.storage.results import read_lambdas


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
    """Print, for each published result, what each sweep's operating points have at no more than its cost; then how the
    sources count, and where they were read."""
    for one in published:
        known = [] if one.is_checked else ["unverified"]
        known += [] if one.baseline is None else [f"dense FP32 {100 * one.baseline:.2f}%"]
        known += [] if one.epochs is None else [f"{one.epochs:g} epochs"]
        place = ", ".join([f"{one.model} on {one.data}", *known])
        print(f"published: {one.method} ({place}): {100 * one.accuracy:.2f}% at {one.axis} {_digits(one.cost)}")
        for standing in standings(points, one):
            print(f"  {standing.sweep}, {standing.model} on {standing.data}: {_standing(points, one, standing)}")
    if points.empty:
        print("  no cell of the sweeps is finished yet")
    print(
        "These are test accuracies; each operating point is the best by validation accuracy at no more than that cost. "
        f'"On it" is within {100 * ON:g} percentage point: by chance, two networks at 86% differ by so much on 10,000 images.'
    )
    print("How the sources count:")
    ways: dict[tuple[str, str, str], list[str]] = {}
    for one in published:
        ways.setdefault((one.counting, one.read_in, one.verified), []).append(one.method)
    for (counting, read_in, verified), methods in ways.items():
        print(f"  {', '.join(dict.fromkeys(methods))}: {counting}; read in {read_in} ({VERIFIED[verified]})")


def _standing(points, one: Published, standing: Standing) -> str:
    caveats = f"; not comparable: {', '.join(standing.caveats)}" if standing.caveats else ""
    if not standing.counted:
        return f"its table has no {one.axis}; it was made by an earlier qprune"
    if standing.point is None:
        return f"no operating point is that cheap{caveats}"
    point = points.loc[standing.point]
    gap = "" if standing.caveats else f": {standing_words(point.accuracy - one.accuracy)}"
    return f"{100 * point.accuracy:.2f}% at {_digits(point[one.axis])} ({_made(point)}){gap}{caveats}"


def _digits(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 1000 else f"{cost:.4g}"


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


def size_text(precision: str, ratio: float, method: str) -> str:
    """A point's precision and ratio for people: what no one has pruned is smaller."""
    smaller = base_of(method) in BASELINES
    return f"{precision}, {100 * ratio:g}% {'smaller' if smaller else 'pruned'}"
