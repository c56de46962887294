// The axes of the parallel coordinates, and which points lie within what is chosen on them.
//
// What is chosen on an axis is a span [lowest, highest], values of the axis, null where that end is open.

import { DATA } from "./data.js";
import { CELLS, distinct, POINTS, PRECISIONS, VARYING } from "./tables.js";
import { costText, percent, ratioText } from "./text.js";

/** name: the column; order: all names of one that has names; text: of a value; log: whether the axis is logarithmic. */
const AXES = [
  { name: "precision", order: PRECISIONS },
  { name: "pruning_ratio", text: ratioText },
  ...VARYING.map((name) => ({ name, order: distinct(CELLS[name]) })),
  ...DATA.costs.map((name) => ({ name, text: (value) => costText(name, value), log: true })),
  { name: "val_accuracy", text: (value) => percent(value, 1) },
].map((axis) => ({ text: String, log: false, order: null, ...axis }));
const FEW = 6; // steps that all have a tick
const AXIS_NAMED = new Map(AXES.map((axis) => [axis.name, axis]));

/** A value's place among those of its axis; null where it is not known. */
const rankOf = (axis, value) => (value === null ? null : axis.order ? axis.order.indexOf(value) : value);

/** Whether an operating point lies within all spans: axis -> span. */
export function passes(row, only) {
  return Object.entries(only).every(([name, [low, high]]) => {
    const axis = AXIS_NAMED.get(name);
    const rank = rankOf(axis, POINTS[name][row]);
    return (
      rank !== null && (low === null || rank >= rankOf(axis, low)) && (high === null || rank <= rankOf(axis, high))
    );
  });
}

/** The spans of a text in the page's address; those of unknown axes, or with unknown ends, are left out. */
export function spansOf(text) {
  let read = {};
  try {
    read = JSON.parse(text);
  } catch {
    return {};
  }
  const known = (axis, end) => end === null || (axis.order ? axis.order.includes(end) : Number.isFinite(end));
  return Object.fromEntries(
    Object.entries(read ?? {}).filter(([name, span]) => {
      const axis = AXIS_NAMED.get(name);
      return axis && Array.isArray(span) && span.length === 2 && span.every((end) => known(axis, end));
    }),
  );
}

/** What the spans are, in words. */
export const spansText = (only) =>
  Object.entries(only)
    .map(([name, [low, high]]) => {
      const text = AXIS_NAMED.get(name).text;
      if (low === high) return `${name} ${text(low)}`;
      if (low === null) return `${name} up to ${text(high)}`;
      return high === null ? `${name} from ${text(low)}` : `${name} ${text(low)} to ${text(high)}`;
    })
    .join(", ");

/**
 * The axes on which these points differ, or on which something is chosen, as they are drawn for them.
 * steps: the values that there are, from the lowest; at: 0 (lowest) to 1 of a value, null where it is not known.
 */
export function axesOf(rows, only) {
  return AXES.map((axis) => {
    const values = distinct(rows.map((row) => POINTS[axis.name][row])).filter((value) => value !== null);
    const steps = axis.order ? axis.order.filter((name) => values.includes(name)) : values.sort((a, b) => a - b);
    const log = axis.log && steps[0] > 0;
    const height = (value) => (axis.order ? steps.indexOf(value) : log ? Math.log(value) : value);
    const [first, last] = [height(steps[0]), height(steps.at(-1))];
    const share = (value) => (first === last ? 0.5 : (height(value) - first) / (last - first));
    const at = (value) => (value === null ? null : Math.min(Math.max(share(value), 0), 1));
    return { ...axis, log, steps, at };
  }).filter((axis) => axis.steps.length > 1 || axis.name in only);
}

/** Values at which an axis has ticks: all where there are few, or the ends and about three between them. */
export function ticksOf({ order, log, steps, at }) {
  if (order || (!log && steps.length <= FEW)) return steps;
  const [low, high] = [steps[0], steps.at(-1)];
  const between = [];
  if (log && high / low > 30)
    for (let power = Math.ceil(Math.log10(low)); 10 ** power < high; power++) between.push(10 ** power);
  else if (!log)
    for (const share of [0.25, 0.5, 0.75]) between.push(Number((low + share * (high - low)).toPrecision(2)));
  const clear = between.filter((value) => at(value) > 0.08 && at(value) < 0.92);
  return [low, ...clear.filter((_, place) => place % Math.ceil(clear.length / 4 || 1) === 0), high];
}
