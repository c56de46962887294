"""The fronts on one plot, as SVG and PNG: drawn by plotly in a browser without a window."""

import tempfile
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from qprune.analysis.front import is_on_front
from qprune.report.figures import write_figures

from .tables import front_of

# Okabe and Ito's palette, told apart with any kind of colour vision
STYLES = {
    "qprune": ("qprune (Taylor)", "#0072B2"),
    "torch_pruning": ("Torch-Pruning + Brevitas", "#D55E00"),
    "width": ("narrower, from scratch", "#009E73"),
    "random": ("random pruning", "#999999"),
    "unpruned": ("unpruned", "#000000"),
}
SYMBOLS = {"fp32": "circle", "int8": "square", "w8a8": "square", "w4a4": "triangle-up"}
PAGE = """<!doctype html><html><body><script>{plotly}</script><script>
(async () => {{
  const chart = {chart}, figures = {{}};
  for (const format of ["svg", "png"])
    figures["fronts." + format] = await Plotly.toImage(chart, {{ format, width: 1100, height: 640, scale: format === "png" ? 2 : 1 }});
  const text = document.createElement("pre");
  text.id = "figures";
  text.textContent = JSON.stringify(figures);
  document.body.replaceChildren(text);
}})();
</script></body></html>"""


def draw(points: pd.DataFrame, folder: Path) -> list[Path]:
    """Write fronts.svg and fronts.png; returns their paths."""
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "fronts.html"
        page.write_text(PAGE.format(plotly=get_plotlyjs(), chart=chart(points).to_json()))
        return write_figures(page, folder)


def chart(points: pd.DataFrame) -> go.Figure:
    """bit_gflops against test accuracy: means over seeds, the line through what is on the front by validation accuracy."""
    figure = go.Figure()
    for method, (name, colour) in STYLES.items():
        alone = method == "unpruned"  # one point at each precision, no front
        means = means_of(points[points.method == method] if alone else front_of(points, method))
        if means.empty:
            continue
        front = means[is_on_front(means.bit_gflops.to_numpy(), means.val_accuracy.to_numpy())]
        figure.add_scatter(
            x=list(front.bit_gflops), y=list(100 * front.accuracy), mode="markers" if alone else "lines", name=name,
            marker={"color": colour, "symbol": "x", "size": 10}, line={"color": colour, "shape": "hv"}, legendgroup=method,
        )  # fmt: skip
        figure.add_scatter(
            x=list(means.bit_gflops), y=list(100 * means.accuracy), mode="markers", legendgroup=method, showlegend=False,
            marker={"color": colour, "size": 10, "symbol": ["x" if alone else SYMBOLS[name] for name in means.precision]},
            error_y={"type": "data", "array": list(100 * means.accuracy_sd.fillna(0)), "thickness": 1, "width": 2},
            error_x={"type": "data", "array": list(means.bit_gflops_sd.fillna(0)), "thickness": 1, "width": 2},
        )  # fmt: skip
    for label, symbol in (("FP32", "circle-open"), ("8 bits", "square-open"), ("4 bits", "triangle-up-open")):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=label, marker={"symbol": symbol, "color": "#333", "size": 10}
        )
    figure.update_xaxes(type="log", title_text="bit_gflops (FP32-equivalent GFLOP of one image)", dtick=1)
    figure.update_xaxes(exponentformat="power", showexponent="all")
    figure.update_yaxes(title_text="test accuracy (%), mean and sd over seeds")
    figure.update_layout(template="plotly_white", margin={"t": 30, "l": 70})
    return figure


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per operating point, by cost."""
    groups = rows.groupby(["method", "precision", "ratio", "width"], dropna=False)
    means = groups[["bit_gflops", "accuracy", "val_accuracy"]].mean()
    means = means.join(groups[["bit_gflops", "accuracy"]].std().add_suffix("_sd")).reset_index()
    return means.sort_values("bit_gflops")
