// The tables of operating points and of cells, and how their rows are told apart: colours, symbols, names.

import { DATA } from "./data.js";
import { ratioText } from "./text.js";
import { theme } from "./theme.js";

/** A cost's title, as an axis has it. */
export const titleOf = (cost) => `${DATA.words[cost].title} (${cost})`;
/** Columns of costs; those that others go by, even where they are null. */
const COSTS_KEPT = [...new Set([...DATA.costs, "bit_gflops", "gflops", "relative_bops", "weight_bytes"])];
// Okabe and Ito's palette, told apart with any kind of colour vision; FP32 is always black
export const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900"];
export const SYMBOLS = [
  "circle",
  "square",
  "diamond",
  "triangle-up",
  "triangle-down",
  "cross",
  "x",
  "star",
  "hexagon",
  "pentagon",
];

/** Of the classes' recalls, their mean and the least. */
export const RECALLS = ["val_balanced_accuracy", "val_least_recall", "balanced_accuracy", "least_recall"];

/** A column of a table as an array; null for each row where the table lacks it. */
function column(table, name) {
  const packed = table[name];
  if (packed === undefined) return new Array(table.point ? table.point.length : table.group.length).fill(null);
  return packed.names ? packed.index.map((place) => (place < 0 ? null : packed.names[place])) : packed;
}

/** All columns of a table, unpacked: name -> array. */
function unpack(table, names) {
  return Object.fromEntries(names.map((name) => [name, column(table, name)]));
}

export const POINTS = unpack(DATA.points, [
  "precision",
  "pruning_ratio",
  "achieved_ratio",
  "cell",
  "seeds",
  "val_accuracy",
  "accuracy",
  "val_accuracy_sd",
  "accuracy_sd",
  ...RECALLS,
  "val_gain",
  "val_gain_bound",
  "val_loss",
  "test_loss",
  "baseline_val_accuracy",
  "baseline_accuracy",
  "gbops",
  "macs",
  "params",
  "speedup",
  ...COSTS_KEPT,
  ...COSTS_KEPT.map((cost) => `${cost}_sd`),
]);
POINTS.group = DATA.points.group;
POINTS.count = POINTS.group.length;
for (const name of ["sweep", "model", "data", "criterion", "method"])
  POINTS[name] = POINTS.group.map((group) => DATA.groups[group][name]);

export const CELLS = unpack(DATA.cells, [
  "cell",
  "sweep",
  "model",
  "data",
  "criterion",
  "method",
  "precision",
  "pruning_ratio",
  "achieved_ratio",
  "seed",
  "status",
  "val_accuracy",
  "accuracy",
  ...RECALLS,
  "val_loss",
  "test_loss",
  "baseline_val_accuracy",
  "baseline_accuracy",
  ...COSTS_KEPT,
  "gbops",
  "macs",
  "params",
  "speedup",
  "total_updates",
  "training_flops",
  "training_flops_cap",
  "seconds",
  "reason",
  "protocol",
  "ratio_of",
]);
POINTS.baseline = POINTS.group.map((group) => DATA.groups[group].baseline);
CELLS.point = DATA.cells.point;
CELLS.baseline = CELLS.point.map((point) => point >= 0 && POINTS.baseline[point]);
CELLS.count = CELLS.point.length;

export const distinct = (values) => [...new Set(values)];
export const PRECISIONS = distinct(CELLS.precision);
export const COLOURS = Object.fromEntries(
  PRECISIONS.filter((name) => name !== "fp32").map((name, place) => [name, PALETTE[place % PALETTE.length]]),
);
Object.defineProperty(COLOURS, "fp32", { get: () => theme.strong, enumerable: true });
/** Those of sweep, model, criterion and method that there are several of; networks from scratch have no criterion. */
export const VARYING = ["sweep", "model", "criterion", "method"].filter(
  (name) =>
    distinct(CELLS[name].filter((_, row) => name !== "criterion" || CELLS.criterion[row] !== "none")).length > 1,
);
/** What tells a point's or cell's marker. */
const familyOf = (table, row) =>
  VARYING.filter((name) => name !== "criterion" || table.criterion[row] !== "none")
    .map((name) => table[name][row])
    .join(" · ");
POINTS.family = POINTS.group.map((_, row) => familyOf(POINTS, row));
CELLS.family = CELLS.point.map((_, row) => familyOf(CELLS, row));
/** What names a cell on this page: with several sweeps, the sweep too. */
const keyOf = (table, row) => (DATA.sweeps.length > 1 ? `${table.sweep[row]}: ${table.cell[row]}` : table.cell[row]);
CELLS.key = CELLS.point.map((_, row) => keyOf(CELLS, row));
POINTS.key = POINTS.group.map((_, row) => keyOf(POINTS, row));
export const FAMILIES = distinct(CELLS.family);
/** Of networks that no one has pruned, hollow. */
const HOLLOW = new Set(POINTS.family.filter((_, row) => POINTS.baseline[row]));
export const symbolOf = (family) =>
  SYMBOLS[FAMILIES.indexOf(family) % SYMBOLS.length] + (HOLLOW.has(family) ? "-open" : "");

export const nameOf = (row) =>
  [
    POINTS.precision[row],
    `${ratioText(POINTS.pruning_ratio[row])} ${POINTS.baseline[row] ? "smaller" : "pruned"}`,
    POINTS.family[row],
  ]
    .filter(Boolean)
    .join(", ");
