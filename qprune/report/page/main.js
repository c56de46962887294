// Puts the page together, and draws anew what a change concerns.

import { drawBudgetPlot } from "./budget.js";
import { drawCell } from "./cell.js";
import { leaveFigures, saveButtons, takeFigure } from "./charts.js";
import { drawTwo } from "./compare.js";
import { DATA } from "./data.js";
import { byId, choice, costHelp, fill, goTo, make } from "./dom.js";
import { drawLambda } from "./lambda.js";
import { drawLimits, drawPick } from "./limits.js";
import { pareto } from "./marks.js";
import { drawParallel } from "./parallel.js";
import { drawLegend, drawPareto, paretoFigure } from "./plot.js";
import { drawPublished, PUBLISHED, PUBLISHED_AXES } from "./published.js";
import { CHOICES, change, onChange, readFragment, state } from "./state.js";
import { drawGrid, drawStudies, drawVolumes } from "./studies.js";
import { drawFailures, drawOrigin, drawTable, drawTableControls } from "./table.js";
import { CELLS, POINTS } from "./tables.js";
import { onTheme } from "./theme.js";
import { drawWorth } from "./worth.js";

const SECTIONS = [
  ["tradeoff", "Tradeoff"],
  ["worth-it", "Worth it?"],
  ["studies", "Each precision"],
  ["grid", "Grid"],
  ["one-cell", "One cell"],
  ["two-cells", "Two cells"],
  ["all-cells", "All cells"],
  ["failed", "Failed"],
  ["provenance", "Provenance"],
];

function drawHeader() {
  const { done, failed, pending, skipped } = DATA.counts;
  const name = DATA.sweeps.map((sweep) => sweep.name).join(" and ");
  document.title = `${name} · qprune report`;
  byId("title").textContent = name;
  byId("summary").textContent =
    `${done} of ${CELLS.count} cells done` +
    (failed ? `, ${failed} failed` : "") +
    (pending ? `, ${pending} pending: reload this page for more` : "") +
    (skipped ? `, ${skipped} skipped (strategy: front)` : "") +
    `. Written ${DATA.written}.`;
  fill(
    "sections",
    SECTIONS.filter(([id]) => id !== "failed" || failed).map(([id, text]) =>
      make(
        "a",
        {
          href: `#${id}`,
          onclick: (event) => {
            event.preventDefault(); // the fragment is for the view
            goTo(id);
          },
        },
        text,
      ),
    ),
  );
}

function drawViewControls() {
  const costs = DATA.costs.map((cost) => [cost, cost]);
  const controls = [];
  if (CHOICES.data.length > 1)
    controls.push(
      choice(
        "data-choice",
        "data",
        CHOICES.data.map((name) => [name, name]),
        state.data,
        (value) => change({ data: value, cell: "" }),
      ),
    );
  if (CHOICES.model.length > 2)
    controls.push(
      choice(
        "model-choice",
        "model",
        CHOICES.model.map((name) => [name, name || "all"]),
        state.model,
        (value) => change({ model: value, cell: "" }),
      ),
    );
  controls.push(
    choice(
      "y",
      "accuracy",
      [
        ["val_accuracy", "validation (chooses)"],
        ["accuracy", "test"],
      ],
      state.y,
      (value) => change({ y: value }),
    ),
    choice("x", "cost", costs, state.x, (value) => change({ x: value })),
    costHelp(state.x),
    choice(
      "scale",
      "axis",
      [
        ["log", "log"],
        ["linear", "linear"],
      ],
      state.scale,
      (value) => change({ scale: value }),
    ),
    choice(
      "show",
      "show",
      [
        ["means", "means over seeds"],
        ["seeds", "every seed"],
      ],
      state.show,
      (value) => change({ show: value }),
    ),
  );
  fill("view-controls", controls);
}

/** What the filter concerns. */
function drawFiltered() {
  drawLimits();
  drawPick();
  drawParallel();
  drawTable();
  drawVolumes();
  drawPublished();
  return drawPareto();
}

async function draw() {
  drawViewControls();
  drawLegend();
  drawWorth();
  drawStudies();
  await Promise.all([drawFiltered(), drawBudgetPlot(), drawLambda(), drawGrid(), drawCell(), drawTwo()]);
}

/** For --figures: the main charts, drawn one after the other. */
async function writeFigures() {
  const charts = [
    ["pareto", "pareto", paretoFigure],
    ["budget", "budget-plot"],
    ["lambda", "lambda-study", () => byId("lambda-plot")],
    ["heat", "heat"],
    ["layers", "layers"],
    ["curves", "curves"],
  ];
  const figures = {};
  for (const [name, id, figure = () => byId(id)] of charts)
    if (POINTS.count && !byId(id).hidden) await takeFigure(figures, name, figure());
  if (POINTS.count && PUBLISHED.length) {
    Object.assign(state, PUBLISHED_AXES);
    await draw();
    await takeFigure(figures, "published", paretoFigure());
  }
  leaveFigures(figures);
}

async function start() {
  const drawCells = () => Promise.all([drawCell(), drawTwo()]);
  const parts = { cell: drawCells, other: drawTwo, only: drawFiltered }; // draws what one choice concerns
  onChange((names) => (names.length === 1 && parts[names[0]] ? parts[names[0]]() : draw()));
  onTheme(draw);
  byId("filter-reset").addEventListener("click", () => change({ only: {} }));
  const fragment = location.hash;
  readFragment(fragment);
  drawHeader();
  drawTableControls();
  drawFailures();
  drawOrigin();
  saveButtons("pareto-save", pareto, "tradeoff", paretoFigure);
  for (const [id, name] of [
    ["heat", "grid"],
    ["layers", "layers"],
    ["curves", "training"],
  ])
    saveButtons(`${id}-save`, byId(id), name);
  for (const name of ["budget", "lambda"]) saveButtons(`${name}-save`, byId(`${name}-plot`), name);
  await draw();
  document.documentElement.dataset.ready = "yes";
  if (new URLSearchParams(fragment.slice(1)).has("figures")) await writeFigures();
}

addEventListener("resize", drawParallel); // plotly's charts follow by themselves
addEventListener("hashchange", () => {
  readFragment(location.hash);
  draw();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  goTo("tradeoff");
});
byId("limits").addEventListener("submit", (event) => event.preventDefault());
start();
