// Results of papers beside the operating points. They are only shown: no front, knee, pick or volume has them.

import { DATA } from "./data.js";
import { byId, factsOf, fill, make, plain, tableOf } from "./dom.js";
import { change, comparedPoints, hidden, state } from "./state.js";
import { distinct, POINTS } from "./tables.js";
import { digits, percent } from "./text.js";
import { theme } from "./theme.js";

export const PUBLISHED = DATA.published;
const COST_AXES = ["bit_gflops", "relative_bops", "weight_bits_bytes"];
const isOwn = (one) => one.counts_alike && one.own.model.length > 0 && one.own.data.length > 0;
const COMPARABLE = PUBLISHED.some(isOwn) ? PUBLISHED.filter(isOwn) : PUBLISHED;
const countOn = (axis) => COMPARABLE.filter((one) => one.costs[axis]).length;
export const PUBLISHED_AXES = {
  x: COST_AXES.reduce((best, axis) => (countOn(axis) > countOn(best) ? axis : best)), // that most of them have
  y: "accuracy",
};
const SAME_DENSE = 0.01; // by how much of it the costs of two dense networks may differ that are called the same
export const publishedHere = () => (state.y === PUBLISHED_AXES.y ? PUBLISHED.filter((one) => one.costs[state.x]) : []);
export const publishedShown = () => (hidden().has("published:all") ? [] : publishedHere());

/** What keeps a published result from being compared with the points that are shown; as Published.caveats in Python. */
function caveatsOf(one) {
  const models = state.model ? [state.model] : distinct(comparedPoints().map((row) => POINTS.model[row]));
  return [
    one.own.data.includes(state.data) ? null : `another data set (${one.data})`,
    models.some((model) => one.own.model.includes(model)) ? null : `another model (${one.model})`,
    one.counts_alike ? null : "counted otherwise",
    state.x === "relative_bops" && !ofOwnDense(one) ? "relative to a dense network of another size" : null,
  ].filter(Boolean);
}

/** Whether a dense network of the points that are shown costs as much as the paper's; true where that isn't known. */
function ofOwnDense(one) {
  const near = (row) =>
    Math.abs(POINTS.bit_gflops[row] / POINTS.relative_bops[row] / one.dense_gflops - 1) <= SAME_DENSE;
  return !one.dense_gflops || comparedPoints().some(near);
}

export function publishedTraces() {
  const results = publishedShown();
  if (!results.length) return [];
  return [
    {
      type: "scatter",
      mode: "markers+text",
      name: "published",
      meta: { kind: "published" },
      hoverinfo: "none",
      x: results.map((one) => one.costs[state.x]),
      y: results.map((one) => 100 * one.accuracy),
      text: results.map((one) => plain(one.method)),
      textposition: "middle left",
      textfont: { color: theme.published },
      marker: {
        symbol: results.map((one) => (one.checked ? "hexagram" : "hexagram-open")),
        size: 14,
        color: theme.published,
        line: { width: 1.5 },
      },
    },
  ];
}

const factsOfPublished = (one) => [
  ["model", one.model],
  ["data", one.data],
  ["test accuracy", percent(one.accuracy, 2)],
  ...COST_AXES.filter((axis) => one.costs[axis]).map((axis) => [axis, digits(one.costs[axis])]),
  ...(one.baseline === null ? [] : [["dense FP32", percent(one.baseline, 2)]]),
  ...(one.epochs === null ? [] : [["epochs", String(one.epochs)]]),
  ["counting", one.counting],
  ["read in", one.read_in],
  ["numbers", one.verified],
  ...(caveatsOf(one).length ? [["not comparable", caveatsOf(one).join(", ")]] : []),
];
export const cardOfPublished = (one) => [
  make("strong", {}, `${one.method} (published)`),
  factsOf(factsOfPublished(one)),
];

/** "another model (vgg7): GETA, DJPQ" of each set of caveats that there is. */
function caveatsListed() {
  const methods = new Map();
  for (const one of PUBLISHED) {
    const caveats = caveatsOf(one).join(", ");
    if (caveats) methods.set(caveats, distinct([...(methods.get(caveats) ?? []), one.method]));
  }
  return [...methods].map(([caveats, names]) => `${caveats}: ${names.join(", ")}`);
}

async function showPublished() {
  await change(PUBLISHED_AXES);
  byId("legend").querySelector('[data-key="published:all"]').focus(); // the button is gone
}

/** Below the plot: how to see what is hidden, what isn't comparable, and all results as a table. */
export function drawPublished() {
  if (!PUBLISHED.length) return;
  const count = `${PUBLISHED.length} published point${PUBLISHED.length > 1 ? "s" : ""}`;
  const open = byId("published").querySelector("details")?.open ?? false;
  const listed = caveatsListed();
  const missing = PUBLISHED.length - publishedHere().length;
  const line = publishedHere().length
    ? make(
        "p",
        { class: "note" },
        `${count}, hollow where unverified; no front, knee or pick has them. ` +
          (missing ? `${missing} ${missing > 1 ? "have" : "has"} no ${state.x}. ` : "") +
          (listed.length ? `Not comparable – ${listed.join("; ")}.` : ""),
      )
    : make(
        "p",
        { class: "note" },
        make(
          "button",
          { type: "button", id: "show-published", onclick: showPublished },
          `${count} ${PUBLISHED.length > 1 ? "are" : "is"} shown for ${PUBLISHED_AXES.x} and test accuracy`,
        ),
      );
  const words = (text) => ({ words: text });
  const rows = PUBLISHED.map((one) => [
    one.method,
    words(one.model),
    words(one.data),
    percent(one.accuracy, 2),
    ...COST_AXES.map((axis) => (one.costs[axis] ? digits(one.costs[axis]) : "")),
    one.baseline === null ? "" : percent(one.baseline, 2),
    one.epochs === null ? "" : String(one.epochs),
    words(one.verified),
    words(one.counting),
    words(one.read_in),
  ]);
  fill(
    "published",
    line,
    make(
      "details",
      { open },
      make("summary", {}, "Published results as a table"),
      tableOf(
        [
          [
            "method",
            "model",
            "data",
            "test accuracy",
            ...COST_AXES,
            "dense FP32",
            "epochs",
            "verified",
            "counting",
            "read in",
          ],
          ...rows,
        ],
        "Published results",
      ),
    ),
  );
}
