// Two cells side by side: numbers, layers, training, and the test images on which they disagree.

import { cellNow } from "./cell.js";
import { CONFIG } from "./charts.js";
import { missingText } from "./confusion.js";
import { curveLayout, curveTraces } from "./curves.js";
import { DATA } from "./data.js";
import { DETAIL_OF, denseLayers, layersOf } from "./details.js";
import { byId, choice, fill, make, note, tableOf } from "./dom.js";
import { disagreementOf, PREDICTED, predictionsOf } from "./predicted.js";
import { change, state } from "./state.js";
import { CELLS, VARYING } from "./tables.js";
import { costText, digits, percent, ratioText, signed, within } from "./text.js";
import { theme } from "./theme.js";

const NORMAL_QUANTILE = 1.959964; // as in qprune/analysis/statistics.py
const FIRST = "first";
const SECOND = "second";

const of = (row, names) => (other) => names.every((name) => CELLS[name][other] === CELLS[name][row]);

/**
 * The rows of the chosen cell and of the one beside it: at first the unpruned FP32 one of its sweep and model, of its
 * own seed, or that of which the page has the predicted classes.
 */
function pairNow() {
  const first = CELLS.key.indexOf(cellNow());
  const chosen = CELLS.key.indexOf(state.other);
  if (first < 0 || chosen >= 0) return [first, chosen];
  const alike = of(first, ["sweep", "model", "data"]);
  const dense = [...CELLS.point.keys()].filter(
    (row) =>
      alike(row) &&
      CELLS.precision[row] === "fp32" &&
      CELLS.pruning_ratio[row] === 0 &&
      CELLS.criterion[row] !== "none" &&
      CELLS.status[row] === "done",
  );
  const own = dense.filter((row) => CELLS.seed[row] === CELLS.seed[first]);
  const shown = [...own, ...dense].find((row) => PREDICTED.includes(CELLS.key[row]));
  return [first, shown ?? own[0] ?? dense[0] ?? first];
}

let drawn = ""; // the pair that is shown, and in which colours

export async function drawTwo() {
  const [first, second] = pairNow();
  byId("two-cells").hidden = first < 0;
  const pair = [first, second, theme.paper].join();
  if (first < 0 || pair === drawn) return;
  drawn = pair;
  const keys = [...CELLS.point.keys()]
    .filter((row) => CELLS.status[row] === "done" && CELLS.data[row] === CELLS.data[first])
    .map((row) => [CELLS.key[row], CELLS.key[row]]);
  const [one, two] = [CELLS.key[first], CELLS.key[second]];
  const swap = () => change({ cell: two, other: one });
  fill(
    "two-controls",
    choice("first-cell", FIRST, keys, one, (cell) => change({ cell })),
    choice("other", SECOND, keys, two, (other) => change({ other })),
    make("button", { type: "button", id: "swap", onclick: swap }, "Swap"),
  );
  fill("two-facts", factsTable(first, second));
  drawSeeds(first, second);
  drawTwoLayers(first, second);
  await Promise.all([drawTwoCurves(one, two), drawTwoImages(one, two)]);
}

/** The numbers of both, and how the second stands to the first. */
function factsTable(first, second) {
  const both = (name, text) => [first, second].map((row) => ({ words: text(CELLS[name][row]) }));
  const words = (name, label = name) => [label, ...both(name, (value) => String(value ?? "–")), ""];
  const points = (name, label) => {
    const [a, b] = [first, second].map((row) => CELLS[name][row]);
    const change = a === null || b === null ? "" : `${signed(b - a, 2)} points`;
    return [label, ...both(name, (value) => percent(value, 2)), { words: change }];
  };
  const times = (name, text = digits) => {
    const [a, b] = [first, second].map((row) => CELLS[name][row]);
    return [name, ...both(name, text), { words: a && b ? `× ${digits(b / a)}` : "" }];
  };
  const rows = [
    ...VARYING.map((name) => words(name)),
    words("precision"),
    ["pruned", ...both("pruning_ratio", ratioText), ""],
    ["achieved ratio", ...both("achieved_ratio", ratioText), ""],
    words("seed"),
    points("val_accuracy", "validation accuracy"),
    points("accuracy", "test accuracy"),
    times("val_loss"),
    ...DATA.costs.map((name) => times(name, (value) => costText(name, value))),
    ...["macs", "params", "training_flops"].map((name) => times(name)),
  ];
  return tableOf([["", FIRST, SECOND, "second against first"], ...rows], "Numbers of both cells");
}

/** The differences of the cells of each seed at the same two places of the grid. */
function drawSeeds(first, second) {
  const names = ["sweep", "model", "data", "criterion", "method", "precision", "pruning_ratio"];
  const cellsAt = (row) =>
    new Map([...CELLS.point.keys()].filter(of(row, names)).map((other) => [CELLS.seed[other], other]));
  const [ones, twos] = [cellsAt(first), cellsAt(second)];
  const paired = [...ones].filter(([seed, row]) => twos.has(seed) && CELLS.val_accuracy[row] !== null);
  const differences = (name) =>
    paired.map(([seed, row]) => CELLS[name][twos.get(seed)] - CELLS[name][row]).filter(Number.isFinite);
  const said = (name, label) => {
    const each = differences(name);
    const mean = each.reduce((sum, one) => sum + one, 0) / each.length;
    return `${label} ${signed(mean, 2)} (${each.map((one) => signed(one, 2)).join(", ")})`;
  };
  const seeds = paired.length;
  fill(
    "two-seeds",
    seeds > 1 && first !== second
      ? note(
          `Second minus first in percentage points, the mean over ${seeds} seeds and each of them, paired:`,
          `${said("val_accuracy", "validation")}; ${said("accuracy", "test")}.`,
        )
      : null,
  );
}

function drawTwoLayers(first, second) {
  const [ones, twos] = [first, second].map((row) => layersOf(DETAIL_OF.get(CELLS.key[row])));
  if (!ones || !twos) return fill("two-layers", note("The page hasn't the layers of both cells."));
  const dense = denseLayers(first);
  const [byName, others] = [ones, twos].map((layers) => new Map(layers.map((layer) => [layer.name, layer])));
  const names = [...new Set([...byName.keys(), ...others.keys()])];
  const bits = (layer) => (layer ? `${digits(layer.w_bits)}/${digits(layer.a_bits)}` : "–");
  const rows = names.map((name) => {
    const [a, b] = [byName.get(name), others.get(name)];
    return [
      name,
      digits(dense.get(name)?.channels_out),
      digits(a?.channels_out),
      digits(b?.channels_out),
      bits(a),
      bits(b),
      a ? a.macs.toLocaleString("en") : "–",
      b ? b.macs.toLocaleString("en") : "–",
      a ? percent(a.share) : "–",
      b ? percent(b.share) : "–",
    ];
  });
  const pair = (what) => [`${what}, ${FIRST}`, SECOND];
  const head = [
    "layer",
    "channels unpruned",
    ...pair("channels"),
    ...pair("bits"),
    ...pair("MACs"),
    ...pair("% of cost"),
  ];
  fill("two-layers", tableOf([head, ...rows], "Layers of both cells"));
}

function drawTwoCurves(one, two) {
  const traces = [
    [one, FIRST, "solid"],
    [two, SECOND, "dash"],
  ].flatMap(([key, which, dash]) =>
    curveTraces(DETAIL_OF.get(key)).map((trace) => ({
      ...trace,
      name: `${which}: ${trace.name}`,
      legendgroup: `${which}: ${trace.name}`,
      line: { ...trace.line, dash },
    })),
  );
  byId("two-curves").hidden = !traces.length;
  byId("two-training").hidden = !traces.length;
  if (!traces.length) return undefined;
  const layout = { ...curveLayout(), legend: { orientation: "h", y: 1.02, yanchor: "bottom" } };
  return Plotly.react("two-curves", traces, { ...layout, margin: { ...layout.margin, t: 80 } }, CONFIG);
}

/** second - first in accuracy on the same images, with the interval of so many, as sampling_interval() in Python. */
function sampled(first, second, images) {
  const mean = (second - first) / images;
  const variance = (first + second - images * mean ** 2) / (images - 1);
  const half = variance > 0 ? NORMAL_QUANTILE * Math.sqrt(variance / images) : 1 - 0.025 ** (1 / images);
  return { mean, low: mean - half, high: mean + half };
}

async function drawTwoImages(one, two) {
  const [a, b] = await Promise.all([predictionsOf(one), predictionsOf(two)]);
  if (byId("first-cell").value !== one || byId("other").value !== two) return; // others have been chosen meanwhile
  if (!a || !b) return fill("two-images", note(missingText()));
  if (a.set !== b.set) return fill("two-images", note("The two were tested on other images."));
  const classes = disagreementOf(a, b);
  const sum = (name) => classes.reduce((total, one) => total + one[name], 0);
  const images = sum("images");
  const { mean, low, high } = sampled(sum("first"), sum("second"), images);
  const points = (value) => signed(value, 2);
  const share = (count, total) => (total ? percent(count / total) : "–");
  const rows = [...classes]
    .sort((x, y) => y.differ - x.differ)
    .map((one) => [
      one.name,
      digits(one.images),
      share(one.both + one.first, one.images),
      share(one.both + one.second, one.images),
      String(one.first),
      String(one.second),
      String(one.neither),
      String(one.differ),
    ]);
  const head = [
    "class",
    "images",
    `recall, ${FIRST}`,
    SECOND,
    `only ${FIRST} right`,
    `only ${SECOND} right`,
    "both wrong",
  ];
  const made = tableOf(
    [[...head, "other answers"], ...rows],
    "Test images by class, and which of the two has them right",
  );
  made.classList.add("tall");
  fill(
    "two-images",
    note(
      `Of ${digits(images)} test images, only the first has ${digits(sum("first"))} right and only the second`,
      `${digits(sum("second"))}; ${digits(sum("both"))} both, ${digits(sum("neither"))} neither;`,
      `${digits(sum("differ"))} get other answers. Second minus first: ${points(mean)} percentage points,`,
      `95% ${within(low, high, points)} by the number of test images alone; this is one seed each.`,
      "Classes with the most other answers first.",
    ),
    made,
  );
}
