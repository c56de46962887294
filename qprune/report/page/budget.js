// The unpruned network given as many updates as a pruned one has had: what it has, and what a pruned one then loses.

import { CONFIG, look, shown } from "./charts.js";
import { DATA, rowsOf } from "./data.js";
import { byId, fill, helpButton, make, note, plain, tableOf } from "./dom.js";
import { paretoLayout } from "./plot.js";
import { groupNow, state, studiesNow } from "./state.js";
import { COLOURS, distinct, nameOf, POINTS, symbolOf, VARYING } from "./tables.js";
import { digits, ratioText, signed, within } from "./text.js";

const PLACES = [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]; // where labels may begin, and how wide one is
const LABEL_SHARE = 0.19;
// what the line of an unpruned network is called, its colour and dash
const LINES = {
  dense: { name: "unpruned, N", colour: "#D55E00", dash: "dot" },
  baseline: { name: "unpruned, N + M", colour: "#0072B2", dash: "solid" },
  scratch: { name: "from scratch, N + M", colour: "#009E73", dash: "dash" },
};

/** The unpruned networks' accuracies that there are, of the accuracy that is shown: [{kind, mean, sd, seeds}]. */
function referenceLines() {
  const lines = studiesNow()?.budget[state.y].lines ?? {};
  return Object.entries(lines).map(([kind, line]) => ({ kind, ...line }));
}

export function drawBudget() {
  const budget = studiesNow()?.budget;
  if (!budget) return fill("budget", note("No cell is finished yet."));
  const gain = (value) => signed(value, 2);
  const loss = (value) => gain(value === null ? null : -value);
  const changeTexts = ({ mean, low, high, seeds }) => (seeds ? [loss(mean), within(high, low, loss)] : ["–", "–"]);
  const extra = ({ mean, low, high, seeds }) => (seeds ? [gain(mean), within(low, high, gain)] : ["–", "–"]);
  const rows = rowsOf(budget[state.y].rows);
  const fromScratch = rows.some((row) => row.scratch.seeds);
  const images = state.y === "accuracy" ? "test" : "validation";
  const { dense, total } = budget.updates;
  const help = {
    N: `the ${digits(dense)} updates of dense training, before anything is pruned`,
    M:
      `the ${digits(total - dense)} updates that every network has had after N: P while it is pruned, F of ` +
      "fine-tuning in FP32 and Q at its precision, M = P + F + Q. N + M is the same for all cells",
  };
  const withHelp = (text, name) => make("span", {}, text, helpButton(name, help[name]));
  const head = ["precision", "pruned", withHelp("against N", "N"), "95%", withHelp("against N + M", "M"), "95%"];
  if (fromScratch) head.push("against scratch", "95%");
  head.push("extra training", "95%", "seeds");
  const body = rows.map((row) => {
    const [fair, span] = changeTexts(row.fair);
    return [
      row.precision,
      ratioText(row.ratio),
      ...changeTexts(row.apparent),
      make("strong", {}, fair),
      span,
      ...(fromScratch ? changeTexts(row.scratch) : []),
      ...extra(row.extra),
      String(Math.max(row.apparent.seeds, row.fair.seeds, row.scratch.seeds)),
    ];
  });
  const missing = rows.some((row) => row.apparent.seeds);
  fill(
    "budget",
    tableOf([head, ...body], "Change against the unpruned FP32 network after fewer and after as many updates"),
    note(
      `Changes of ${images} accuracy in percentage points, paired by seed, against the unpruned FP32 network after`,
      `N = ${digits(dense)} updates, and after N + M = ${digits(total)}, as many as`,
      "every pruned network has had, by warm restarts as",
      fromScratch ? "theirs, or from scratch under one schedule." : "theirs.",
      "Extra training is what M more updates alone give the unpruned network: what a comparison with it after N would",
      `credit to pruning.${missing ? "" : ` The sweep's table has no ${images} accuracy after N.`}`,
    ),
  );
}

/**
 * Where labels of lines begin, as shares of the plot's width: a function of a line's height that gives the first place
 * which is near no point and at which no other label begins.
 */
function labelShares(traces, [low, high]) {
  const along = state.scale === "log" ? Math.log : (x) => x;
  const points = traces
    .filter((trace) => trace.meta.kind === "points")
    .flatMap((trace) =>
      trace.x.map((x, place) => [
        (along(x) - along(low)) / (along(high) - along(low)),
        trace.y[place],
        trace.error_y.array[place],
      ]),
    );
  const heights = points.map(([, y]) => y);
  const near = 0.08 * (Math.max(...heights) - Math.min(...heights)) + 0.1; // percentage points
  const taken = new Set();
  return (mean) => {
    const free = PLACES.filter(
      (at) =>
        !taken.has(at) &&
        points.every(
          ([x, y, bar]) => x < at - 0.03 || x > at + LABEL_SHARE || Math.abs(y - shown(mean)) > near + (bar ?? 0),
        ),
    );
    const at = free[0] ?? PLACES.find((one) => !taken.has(one));
    taken.add(at);
    return at;
  };
}

/**
 * FP32 accuracy against cost, a curve for each criterion, as in Molchanov et al. (2017), with the unpruned networks as
 * lines.
 */
export function drawBudgetPlot() {
  const number = groupNow();
  const chart = byId("budget-plot");
  const lines = referenceLines();
  const same = (row) => ["sweep", "model", "data"].every((name) => POINTS[name][row] === DATA.groups[number][name]);
  const rows =
    number === null
      ? []
      : [...Array(POINTS.count).keys()].filter(
          (row) =>
            POINTS.precision[row] === "fp32" &&
            POINTS.criterion[row] !== "none" &&
            !POINTS.baseline[row] &&
            same(row) &&
            POINTS[state.x][row] !== null,
        );
  chart.hidden = byId("budget-save").hidden = byId("budget-note").hidden = !rows.length || !lines.length;
  if (chart.hidden) return undefined;
  const costs = rows.map((row) => POINTS[state.x][row]);
  const span = [Math.min(...costs) / 1.15, Math.max(...costs) * 1.15];
  const { dense, total } = studiesNow().budget.updates;
  const traces = lines.flatMap(({ kind, mean, sd, seeds }) => {
    const { name, colour, dash } = LINES[kind];
    const updates = (kind === "dense" ? dense : total).toLocaleString("en");
    const band =
      sd === null
        ? []
        : [
            {
              type: "scatter",
              mode: "lines",
              x: [...span, span[1], span[0]],
              y: [mean - sd, mean - sd, mean + sd, mean + sd].map(shown),
              fill: "toself",
              fillcolor: colour,
              opacity: 0.13,
              line: { width: 0 },
              hoverinfo: "skip",
              showlegend: false,
              meta: { kind: "band", of: kind },
            },
          ];
    return [
      ...band,
      {
        type: "scatter",
        mode: "lines",
        x: span,
        y: [mean, mean].map(shown),
        name: `${name} = ${updates} updates`,
        line: { color: colour, dash, width: 2 },
        hovertemplate: `%{y:.2f}% (${seeds} seed${seeds > 1 ? "s" : ""})<extra>${name}</extra>`,
        meta: { kind: "line", of: kind },
      },
    ];
  });
  for (const family of distinct(rows.map((row) => POINTS.family[row]))) {
    const own = rows
      .filter((row) => POINTS.family[row] === family)
      .sort((a, b) => POINTS[state.x][a] - POINTS[state.x][b]);
    const bar = (name, scale) => ({
      type: "data",
      array: own.map((row) => scale * (POINTS[`${name}_sd`]?.[row] ?? 0)),
      color: COLOURS.fp32,
      thickness: 1,
      width: 3,
      visible: own.some((row) => POINTS[`${name}_sd`]?.[row]),
    });
    traces.push({
      type: "scatter",
      mode: "lines+markers",
      x: own.map((row) => POINTS[state.x][row]),
      y: own.map((row) => shown(POINTS[state.y][row])),
      name: plain(["fp32, pruned", family].filter(Boolean).join(" · ")),
      line: { color: COLOURS.fp32, width: 1 },
      error_x: bar(state.x, 1),
      error_y: bar(state.y, 100),
      marker: { color: COLOURS.fp32, symbol: symbolOf(family), size: 8 },
      text: own.map((row) => plain(nameOf(row))),
      hovertemplate: "%{text}: %{y:.2f}%<extra></extra>",
      meta: { kind: "points", rows: own },
    });
  }
  const clear = labelShares(traces, span);
  const label = ({ kind, mean }, place) => ({
    x: clear(mean),
    xref: "paper",
    xanchor: "left",
    y: shown(mean),
    yanchor: place ? "bottom" : "top",
    text: LINES[kind].name,
    showarrow: false,
    font: { ...look().font, size: 12, color: LINES[kind].colour },
  });
  const byHeight = [...lines].sort((a, b) => a.mean - b.mean); // the lowest line's label hangs below it
  const layout = {
    ...paretoLayout(
      rows,
      lines.map((line) => line.mean),
    ),
    showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    margin: { l: 60, r: 16, t: 60, b: 54 },
    annotations: lines.length > 1 ? byHeight.map(label) : byHeight.map((line) => label(line, 1)),
  };
  const which = VARYING.length ? "FP32 networks of the same sweep and model" : "FP32 networks";
  byId("budget-note").textContent = [
    `${which}: points are means over seeds, bars and bands one standard deviation. M is what every pruned network`,
    "has had on top of N: pruning, fine-tuning and the updates at its precision.",
    studiesNow().budget.undecayed,
  ].join(" ");
  return Plotly.react(chart, traces, layout, CONFIG);
}
