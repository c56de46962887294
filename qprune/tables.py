"""Tables for the terminal."""

from collections.abc import Callable, Iterable

from rich.console import Group
from rich.table import Table
from rich.text import Text


def accuracy_tables(cells) -> list[Group]:
    """Mean test accuracy (%) ± sd over seeds, ratio x precision, one table per model, data set and criterion."""
    tables = []
    for (model, data, criterion), group in cells.groupby(["model", "data", "criterion"], sort=False):
        title = f"{model} on {data}, {criterion}: test accuracy (%), mean ± sd over {group.seed.nunique()} seed(s)"

        def entry(precision: str, ratio: float, group=group) -> str:
            chosen = (group.precision == precision) & (group.pruning_ratio == ratio) & (group.status == "done")
            return _mean_sd(group.accuracy[chosen].astype(float))

        tables.append(ratio_table(title, group.precision.unique(), sorted(group.pruning_ratio.unique()), entry))
    return tables


def ratio_table(
    title: str, precisions: Iterable[str], ratios: Iterable[float], entry: Callable[[str, float], str]
) -> Group:
    """A row for each pruning ratio, a column for each precision."""
    table = Table()
    table.add_column("pruned", justify="right", no_wrap=True)
    for precision in precisions:
        table.add_column(precision, justify="right", no_wrap=True)
    for ratio in ratios:
        table.add_row(f"{100 * ratio:g}%", *(entry(precision, ratio) for precision in precisions))
    return Group(Text(title), table)  # a table's own title would be broken at the table's width


def _mean_sd(values) -> str:
    if len(values) == 0:
        return "-"
    mean = f"{100 * values.mean():.1f}"
    return f"{mean} ± {100 * values.std():.1f}" if len(values) > 1 else mean
