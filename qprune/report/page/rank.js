// The page of qprune rank: its charts, which qprune/ranking/charts.py has made, in the reader's colours.

import { axis, CONFIG, leaveFigures, look, takeFigure } from "./charts.js";
import { DATA } from "./data.js";
import { onTheme, theme } from "./theme.js";

const BLACK = "#000000"; // as Python names what stands out most

function coloured({ data, layout }) {
  const axes = Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name));
  return {
    data: data.map((trace) =>
      trace.marker?.color === BLACK ? { ...trace, marker: { ...trace.marker, color: theme.strong } } : trace,
    ),
    layout: {
      ...layout,
      ...look(),
      ...Object.fromEntries(axes.map((name) => [name, { ...axis(), ...layout[name] }])),
      shapes: layout.shapes?.map((shape) => ({ ...shape, line: { ...shape.line, color: theme.soft } })),
    },
  };
}

async function draw() {
  for (const [name, chart] of Object.entries(DATA)) {
    const { data, layout } = coloured(chart);
    await Plotly.react(name, data, layout, CONFIG);
  }
}

await draw();
onTheme(draw);
document.documentElement.dataset.ready = "yes";
if (location.hash === "#figures=1") {
  const figures = {};
  for (const [name, chart] of Object.entries(DATA))
    await takeFigure(figures, name, coloured(chart), 1200, chart.layout.height);
  leaveFigures(figures);
}
