"""Tables for the terminal, and in Markdown for a page of results."""

from collections.abc import Callable, Iterable

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qprune.analysis.front import NO_CRITERION, is_baseline, measured
from qprune.analysis.studies import SCRATCH

COLUMNS = 5  # precisions beside each other: more don't fit 80 columns


def accuracy_tables(cells) -> list[Group]:
    """Mean test accuracy (%) ± sd over seeds, ratio x precision, one table per model, data set, criterion and method.

    Of networks from scratch, a line.
    """
    tables = []
    for (model, data, criterion, method), group in cells.groupby(["model", "data", "criterion", "method"], sort=False):
        what = f"{model} on {data}, {with_method(criterion, method)}"
        title = f"{what}: test accuracy (%), mean ± sd over {group.seed.nunique()} seed(s)"
        done = measured(group)
        if method == SCRATCH:  # it has no grid
            tables.append(Group(Text(f"{title}: {_mean_sd(done.accuracy.astype(float))}")))
            continue

        def entry(precision: str, ratio: float, done=done) -> str:
            return _mean_sd(done.accuracy[(done.precision == precision) & (done.pruning_ratio == ratio)].astype(float))

        what = "smaller" if is_baseline(group.method).all() else "pruned"
        ratios = sorted(group.pruning_ratio.unique())
        tables.append(ratio_table(title, group.precision.unique(), ratios, entry, what))
    return tables


def with_method(what: str, method: str) -> str:
    """What is said of cells, e.g. their criterion, and their method where it isn't the usual one, prune_first."""
    if what == NO_CRITERION:
        return method
    return what if method == "prune_first" else f"{what}, {method}"


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, its columns padded so that it is also read as plain text."""
    lines = [[str(text).replace("|", "\\|").replace("\n", " ") for text in line] for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |" for line in lines
    )


def ratio_table(
    title: str,
    precisions: Iterable[str],
    ratios: Iterable[float],
    entry: Callable[[str, float], str],
    what: str = "pruned",
) -> Group:
    """A row for each ratio (what: of what it is one), a column for each precision; of more than COLUMNS, several tables."""
    tables = []
    for some in batched(precisions, COLUMNS):
        table = Table()
        table.add_column(what, justify="right", no_wrap=True)
        for precision in some:
            table.add_column(precision, justify="right", no_wrap=True)
        for ratio in ratios:
            table.add_row(f"{100 * ratio:g}%", *(entry(precision, ratio) for precision in some))
        tables.append(table)
    return Group(Text(title), *tables)  # a table's own title would be broken at the table's width


def batched(values: Iterable[str], size: int) -> list[list[str]]:
    """Lists of so many values, the last of what is left."""
    values = list(values)
    return [values[start : start + size] for start in range(0, len(values), size)]


def _mean_sd(values) -> str:
    if len(values) == 0:
        return "-"
    mean = f"{100 * values.mean():.1f}"
    return f"{mean} ± {100 * values.std():.1f}" if len(values) > 1 else mean
