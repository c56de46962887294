"""A sweep's results in a notebook: qprune.load("results/quickstart")."""

from functools import cached_property
from pathlib import Path

from qprune.analysis.front import is_on_front, operating_points
from qprune.analysis.gains import Gains
from qprune.analysis.pick import check_cost, choices_of, parse_limits, pick
from qprune.report.cells import correct_in, read_measured

PALETTE = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's


def load(folder: str | Path) -> "Results":
    """The results of the sweep in a folder, e.g. "results/quickstart". Raises UserError where there is none."""
    return Results(Path(folder))


class Results:
    """What a sweep found. Tables are pandas DataFrames, as they stand when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cells = read_measured(folder)  # one row per cell

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.cells.status.value_counts().items())
        return f"<sweep {self.folder}: {counts}>"

    @cached_property
    def points(self):
        """One row per operating point: means over seeds, `<column>_sd`, and `cell`, the one to hand over."""
        return operating_points(self.cells)

    def front(self, cost: str = "bit_gflops", data: str | None = None, model: str | None = None):
        """The points on the front of cost and validation accuracy, by rising cost. data, model: where there are several."""
        points = self._points(cost, data, model)
        front = points[is_on_front(points[cost].to_numpy(), points.val_accuracy.to_numpy())]
        return front.sort_values(cost, ignore_index=True)

    def pick(
        self,
        max: dict[str, float] | None = None,
        min: dict[str, float] | None = None,
        prefer: str = "most-accurate",
        cost: str = "bit_gflops",
        data: str | None = None,
        model: str | None = None,
        max_drop: float | None = None,
    ):
        """The operating point that keeps the limits, as qprune pick chooses it: a row of `points`, or None.

        max, min: column -> limit, e.g. max={"bit_gflops": 0.5}, min={"val_accuracy": 0.95}; max_drop: percentage points of
        validation accuracy under the baseline's. Its `cell` is the one to hand over, which keeps the limits on costs too.
        """
        check_cost(self.points, cost)
        choices = choices_of(self.cells, self.folder, data, model)
        largest, smallest = ([f"{column}={limit!r}" for column, limit in (part or {}).items()] for part in (max, min))
        limits = parse_limits(largest, smallest, choices.points, prefer, max_drop)
        if limits.sure:
            choices = choices.with_bounds(Gains(self.cells, correct_in(self.folder)))
        picked = pick(choices, limits, prefer, cost)
        if picked.chosen is None:
            return None
        row = choices.points.iloc[picked.chosen].copy()
        row["cell"] = choices.cells.cell[picked.cells[picked.chosen]]
        return row

    def figure(self, cost: str = "bit_gflops", accuracy: str = "val_accuracy", data: str | None = None, model=None):
        """Accuracy against cost as a plotly figure: means over seeds, with each precision's front."""
        import plotly.graph_objects as go

        points = self._points(cost, data, model)
        figure = go.Figure()
        for number, (precision, own) in enumerate(points.groupby("precision", sort=False)):
            colour = PALETTE[number % len(PALETTE)]
            front = own[is_on_front(own[cost].to_numpy(), own.val_accuracy.to_numpy())].sort_values(cost)
            line = {"x": front[cost], "y": front[accuracy], "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
            figure.add_scatter(**line, line={"color": colour, "width": 1.5}, legendgroup=precision)
            figure.add_scatter(
                x=own[cost], y=own[accuracy], mode="markers", name=precision, legendgroup=precision,
                marker={"color": colour, "size": 9}, customdata=own[["pruning_ratio", "cell"]].to_numpy(),
                error_x={"array": own[f"{cost}_sd"], "thickness": 1}, error_y={"array": own[f"{accuracy}_sd"], "thickness": 1},
                hovertemplate="%{customdata[1]}<br>pruned %{customdata[0]:.0%}: %{y:.2%} at %{x:.4g}",
            )  # fmt: skip
        figure.update_xaxes(type="log", title=cost)
        figure.update_yaxes(tickformat=".0%", title=accuracy)
        return figure.update_layout(template="plotly_white", title=None)

    def _points(self, cost: str, data: str | None, model: str | None):
        check_cost(self.points, cost)
        return choices_of(self.cells, self.folder, data, model).points
