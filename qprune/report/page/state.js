// What the reader has chosen. It lives in the page's address, so that a view can be kept and sent.

import { passes, spansOf } from "./axes.js";
import { CHEAPEST_WITHIN } from "./choose.js";
import { DATA } from "./data.js";
import { byId, goTo } from "./dom.js";
import { CELLS, distinct, POINTS } from "./tables.js";

const DEFAULTS = {
  data: distinct(CELLS.data)[0] ?? "",
  model: "",
  x: DATA.costs[0],
  y: "val_accuracy",
  scale: "log",
  show: "means",
  range: "near", // of accuracy: down to 10 points under the baseline
  prefer: "most-accurate",
  percentage_points: "1", // that may be lost
  measure: "accuracy",
  group: "",
  cell: "",
  other: "", // the cell that is set beside it
  hide: "", // what the legend hides, as a JSON list
  min: "", // smallest val_accuracy, as typed
  max_drop: "", // most percentage points of val_accuracy under the baseline, as typed
  max: {}, // column -> largest, as typed
  only: {}, // axis -> span that is chosen on it
  least: {}, // column -> smallest, as typed
};
export const CHOICES = {
  data: distinct(CELLS.data),
  model: ["", ...distinct(CELLS.model)],
  x: DATA.costs,
  y: ["val_accuracy", "accuracy"],
  scale: ["log", "linear"],
  show: ["means", "seeds"],
  range: ["near", "all"],
  prefer: ["most-accurate", "cheapest", CHEAPEST_WITHIN, "knee"],
  measure: ["accuracy", "drop", "spread"],
  group: ["", ...DATA.groups.map((_, number) => String(number))],
};
const USUAL_DROP = 1; // percentage points, of cheapest-within where none are named
export const state = structuredClone(DEFAULTS);

let redraw = async () => {};
/** Says what draws anew: it is given the names of the choices that have changed. */
export function onChange(draws) {
  redraw = draws;
}

/** Takes over new choices and draws what they concern; keeps the focus where it was. */
export async function change(changed) {
  const focused = document.activeElement?.id;
  Object.assign(state, changed);
  rememberState();
  await redraw(Object.keys(changed));
  if (focused && document.activeElement === document.body) byId(focused)?.focus();
}

export function chooseCell(cell, goThere = false) {
  change({ cell });
  if (goThere) goTo("one-cell");
}

/** Sets a cell beside the one that is chosen. */
export function compareWith(other) {
  change({ other });
  goTo("two-cells");
}

/** Takes over the state that a fragment describes; what it doesn't say, or says wrongly, is as at first. */
export function readFragment(fragment) {
  const read = structuredClone(DEFAULTS);
  for (const [key, value] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    const numeric = value !== "" && Number.isFinite(Number(value));
    if (key.startsWith("max.") && DATA.costs.includes(key.slice(4)) && numeric) read.max[key.slice(4)] = value;
    else if (key.startsWith("min.") && LIMITED_RECALLS.includes(key.slice(4)) && numeric)
      read.least[key.slice(4)] = value;
    else if ((key === "min" || key === "max_drop" || key === "percentage_points") && numeric) read[key] = value;
    else if (Object.hasOwn(CHOICES, key) && CHOICES[key].includes(value)) read[key] = value;
    else if (key === "only") read.only = spansOf(value);
    else if (key === "cell" || key === "other" || key === "hide") read[key] = value;
  }
  Object.assign(state, read);
}

function writeFragment() {
  const parts = new URLSearchParams();
  const texts = Object.entries(state).filter(([, value]) => typeof value === "string");
  for (const [key, value] of texts) if (value !== DEFAULTS[key]) parts.set(key, value);
  for (const [name, limit] of Object.entries(state.max)) if (limit !== "") parts.set(`max.${name}`, limit);
  for (const [name, limit] of Object.entries(state.least)) if (limit !== "") parts.set(`min.${name}`, limit);
  if (filtered()) parts.set("only", JSON.stringify(state.only));
  return parts.toString();
}

let pendingWrite = 0;
/** Puts the state into the address a little later: browsers allow only so many changes in a time. */
export function rememberState() {
  clearTimeout(pendingWrite);
  pendingWrite = setTimeout(() => history.replaceState(null, "", `#${writeFragment()}`), 150);
}

/** The names that the legend hides, e.g. "precision:int4". */
export function hidden() {
  try {
    const names = JSON.parse(state.hide || "[]");
    return new Set(Array.isArray(names) ? names.map(String) : []);
  } catch {
    return new Set();
  }
}

/** The points of one data set, and one model or all. */
export const pointsInView = () =>
  [...Array(POINTS.count).keys()].filter(
    (row) => POINTS.data[row] === state.data && (!state.model || POINTS.model[row] === state.model),
  );

/** Those that are compared and chosen from: what the filter leaves. */
export const comparedPoints = () => pointsInView().filter((row) => passes(row, state.only));

/** Whether anything is filtered. */
export const filtered = () => Object.keys(state.only).length > 0;

/** The costs that have a limit: the one that is shown, and what a device is short of. */
export const limitedCosts = () =>
  distinct([state.x, "weight_bytes", "peak_activation_bytes"]).filter((name) => CHOICES.x.includes(name));
/** The recalls that have a limit, where the table has them. */
export const LIMITED_RECALLS = ["val_balanced_accuracy", "val_least_recall"].filter((name) =>
  POINTS[name].some((value) => value !== null),
);

/** The limits that hold now: on costs, on validation accuracy and recalls, and against the baseline. */
export function limitsNow() {
  const sure = state.prefer === CHEAPEST_WITHIN;
  const drop = state.max_drop !== "" ? Number(state.max_drop) : sure ? USUAL_DROP : null;
  const limits = { largest: {}, smallest: {}, drop, sure };
  for (const name of LIMITED_RECALLS)
    if (state.least[name] !== undefined && state.least[name] !== "") limits.smallest[name] = Number(state.least[name]);
  for (const name of limitedCosts())
    if (state.max[name] !== undefined && state.max[name] !== "") limits.largest[name] = Number(state.max[name]);
  if (state.min !== "") limits.smallest.val_accuracy = Number(state.min);
  return limits;
}

/** The number of the sweep, model, data set, criterion and method that the studies are about. */
export function groupNow() {
  const fitting = groupsNow();
  return fitting.includes(Number(state.group)) && state.group !== "" ? Number(state.group) : (fitting[0] ?? null);
}
export const groupsNow = () =>
  DATA.groups
    .map((_, number) => number)
    .filter(
      (number) =>
        DATA.groups[number].studies &&
        DATA.groups[number].data === state.data &&
        (!state.model || DATA.groups[number].model === state.model),
    );
/** The chosen group's comparisons; undefined before a cell is finished. */
export const studiesNow = () => DATA.groups[groupNow()]?.studies;
