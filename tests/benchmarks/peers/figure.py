"""The fronts on one plot, as SVG and PNG: drawn by plotly in a browser without a window."""

import tempfile
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from fronts import POINT, front_of
from plotly.offline import get_plotlyjs

from qprune.report.figures import write_figures

# Okabe and Ito's palette, told apart with any kind of colour vision
STYLES = {
    "qprune": ("qprune (Taylor)", "#0072B2"),
    "Torch-Pruning + Brevitas": ("Torch-Pruning + Brevitas", "#D55E00"),
    "narrower": ("narrower, from random weights", "#009E73"),
    "random, over layers": ("random, over all layers", "#999999"),
    "random, in layers": ("random, in each layer", "#CC79A7"),
    "classic": ("classic protocol (Taylor, l2)", "#E69F00"),
    "unpruned": ("unpruned", "#000000"),
}
SYMBOLS = {
    "fp32": "circle",
    "int8": "square",
    "brevitas_w8a8": "square",
    "int4": "triangle-up",
    "brevitas_w4a4": "triangle-up",
}
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


def draw(found: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write fronts.svg and fronts.png; returns their paths. found: contender -> its cells, accuracies in points."""
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "fronts.html"
        page.write_text(PAGE.format(plotly=get_plotlyjs(), chart=chart(found).to_json()))
        return write_figures(page, folder)


def chart(found: dict[str, pd.DataFrame]) -> go.Figure:
    """bit_gflops against test accuracy: means over seeds, the line through what is on the front by validation accuracy."""
    figure = go.Figure()
    for contender, (name, colour) in STYLES.items():
        if contender not in found:
            continue
        alone = contender == "unpruned"  # one point at each precision, no front
        means = means_of(found[contender])
        front = means_of(front_of(found[contender]))
        figure.add_scatter(
            x=list(front.bit_gflops), y=list(front.accuracy), mode="markers" if alone else "lines", name=name,
            marker={"color": colour, "symbol": "x", "size": 10}, line={"color": colour, "shape": "hv"}, legendgroup=contender,
        )  # fmt: skip
        figure.add_scatter(
            x=list(means.bit_gflops), y=list(means.accuracy), mode="markers", legendgroup=contender, showlegend=False,
            marker={"color": colour, "size": 9, "symbol": ["x" if alone else SYMBOLS[name] for name in means.precision]},
        )  # fmt: skip
    for label, symbol in (("FP32", "circle-open"), ("8 bits", "square-open"), ("4 bits", "triangle-up-open")):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=label, marker={"symbol": symbol, "color": "#333", "size": 10}
        )
    best = max(cells.accuracy.max() for cells in found.values())
    figure.update_xaxes(type="log", title_text="bit_gflops (FP32-equivalent GFLOP of one image)", dtick=1)
    figure.update_xaxes(exponentformat="power", showexponent="all")
    figure.update_yaxes(title_text="test accuracy (%), mean over seeds", range=[best - 20, best + 1])
    figure.update_layout(template="plotly_white", margin={"t": 30, "l": 70})
    return figure


def means_of(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per operating point, by cost."""
    means = cells.groupby(POINT)[["bit_gflops", "accuracy", "val_accuracy"]].mean().reset_index()
    return means.sort_values("bit_gflops")
