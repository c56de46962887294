// What the reader has chosen. It lives in the page's address, so that a view can be kept and sent.

const DEFAULTS = {
  data: distinct(CELLS.data)[0] ?? "",
  model: "",
  x: DATA.costs[0],
  y: "val_accuracy",
  scale: "log",
  show: "means",
  prefer: "most-accurate",
  points: "1",
  measure: "accuracy",
  group: "",
  cell: "",
  hide: "", // what the legend hides, as a JSON list
  min: "", // smallest val_accuracy, as typed
  max: {}, // column -> largest, as typed
};
const CHOICES = {
  data: distinct(CELLS.data), model: ["", ...distinct(CELLS.model)], x: DATA.costs, y: ["val_accuracy", "accuracy"],
  scale: ["log", "linear"], show: ["means", "seeds"], prefer: ["most-accurate", "cheapest", "knee"],
  measure: ["accuracy", "drop", "spread"], group: ["", ...DATA.groups.map((_, number) => String(number))],
};
let state = structuredClone(DEFAULTS);

/** The state that a fragment describes; what it doesn't say, or says wrongly, is as at first. */
function readFragment(fragment) {
  const read = structuredClone(DEFAULTS);
  for (const [key, value] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    const numeric = value !== "" && Number.isFinite(Number(value));
    if (key.startsWith("max.") && Object.hasOwn(TITLES, key.slice(4)) && numeric) read.max[key.slice(4)] = value;
    else if ((key === "min" || key === "points") && numeric) read[key] = value;
    else if (Object.hasOwn(CHOICES, key) && CHOICES[key].includes(value)) read[key] = value;
    else if (key === "cell" || key === "hide") read[key] = value;
  }
  return read;
}

function writeFragment() {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) if (key !== "max" && value !== DEFAULTS[key]) parts.set(key, value);
  for (const [name, limit] of Object.entries(state.max)) if (limit !== "") parts.set(`max.${name}`, limit);
  return parts.toString();
}

let pendingWrite = 0;
/** Puts the state into the address a little later: browsers allow only so many changes in a time. */
function rememberState() {
  clearTimeout(pendingWrite);
  pendingWrite = setTimeout(() => history.replaceState(null, "", `#${writeFragment()}`), 150);
}

/** The names that the legend hides, e.g. "precision:int4". */
function hidden() {
  try {
    const names = JSON.parse(state.hide || "[]");
    return new Set(Array.isArray(names) ? names.map(String) : []);
  } catch {
    return new Set();
  }
}

/** The points that are compared and chosen from: of one data set, and one model or all. */
const comparedPoints = () =>
  [...Array(POINTS.count).keys()].filter((row) => POINTS.data[row] === state.data && (!state.model || POINTS.model[row] === state.model));

/** The limits that hold now: on the cost that is shown, on the file and on validation accuracy. */
function limitsNow() {
  const limits = { largest: {}, smallest: {} };
  for (const name of distinct([state.x, "weight_bytes"]))
    if (state.max[name] !== undefined && state.max[name] !== "") limits.largest[name] = Number(state.max[name]);
  if (state.min !== "") limits.smallest.val_accuracy = Number(state.min);
  return limits;
}
