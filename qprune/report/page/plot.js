// The plot of accuracy against cost, its legend, and the card of the point under the pointer.

import { cardOf } from "./card.js";
import { axis, CONFIG, look, scaled, shown } from "./charts.js";
import { frontOf } from "./choose.js";
import { byId, fill, make, plain, svg } from "./dom.js";
import { hideCard, showCard } from "./hover.js";
import { drawMarks, fadedPoints, findNodes, marksNow, pareto } from "./marks.js";
import { cardOfPublished, publishedHere, publishedShown, publishedTraces } from "./published.js";
import { change, chooseCell, comparedPoints, compareWith, hidden, state } from "./state.js";
import { CELLS, COLOURS, distinct, FAMILIES, POINTS, PRECISIONS, symbolOf, titleOf } from "./tables.js";
import { theme } from "./theme.js";

const MOST_ERROR_BARS = 600;
const BASELINES = "front:baselines"; // what the legend hides them by
const BELOW = 0.1; // how far under the unpruned baseline the plot goes at first

/** [{precision, family, rows}]: the points or cells of each precision and family that the legend shows. */
function seriesOf(table, rows) {
  const hide = hidden();
  const series = new Map();
  for (const row of rows) {
    const [precision, family] = [table.precision[row], table.family[row]];
    if (hide.has(`precision:${precision}`) || hide.has(`family:${family}`)) continue;
    if (table.baseline[row] && hide.has(BASELINES)) continue;
    const key = JSON.stringify([precision, family]);
    if (!series.has(key)) series.set(key, { precision, family, rows: [] });
    series.get(key).rows.push(row);
  }
  return [...series.values()];
}

function pointTraces(points) {
  const ofCells = state.show === "seeds";
  const inView = new Set(points);
  const table = ofCells ? CELLS : POINTS;
  const rows = ofCells
    ? [...CELLS.point.keys()].filter((row) => CELLS.status[row] === "done" && inView.has(CELLS.point[row]))
    : points;
  const bars = !ofCells && rows.length <= MOST_ERROR_BARS;
  const size = rows.length > 2000 ? 5 : ofCells ? 7 : 10;
  return seriesOf(table, rows).map(({ precision, family, rows: own }) => {
    /** Bars of one standard deviation, which end at `most` (an accuracy's are of shares of 1) and at 0. */
    const spread = (name, most) => ({
      type: "data",
      symmetric: false,
      array: own.map((row) => Math.min(POINTS[`${name}_sd`]?.[row] ?? 0, most - POINTS[name][row])),
      arrayminus: own.map((row) => Math.min(POINTS[`${name}_sd`]?.[row] ?? 0, POINTS[name][row])),
      color: COLOURS[precision],
      thickness: 1,
      width: 3,
      visible: bars && own.some((row) => POINTS[`${name}_sd`]?.[row]),
    });
    return {
      type: "scatter",
      mode: "markers",
      name: plain([precision, family].filter(Boolean).join(" · ")),
      x: own.map((row) => table[state.x][row]),
      y: own.map((row) => shown(table[state.y][row])),
      customdata: own.map((row) => (ofCells ? CELLS.point[row] : row)),
      meta: { kind: "points", rows: own, ofCells },
      ...(ofCells ? {} : { error_x: spread(state.x, Infinity), error_y: scaled(spread(state.y, 1)) }),
      marker: {
        color: COLOURS[precision],
        symbol: symbolOf(family),
        size,
        line: symbolOf(family).endsWith("-open")
          ? { color: COLOURS[precision], width: 2 }
          : { color: theme.paper, width: size > 5 ? 1 : 0 },
      },
      hoverinfo: "none",
    };
  });
}

function frontTraces(points) {
  const hide = hidden();
  const all = points.filter(
    (row) =>
      !hide.has(`precision:${POINTS.precision[row]}`) &&
      !hide.has(`family:${POINTS.family[row]}`) &&
      !(POINTS.baseline[row] && hide.has(BASELINES)),
  );
  const seen = all.filter((row) => !POINTS.baseline[row]);
  const line = (rows, name, style) => ({
    type: "scatter",
    mode: "lines",
    name: plain(name),
    x: rows.map((row) => POINTS[state.x][row]),
    y: rows.map((row) => shown(POINTS[state.y][row])),
    line: { ...style, shape: "hv" }, // what is to be had at no more than a cost
    hoverinfo: "skip",
    meta: { kind: "front", rows },
  });
  const lines = [];
  const sweeps = distinct(seen.map((row) => POINTS.sweep[row])); // several are laid over each other
  sweeps.forEach((sweep, number) => {
    const own = seen.filter((row) => POINTS.sweep[row] === sweep);
    const which = sweeps.length > 1 ? `, ${sweep}` : "";
    const dash = ["solid", "dash", "dot", "dashdot"][number % 4];
    const front = (rows) => frontOf(rows, POINTS[state.x], POINTS.val_accuracy);
    if (!hide.has("front:all"))
      lines.unshift(
        line(front(all.filter((row) => POINTS.sweep[row] === sweep)), `front of all${which}`, {
          color: number % 2 ? theme.otherFront : theme.front,
          width: 7,
        }),
      );
    const others = all.filter((row) => POINTS.sweep[row] === sweep && POINTS.baseline[row]);
    if (others.length && !hide.has(BASELINES)) {
      const same = [...others, ...own.filter((row) => POINTS.pruning_ratio[row] === 0)];
      lines.push(line(front(same), `front of baselines${which}`, { color: theme.baselines, width: 1.5, dash: "dash" }));
    }
    if (hide.has("front:each")) return;
    for (const precision of distinct(own.map((row) => POINTS.precision[row]))) {
      const rows = front(own.filter((row) => POINTS.precision[row] === precision));
      lines.push({
        ...line(rows, `front of ${precision}${which}`, { color: COLOURS[precision], width: 1.5, dash }),
        showlegend: false,
      });
    }
  });
  return lines;
}

/** accuracies: others that the plot shows. */
export function paretoLayout(points, accuracies = []) {
  const accuracy = state.y === "accuracy" ? "test" : "validation";
  return {
    ...look(),
    margin: { l: 60, r: 16, t: 34, b: 54 }, // above: the buttons
    showlegend: false,
    hovermode: "closest",
    xaxis: {
      ...axis(),
      type: state.scale,
      title: { text: titleOf(state.x) },
      exponentformat: "power",
      showexponent: "all",
      ...(state.scale === "log" ? { dtick: logStep(points) } : {}),
    },
    yaxis: { ...axis(), title: { text: `${accuracy} accuracy (%)` }, ...accuracyRange(points, accuracies) },
  };
}

/** From 10 percentage points under the unpruned baseline up, as long as the reader doesn't want all. */
function accuracyRange(points, accuracies = []) {
  const values = points.map((row) => POINTS[state.y][row]).filter((value) => value !== null);
  const name = state.y === "accuracy" ? "baseline_accuracy" : "baseline_val_accuracy";
  const bases = points.map((row) => POINTS[name][row]).filter((value) => value !== null);
  if (state.range === "all" || !bases.length) return { autorange: true };
  const [low, high] = [
    Math.min(Math.min(...bases) - BELOW, ...accuracies.map((one) => one - BELOW / 10)),
    Math.max(...values, ...bases, ...accuracies, ...publishedShown().map((one) => one.accuracy)),
  ];
  if (low <= Math.min(...values) || low < 0) return { autorange: true };
  return { autorange: false, range: [shown(low), Math.min(shown(high) + 1, 100.5)] };
}

/** Says how many points the range leaves out, and lets all be seen. */
function drawRangeControl(points) {
  const { range } = accuracyRange(points);
  const out = range ? points.filter((row) => shown(POINTS[state.y][row]) < range[0]).length : 0;
  const all = state.range === "all";
  fill(
    "range-control",
    out || all
      ? make(
          "button",
          { type: "button", id: "range", onclick: () => change({ range: all ? "near" : "all" }) },
          all ? "Show the range that matters" : `Show all (${out} more points lie below)`,
        )
      : null,
  );
}

/** Ticks at 1, 2 and 5 of a decade where there are few decades, else at each decade. */
function logStep(points) {
  const costs = [
    ...points.map((row) => POINTS[state.x][row]),
    ...publishedShown().map((one) => one.costs[state.x]),
  ].filter((cost) => cost > 0);
  const decades = costs.length ? Math.log10(Math.max(...costs) / Math.min(...costs)) : 1;
  return decades > 2.5 ? 1 : "D2";
}

export async function drawPareto() {
  const points = comparedPoints();
  await Plotly.react(
    pareto,
    [...frontTraces(points), ...pointTraces(points), ...publishedTraces()],
    paretoLayout(points),
    CONFIG,
  );
  if (!pareto.dataset.ready) {
    pareto.on("plotly_afterplot", findNodes);
    pareto.on("plotly_relayouting", drawMarks);
    pareto.on("plotly_hover", (event) => showCard(cardAt(event.points[0]), event.event));
    pareto.on("plotly_unhover", hideCard);
    pareto.on("plotly_click", (event) => {
      if (event.points[0].data.meta.kind !== "points") return;
      (event.event.shiftKey ? compareWith : chooseCell)(cellOfPlotted(event.points[0]));
    });
    pareto.dataset.ready = "yes";
  }
  findNodes();
  drawRangeControl(points);
  const done = points.length ? "" : "No cell is finished yet. ";
  const bars =
    state.show === "means" && points.length <= MOST_ERROR_BARS && points.some((row) => POINTS.seeds[row] > 1);
  byId("pareto-note").textContent =
    done +
    (bars ? "Points are means over seeds, bars one standard deviation. " : "") +
    "Fronts, knee and pick go by validation accuracy" +
    (state.y === "accuracy" ? "; shown is test accuracy, which chooses nothing." : ".") +
    " A click on a point chooses its cell, one with Shift sets another beside it.";
}

const cellOfPlotted = (point) => (point.data.meta.ofCells ? CELLS : POINTS).key[point.data.meta.rows[point.pointIndex]];

/** The picture that is saved: with a legend, and with limits, fading and marks as parts of it. */
export function paretoFigure() {
  const data = pareto.data.map((trace) => {
    if (trace.meta.kind !== "points") return trace;
    const opacity = trace.customdata.map((row) => (fadedPoints.has(row) ? 0.15 : 1));
    return { ...trace, marker: { ...trace.marker, opacity } };
  });
  for (const { row, text, kind } of marksNow.filter((mark) => mark.text))
    data.push({
      type: "scatter",
      mode: "markers+text",
      x: [POINTS[state.x][row]],
      y: [shown(POINTS[state.y][row])],
      text: [plain(text)],
      textposition: "bottom right",
      showlegend: false,
      marker: { symbol: kind === "knee" ? "diamond-open" : "circle-open", size: 20, color: theme.ink },
    });
  return { data, layout: { ...pareto.layout, showlegend: true, legend: { orientation: "h", y: -0.16 } } };
}

function legendSwatch(symbol, colour) {
  const shapes = {
    circle: "M7 2a5 5 0 1 0 .01 0z",
    square: "M2 2h10v10h-10z",
    diamond: "M7 1l6 6-6 6-6-6z",
    "triangle-up": "M7 1l6 11h-12z",
    "triangle-down": "M7 13l6-11h-12z",
    line: "M1 6h12v2h-12z",
    ring: "M7 1a6 6 0 1 0 .01 0zM7 3.5a3.5 3.5 0 1 1 -.01 0z",
    hexagram: "M7 0l2 3.6h4.2l-2.1 3.4 2.1 3.4h-4.2l-2 3.6-2-3.6h-4.2l2.1-3.4-2.1-3.4h4.2z",
  };
  const path = svg("path", {
    "fill-rule": "evenodd",
    d: shapes[symbol.replace("-open", "")] ?? "M6 1h2v5h5v2h-5v5h-2v-5h-5v-2h5z",
    ...(symbol.endsWith("-open") ? { fill: "none", stroke: colour, "stroke-width": 1.8 } : { fill: colour }),
  });
  return make("span", {}, svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, path));
}

/** Buttons that show and hide a precision, a family or the fronts; with shift, or twice, it alone. */
export function drawLegend() {
  const entries = PRECISIONS.map((name) => [`precision:${name}`, name, legendSwatch("circle", COLOURS[name])]);
  if (FAMILIES.length > 1)
    for (const name of FAMILIES) entries.push([`family:${name}`, name, legendSwatch(symbolOf(name), theme.soft)]);
  entries.push(
    ["front:each", "each front", legendSwatch("line", theme.soft)],
    ["front:all", "front of all", legendSwatch("line", theme.front)],
  );
  if (POINTS.baseline.some(Boolean)) entries.push([BASELINES, "baselines", legendSwatch("ring", theme.baselines)]);
  if (publishedHere().length) entries.push(["published:all", "published", legendSwatch("hexagram", theme.published)]);
  const hide = hidden();
  const toggle = (key, alone) => {
    const kind = key.split(":")[0];
    const others = entries.map(([name]) => name).filter((name) => name.startsWith(`${kind}:`) && name !== key);
    const now = hidden();
    if (alone) {
      const isAlone = !now.has(key) && others.every((name) => now.has(name));
      for (const name of others) isAlone ? now.delete(name) : now.add(name);
      now.delete(key);
    } else if (!now.delete(key)) now.add(key);
    change({ hide: now.size ? JSON.stringify([...now]) : "" });
    byId("legend")
      .querySelector(`[data-key="${CSS.escape(key)}"]`)
      ?.focus();
  };
  fill(
    "legend",
    entries.map(([key, name, swatch]) =>
      make(
        "button",
        {
          type: "button",
          "data-key": key,
          "aria-pressed": String(!hide.has(key)),
          title: "Show or hide; with Shift, show it alone",
          onclick: (event) => toggle(key, event.shiftKey),
        },
        swatch,
        name,
      ),
    ),
  );
}

/** What the card says of a point under the pointer. */
function cardAt(point) {
  const { kind, rows, ofCells } = point.data.meta;
  if (kind === "published") return cardOfPublished(publishedShown()[point.pointIndex]);
  return cardOf(ofCells ? CELLS : POINTS, rows[point.pointIndex]);
}
