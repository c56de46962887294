"""The page's charts, as plotly figures."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from qprune.pruning.sets import QUADRANTS
from qprune.ranking.measured import Measured
from qprune.ranking.tables import COLUMNS, STAGES
from qprune.stages.score import GRADIENT

# Okabe and Ito's palette, told apart with any kind of colour vision
SETS = {
    "kept by both": ("#999999", "circle-open"),
    "removed by both": ("#000000", "circle"),
    "only Taylor removes": ("#0072B2", "triangle-up"),
    "only activation removes": ("#D55E00", "diamond"),
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
RANGE = (1e-2, 1e2)  # of the plane's axes; what lies beyond is drawn at the edge


def correlation_chart(spearman: pd.DataFrame) -> go.Figure:
    """Spearman's rank correlation of every criterion with oracle-abs. spearman: rows of one model and data set."""
    rows = spearman[spearman.target == "oracle_abs"]
    figure = go.Figure()
    for (column, heading), colour in zip(COLUMNS[:3], COLOURS, strict=False):
        part = rows[rows.column == column]
        bars = _error_bars(part)
        figure.add_bar(x=list(part.criterion), y=_plain(part["mean"]), name=heading, marker_color=colour, error_y=bars)
    figure.update_layout(barmode="group", yaxis_title="Spearman with oracle-abs")
    return figure


def lambda_chart(curve: pd.DataFrame) -> go.Figure:
    """Spearman of Taylor + lambda x activation with oracle-abs. curve: rows of the table lambda, of one model and data set."""
    figure = go.Figure()
    for (column, heading), colour in zip(COLUMNS, COLOURS, strict=True):
        part = curve[(curve.column == column) & (curve.what == "spearman")]
        if len(part):
            figure.add_scatter(
                x=[f"{weight:g}" for weight in part["lambda"]], y=_plain(part["mean"]), name=heading, line_color=colour,
                mode="lines+markers", error_y=_error_bars(part),
            )  # fmt: skip
    figure.update_xaxes(type="category", title_text="lambda (0: Taylor alone)")
    figure.update_yaxes(title_text="Spearman with oracle-abs")
    return figure


def plane_chart(network: Measured) -> go.Figure:
    """The maps of one network in the plane of activation and gradient, a part for each share.

    Both axes are relative to the median of the map's layer, so that the lines at 1 are the quadrants' borders.
    """
    x, y = (_over_median(network.scores[name], network) for name in ("activation", GRADIENT))
    shares = list(network.sets)
    figure = make_subplots(
        1, len(shares), subplot_titles=[f"{100 * share:g}% removed" for share in shares], shared_yaxes=True
    )
    labels = [f"{name}, map {number}" for name, number in zip(network.layer, _numbers(network), strict=True)]
    for place, share in enumerate(shares, start=1):
        taylor, activation = network.sets[share]["taylor"], network.sets[share]["activation"]
        chosen = (~taylor & ~activation, taylor & activation, taylor & ~activation, activation & ~taylor)
        for (name, (colour, symbol)), there in zip(SETS.items(), chosen, strict=True):
            marks = {"color": colour, "symbol": symbol, "size": 8}
            figure.add_scatter(
                x=_plain(x[there]), y=_plain(y[there]), text=list(np.array(labels)[there]), mode="markers", name=name,
                marker=marks, legendgroup=name, showlegend=place == 1, row=1, col=place,
                hovertemplate="%{text}<br>%{x:.3g} x %{y:.3g} of the median<extra></extra>",
            )  # fmt: skip
        figure.add_hline(1, line_color="#55606e", line_width=1, row=1, col=place)
        figure.add_vline(1, line_color="#55606e", line_width=1, row=1, col=place)
    figure.update_xaxes(type="log", range=_edges(x), title_text="mean |z| / median of its layer")
    figure.update_yaxes(type="log", range=_edges(y))
    figure.update_yaxes(title_text="mean |dC/dz| / median of its layer", col=1)
    return figure


def cost_chart(effects: pd.DataFrame) -> go.Figure:
    """What a map that only one criterion removes costs in validation loss on top of what both remove, by quadrant and share.

    effects: rows of one model and data set.
    """
    rows = effects[effects.loss == "val_loss"]
    shares, stages = list(rows.share.unique()), [when for when in STAGES if (rows.when == when).any()]
    titles = [f"{100 * share:g}% removed, {when} fine-tuning" for when in stages for share in shares]
    figure = make_subplots(len(stages), len(shares), subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.12)
    names = {
        name: SETS[f"only {word} removes"][0] for name, word in (("taylor", "Taylor"), ("activation", "activation"))
    }
    axis = ["case 1", "case 2", "high, high", "low, low"]  # as QUADRANTS; activation, gradient
    for down, when in enumerate(stages, start=1):
        for across, share in enumerate(shares, start=1):
            here = rows[(rows.share == share) & (rows.when == when)]
            for name, colour in names.items():
                part = here[here.effect == f"{name}_only_per_map"].set_index("quadrant").loc[list(QUADRANTS)]
                figure.add_bar(
                    x=axis, y=_plain(part["mean"]), error_y=_error_bars(part), name=f"a map that only {name} removes",
                    marker_color=colour, legendgroup=name, showlegend=(down, across) == (1, 1), row=down, col=across,
                )  # fmt: skip
    figure.update_layout(barmode="group")
    figure.update_yaxes(title_text="validation loss per map", col=1)
    return figure


def _edges(values: np.ndarray) -> list[float]:
    """A logarithmic axis' ends, a little beyond the values and 1."""
    ends = np.log10([min(values.min(), 1), max(values.max(), 1)])
    room = 0.06 * max(ends[1] - ends[0], 0.1)
    return [float(ends[0] - room), float(ends[1] + room)]


def _over_median(values: np.ndarray, network: Measured) -> np.ndarray:
    result = np.empty_like(values)
    for layer in network.groups.layers:
        part = values[layer.start : layer.stop]
        # NOTE where more than half of a layer's maps are dead its median is 0: what lives goes to the upper edge
        result[layer.start : layer.stop] = part / max(float(np.median(part)), np.finfo(float).tiny)
    return result.clip(*RANGE)


def _numbers(network: Measured) -> list[int]:
    return [number for layer in network.groups.layers for number in range(layer.stop - layer.start)]


def _error_bars(part: pd.DataFrame) -> dict:
    above, below = _plain(part.high - part["mean"]), _plain(part["mean"] - part.low)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}


def _plain(values) -> list[float | None]:
    """Plain numbers for JSON; None for nan."""
    return [None if value != value else float(value) for value in values]
