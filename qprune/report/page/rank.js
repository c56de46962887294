// The page of qprune rank: its charts, which qprune/ranking/charts.py has made.

import { CONFIG, leaveFigures, takeFigure } from "./charts.js";
import { DATA } from "./data.js";

for (const [name, { data, layout }] of Object.entries(DATA)) await Plotly.newPlot(name, data, layout, CONFIG);
document.documentElement.dataset.ready = "yes";
if (location.hash === "#figures=1") {
  const figures = {};
  for (const [name, { data, layout }] of Object.entries(DATA))
    await takeFigure(figures, name, { data, layout }, 1200, layout.height);
  leaveFigures(figures);
}
