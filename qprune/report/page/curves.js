// How cells were trained: the loss of their training against updates.

import { axis, CONFIG, look } from "./charts.js";
import { DATA, rowsOf } from "./data.js";
import { byId } from "./dom.js";
import { theme } from "./theme.js";

const phases = () => ({
  dense: { name: "dense training", colour: theme.strong },
  prune: { name: "pruning and the rest of its budget", colour: "#0072B2" },
  finetune: { name: "fine-tuning", colour: "#009E73" },
  quantize: { name: "at its precision", colour: "#D55E00" },
});

function curvesNote(place, count) {
  if (place === undefined) return "The page has the training curves of at most 1,000 cells.";
  const said = count
    ? [
        "Mean training loss of stretches of updates. At its precision the network is trained with rounded values.",
        "Each part decays or keeps its own learning rate.",
      ]
    : [
        "This cell's stages have no training curves: they were computed by an older version, or are not beside the",
        "sweep's folder.",
      ];
  return said.join(" ");
}

export function drawCurves(place) {
  const traces = curveTraces(place);
  byId("curves").hidden = !traces.length;
  byId("curves-save").hidden = !traces.length;
  byId("curves-note").textContent = curvesNote(place, traces.length);
  if (!traces.length) return undefined;
  return Plotly.react("curves", traces, curveLayout(), CONFIG);
}

/** The curves of the cell at a place of the details, a trace for each of its stages. */
export function curveTraces(place) {
  const curves = place === undefined ? [] : rowsOf(DATA.details.curves.cells[place]);
  return curves.map(({ phase, curve }, order) => {
    const { at, step, loss } = DATA.details.curves.curves[curve];
    const { name, colour } = phases()[phase] ?? { name: phase, colour: "#CC79A7" };
    return {
      type: "scatter",
      mode: loss.length > 1 ? "lines" : "markers",
      name,
      legendgroup: name,
      showlegend: curves.findIndex((one) => one.phase === phase) === order,
      x: loss.map((_, index) => at + index * step),
      y: loss,
      line: { color: colour, width: 2 },
      marker: { color: colour },
      hovertemplate: "update %{x}: %{y}<extra>%{fullData.name}</extra>",
    };
  });
}

export const curveLayout = () => ({
  ...look(),
  margin: { l: 60, r: 10, t: 30, b: 50 },
  legend: { orientation: "h", y: 1.14 },
  xaxis: { ...axis(), title: { text: "update" } },
  yaxis: { ...axis(), type: "log", title: { text: "training loss" }, exponentformat: "power" },
});
