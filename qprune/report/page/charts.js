// What all charts have in common: their look, and how they are saved.

import { download, fill, make } from "./dom.js";
import { theme } from "./theme.js";

const FAMILY = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
// NOTE plotly's "Share chart" would send the data to its makers' servers; the page's policy would stop that, too
export const CONFIG = {
  responsive: true,
  displaylogo: false,
  scrollZoom: false,
  modeBarButtonsToRemove: ["sendChartToCloud", "toImage", "select2d", "lasso2d"],
};
/** What the layout of every chart begins with. */
export const look = () => ({
  font: { family: FAMILY, size: 13, color: theme.ink },
  paper_bgcolor: theme.paper,
  plot_bgcolor: theme.paper,
});
/** What every axis has. */
export const axis = () => ({
  gridcolor: theme.grid,
  linecolor: theme.axis,
  zeroline: false,
  automargin: true,
  ticks: "outside",
  tickcolor: theme.tick,
});

export const shown = (accuracy) => (accuracy === null ? null : 100 * accuracy); // axes are in percent
export const scaled = (bar) => ({
  ...bar,
  array: bar.array.map((value) => 100 * value),
  arrayminus: bar.arrayminus?.map((value) => 100 * value),
});

/** The URL of a chart as "svg" or "png". figure: an element or what is drawn. */
const pictureOf = (figure, format, width = 1000, height = 620) =>
  Plotly.toImage(figure, { format, width, height, scale: format === "png" ? 2 : 1 });

/** The buttons that save a chart. figure: what is drawn, where it isn't what is on the screen. */
export function saveButtons(id, chart, name, figure = () => chart) {
  const save = async (format) => {
    download(await pictureOf(figure(), format), `${name}.${format}`);
  };
  fill(
    id,
    ["png", "svg"].map((format) =>
      make(
        "button",
        { type: "button", "aria-label": `Save ${name} as ${format.toUpperCase()}`, onclick: () => save(format) },
        `Save ${format.toUpperCase()}`,
      ),
    ),
  );
}

/** Adds a chart to figures in both formats: {"name.svg": URL, "name.png": URL}. size: its width and height. */
export async function takeFigure(figures, name, figure, ...size) {
  for (const format of ["svg", "png"]) figures[`${name}.${format}`] = await pictureOf(figure, format, ...size);
}

/** For --figures: nothing but the charts, as text in the page. */
export function leaveFigures(figures) {
  document.body.replaceChildren(make("pre", { id: "figures" }, JSON.stringify(figures)));
}
