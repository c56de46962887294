"""Tables for the terminal."""

from rich.table import Table


def accuracy_tables(cells) -> list[Table]:
    """Mean test accuracy (%) ± sd over seeds, precision x ratio, one table per model, data set and criterion."""
    tables = []
    for (model, data, criterion), group in cells.groupby(["model", "data", "criterion"], sort=False):
        seeds = group.seed.nunique()
        table = Table(title=f"{model} on {data}, {criterion}: test accuracy (%), mean ± sd over {seeds} seed(s)")
        table.add_column("pruned")
        ratios = sorted(group.pruning_ratio.unique())
        for ratio in ratios:
            table.add_column(f"{100 * ratio:g}%", justify="right", no_wrap=True)
        for precision in group.precision.unique():
            entries = []
            for ratio in ratios:
                done = group[(group.precision == precision) & (group.pruning_ratio == ratio) & (group.status == "done")]
                entries.append(_mean_sd(done.accuracy.astype(float)))
            table.add_row(precision, *entries)
        tables.append(table)
    return tables


def _mean_sd(values) -> str:
    if len(values) == 0:
        return "-"
    mean = f"{100 * values.mean():.1f}"
    return f"{mean} ± {100 * values.std():.1f}" if len(values) > 1 else mean
