// Limits, and what they leave to choose.

import { commandOf } from "./again.js";
import { CHEAPEST_WITHIN, frontOf, handedOver, kneeOf, pickOf } from "./choose.js";
import { DATA, rowsOf } from "./data.js";
import { choice, commandLine, costHelp, factsOf, fill, make } from "./dom.js";
import { drawMarks, fadePoints, setMarks } from "./marks.js";
import { fadeWays } from "./parallel.js";
import {
  CHOICES,
  chooseCell,
  comparedPoints,
  filtered,
  LIMITED_RECALLS,
  limitedCosts,
  limitsNow,
  rememberState,
  state,
} from "./state.js";
import { CELLS, distinct, nameOf, POINTS } from "./tables.js";
import { costText, digits, percent, quoted, signed } from "./text.js";

/** A number as text that a point's own value still keeps: rounded up for a largest, down for a smallest. */
function limitText(value, upwards) {
  if (value === 0) return "0";
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  const text = (steps) => String(Number((steps * unit).toPrecision(4)));
  let steps = Math[upwards ? "ceil" : "floor"](value / unit);
  if (upwards ? Number(text(steps)) < value : Number(text(steps)) > value) steps += upwards ? 1 : -1;
  return text(steps);
}

/** The slider and field of one limit. values: of the points; get and set: the limit as typed. */
function limitRow(id, label, values, upwards, get, set, show) {
  const steps = distinct(values.filter((value) => value !== null)).sort((a, b) => a - b);
  const none = upwards ? steps.length - 1 : 0; // the end that excludes nothing
  const place = () => {
    if (get() === "") return none;
    const limit = Number(get());
    const found = upwards ? steps.findLastIndex((value) => value <= limit) : steps.findIndex((value) => value >= limit);
    return found >= 0 ? found : upwards ? 0 : steps.length - 1;
  };
  const said = () => (get() === "" ? "no limit" : show(Number(get())));
  const range = make("input", {
    type: "range",
    id: `${id}-range`,
    min: 0,
    max: Math.max(0, steps.length - 1),
    step: 1,
    value: place(),
    "aria-label": `${label}, slider`,
    "aria-valuetext": said(),
    disabled: steps.length < 2,
  });
  const field = make("input", {
    type: "number",
    id: `${id}-field`,
    step: "any",
    min: 0,
    value: get(),
    placeholder: "no limit",
  });
  range.addEventListener("input", () => {
    const at = Number(range.value);
    set(at === none ? "" : limitText(steps[at], upwards));
    field.value = get();
    range.setAttribute("aria-valuetext", said());
  });
  field.addEventListener("input", () => {
    if (field.value === "" && field.validity.badInput) return;
    set(field.value);
    range.value = place();
    range.setAttribute("aria-valuetext", said());
  });
  return make(
    "div",
    { class: "limit" },
    make("div", {}, make("label", { for: `${id}-field` }, label), costHelp(id.replace("max-", "")), field),
    range,
  );
}

export function drawLimits() {
  const points = comparedPoints();
  const rows = [];
  for (const name of limitedCosts())
    rows.push(
      limitRow(
        `max-${name}`,
        `largest ${name}`,
        points.map((row) => POINTS[name][row]),
        true,
        () => state.max[name] ?? "",
        (text) => limitChanged(() => (state.max[name] = text)),
        (value) => costText(name, value),
      ),
    );
  rows.push(
    limitRow(
      "min-accuracy",
      "smallest val_accuracy",
      points.map((row) => POINTS.val_accuracy[row]),
      false,
      () => state.min,
      (text) => limitChanged(() => (state.min = text)),
      (value) => percent(value, 2),
    ),
  );
  for (const name of LIMITED_RECALLS)
    rows.push(
      limitRow(
        `min-${name}`,
        `smallest ${name}`,
        points.map((row) => POINTS[name][row]),
        false,
        () => state.least[name] ?? "",
        (text) => limitChanged(() => (state.least[name] = text)),
        (value) => percent(value, 2),
      ),
    );
  if (POINTS.val_gain.some((gain) => gain !== null))
    rows.push(
      limitRow(
        "max-drop",
        "most percentage points under the baseline",
        points.map((row) => (POINTS.val_gain[row] === null ? null : Math.max(0, -100 * POINTS.val_gain[row]))),
        true,
        () => state.max_drop,
        (text) => limitChanged(() => (state.max_drop = text)),
        (value) => `${digits(value)} points`,
      ),
    );
  fill("limit-rows", rows);
  fill(
    "prefer-row",
    choice(
      "prefer",
      "prefer",
      [
        ["most-accurate", "most accurate"],
        ["cheapest", "cheapest"],
        [CHEAPEST_WITHIN, "cheapest surely within the drop"],
        ["knee", "the knee"],
      ],
      state.prefer,
      (value) => limitChanged(() => (state.prefer = value)),
    ),
  );
}

/** A limit or the preference has moved: fade, pick and mark, without a new plot. */
function limitChanged(apply) {
  apply();
  drawPick();
  fadePoints(limitsNow());
  fadeWays();
  drawMarks();
  rememberState();
}

/** The command that makes the same choice; null where several sweeps are on the page, or a filter. */
function pickCommand() {
  if (DATA.sweeps.length > 1 || filtered()) return null;
  const limits = limitsNow();
  const parts = ["qprune", "pick", DATA.sweeps[0].folder];
  if (CHOICES.data.length > 1) parts.push("--data", state.data);
  if (state.model) parts.push("--model", state.model);
  for (const name of Object.keys(limits.largest)) parts.push("--max", `${name}=${state.max[name]}`);
  if (state.min !== "") parts.push("--min", `val_accuracy=${state.min}`);
  for (const name of LIMITED_RECALLS) if (state.least[name]) parts.push("--min", `${name}=${state.least[name]}`);
  if (state.max_drop !== "") parts.push("--max-drop", state.max_drop);
  if (state.prefer !== "most-accurate") parts.push("--prefer", state.prefer);
  if (state.x !== "bit_gflops") parts.push("--cost", state.x);
  return parts.map(quoted).join(" ");
}
const exportCommand = (cell) => {
  const { folder, own_code } = DATA.sweeps.find(({ name }) => name === CELLS.sweep[cell]);
  const trust = own_code.flatMap((name) => ["--trust", name]);
  return ["qprune", "export", folder, CELLS.cell[cell], "--format", "onnx", ...trust].map(quoted).join(" ");
};

/** Sentences about points that keep the limits by their mean alone, and about columns that only some points have. */
function notesOf(points, limits, meanOnly) {
  const columns = distinct([state.x, ...Object.keys({ ...limits.largest, ...limits.smallest })]);
  const partly = columns.flatMap((name) => {
    const known = points.filter((row) => POINTS[name][row] !== null).length;
    if (known === points.length) return [];
    const ways = DATA.sweeps.flatMap((sweep) => sweep.measured[name] ?? []);
    const how = ways.length ? ` (${ways.join("; ")})` : "";
    return [`${name}: ${known} of ${points.length} points have it${how}; the others were never measured.`];
  });
  const more = meanOnly.length > 3 ? ` and ${meanOnly.length - 3} more` : "";
  const named = meanOnly.slice(0, 3).map(nameOf).join("; ");
  const alone = meanOnly.length
    ? [`By the mean these keep the limits too, but no seed's cell does: ${named}${more}.`]
    : [];
  return [...alone, ...partly].map((text) => make("p", { class: "note" }, text));
}

/** A point's accuracy and what it costs. */
const atCost = (row) => `${percent(POINTS.val_accuracy[row], 2)} at ${costText(state.x, POINTS[state.x][row])}`;

/** A sentence where the pick is a network that no one has pruned, with the best that pruning has within the limits. */
function neverPruned(best, feasible, cost) {
  if (!POINTS.baseline[best] && POINTS.pruning_ratio[best] > 0) return null;
  const pruned = feasible.filter((row) => !POINTS.baseline[row] && POINTS.pruning_ratio[row] > 0);
  const next = pickOf(pruned, limitsNow(), state.prefer, state.x).chosen;
  const start = POINTS.method[best].startsWith("same_shape")
    ? "has the widths of a pruned one"
    : "was narrow from the start";
  const what = POINTS.baseline[best] ? `It was never pruned: it ${start}, with random weights.` : "It is not pruned.";
  const other =
    next === null
      ? "No pruned network keeps the limits."
      : `The best pruned one: ${nameOf(next)}, ${percent(POINTS.val_accuracy[next], 2)} at ` +
        `${costText(state.x, cost[next])} ${state.x}.`;
  return make("p", { class: "note" }, `${what} ${other}`);
}

const DROP = "the largest drop";
const namesOf = ({ largest, smallest, drop }) => [
  ...Object.keys({ ...largest, ...smallest }),
  ...(drop === null ? [] : [DROP]),
];

export function drawPick() {
  const points = comparedPoints();
  const limits = limitsNow();
  const picked = pickOf(points, limits, state.prefer, state.x);
  fill("pick-commands");
  if (!points.length) {
    setMarks([]);
    const why = filtered()
      ? "The filter leaves nothing to choose from."
      : "Nothing to choose from yet: no cell is finished.";
    fill("pick", make("p", {}, why));
    fill("pick-more");
    return;
  }
  if (picked.chosen === null) {
    setMarks([]);
    fill("pick", make("p", {}, make("strong", {}, "No cell keeps these limits.")));
    fill(
      "pick-more",
      notesOf(points, limits, picked.meanOnly),
      make("p", {}, "Without one of them:"),
      make(
        "ul",
        {},
        namesOf(limits).map((name) => {
          const less = { ...limits, largest: { ...limits.largest }, smallest: { ...limits.smallest } };
          delete less.largest[name];
          delete less.smallest[name];
          if (name === DROP) Object.assign(less, { drop: null, sure: false });
          const row = pickOf(points, less, state.prefer, state.x).chosen;
          const then = row === null ? "the others can't be kept either" : `${nameOf(row)}, ${atCost(row)} ${state.x}`;
          return make("li", {}, `without ${name}: ${then}`);
        }),
      ),
    );
    return;
  }
  const cost = POINTS[state.x];
  const knee = kneeOf(frontOf(picked.feasible, cost, POINTS.val_accuracy), cost, POINTS.val_accuracy);
  const best = picked.chosen;
  const cell = handedOver(best, limits);
  const marks = [{ row: best, kind: "pick", text: `pick: ${nameOf(best)}` }];
  if (knee !== null && knee !== best) marks.push({ row: knee, kind: "knee", text: `knee: ${nameOf(knee)}` });
  setMarks([...marks, ...picked.runnersUp.map((row) => ({ row, kind: "runner-up", text: "" }))]);
  fill(
    "pick",
    make(
      "div",
      { class: "soft" },
      `${picked.feasible.length} of ${points.length} points keep the limits` +
        (picked.prefer !== state.prefer ? "; they have no knee, so the most accurate:" : "; the pick:"),
    ),
    make("strong", {}, nameOf(best)),
    neverPruned(best, picked.feasible, cost),
    notesOf(points, limits, picked.meanOnly),
    make(
      "div",
      {},
      `${percent(POINTS.val_accuracy[best], 2)} validation accuracy at ${costText(state.x, cost[best])} ${state.x}`,
    ),
  );
  const [command, again] = [pickCommand(), commandOf(POINTS, best)];
  fill(
    "pick-more",
    factsOf(comparison(best, cell)),
    cannotTell(best, limits),
    make("button", { type: "button", onclick: () => chooseCell(CELLS.key[cell], true) }, "Look at this cell"),
    make("h3", {}, "Runners-up"),
    picked.runnersUp.length
      ? make(
          "ol",
          { class: "runners", start: 2 },
          picked.runnersUp.map((row) =>
            make(
              "li",
              {},
              make(
                "button",
                { type: "button", onclick: () => chooseCell(CELLS.key[handedOver(row, limits)], true) },
                nameOf(row),
              ),
              `: ${atCost(row)} ${state.x}`,
            ),
          ),
        )
      : make("p", {}, "None."),
    knee === null
      ? null
      : make("p", { class: "soft" }, `Knee of what is left: ${nameOf(knee)}, ${atCost(knee)} ${state.x}.`),
  );
  fill(
    "pick-commands",
    make("h3", {}, "Commands"),
    command && commandLine(command, "pick"),
    filtered()
      ? make("p", { class: "note" }, "qprune pick knows limits, and no filter: reset it for its command.")
      : null,
    commandLine(exportCommand(cell), "export"),
    again && commandLine(again, "sweep"),
  );
}

const A_POINT = 1; // percentage points that the validation split should be able to tell where no drop is named
const gainOf = (split, row) => rowsOf(DATA.points.gains[split])[row];

/** The 95% intervals of a point's gain in accuracy over the baseline; null where there is none. */
function gainText(split, row) {
  const parts = Object.entries(gainOf(split, row)).filter(([, one]) => one.low !== null);
  const texts = parts.map(([over, one]) => `${signed(one.low, 2)} to ${signed(one.high, 2)} over ${one.seeds} ${over}`);
  return texts.length ? texts.join("; ") : null;
}

/** A sentence where the validation images can't tell the difference that matters. */
function cannotTell(row, limits) {
  const { images } = gainOf("validation", row);
  const half = 50 * (images.high - images.low);
  if (images.low === null || half <= (limits.drop ?? A_POINT)) return null;
  const text =
    `${images.seeds} validation images tell the difference to the baseline to ±${half.toFixed(2)} percentage points ` +
    `only (95%), which is wider than ${limits.drop ?? "1"} ${limits.drop === null ? "point" : "asked for"}.`;
  return make("p", { class: "note" }, text);
}

/** How a point, and the cell that it hands over, stand to the unpruned FP32 network of equal updates. */
function comparison(row, cell) {
  const dense = [...Array(POINTS.count).keys()].find(
    (one) =>
      POINTS.precision[one] === "fp32" &&
      POINTS.pruning_ratio[one] === 0 &&
      POINTS.criterion[one] !== "none" &&
      ["sweep", "model", "data"].every((name) => POINTS[name][one] === POINTS[name][row]),
  );
  const own = (text) => (POINTS.seeds[row] > 1 ? `; this cell ${text}` : "");
  const less = (name) => {
    const text = costText(name, POINTS[name][row]);
    const base = dense === undefined ? null : POINTS[name][dense];
    const times = base && POINTS[name][row] ? ` (${digits(base / POINTS[name][row])}× less)` : "";
    return text + times + own(costText(name, CELLS[name][cell]));
  };
  const against = (name, base) => {
    const drop = POINTS[base][row] === null ? null : POINTS[name][row] - POINTS[base][row];
    const to = drop === null ? "" : ` (${signed(drop, 2)} to baseline)`;
    return percent(POINTS[name][row], 2) + to + own(percent(CELLS[name][cell], 2));
  };
  return [
    ["validation", against("val_accuracy", "baseline_val_accuracy")],
    ["to baseline (95%)", gainText("validation", row)],
    ["test", against("accuracy", "baseline_accuracy")],
    ["to baseline (95%), test", gainText("test", row)],
    ...distinct([state.x, "bit_gflops", "gflops", "weight_bytes", "peak_activation_bytes"])
      .filter((name) => DATA.costs.includes(name))
      .map((name) => [name, less(name)]),
    ["seeds", POINTS.seeds[row]],
    ["cell to export", CELLS.cell[cell]],
  ].filter(([, text]) => text !== null);
}
