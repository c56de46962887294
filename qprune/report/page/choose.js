// Fronts, knee and pick: the rules of qprune/analysis/front.py and pick.py, which the tests hold against these.

import { POINTS } from "./tables.js";

/** Which of these points no other dominates; equal ones are on it together. rows: places; returns them by cost. */
export function frontOf(rows, cost, accuracy) {
  const known = rows.filter((row) => cost[row] !== null && accuracy[row] !== null);
  known.sort((a, b) => cost[a] - cost[b] || accuracy[b] - accuracy[a] || a - b);
  const front = [];
  let best = -Infinity;
  let at = NaN;
  for (const row of known) {
    if (accuracy[row] > best || (accuracy[row] === best && cost[row] === at)) {
      front.push(row);
      best = accuracy[row];
      at = cost[row];
    }
  }
  return front;
}

/** The point of a front farthest above its chord on log2 of the cost; null where none is above it. */
export function kneeOf(front, cost, accuracy) {
  if (front.length < 3) return null;
  const ordered = [...front].sort((a, b) => a - b);
  const x = ordered.map((row) => Math.log2(cost[row]));
  const y = ordered.map((row) => accuracy[row]);
  const first = x.indexOf(Math.min(...x));
  const last = x.indexOf(Math.max(...x));
  if (x[first] === x[last] || y[first] === y[last]) return null;
  const above = x.map(
    (value, place) => (y[place] - y[first]) / (y[last] - y[first]) - (value - x[first]) / (x[last] - x[first]),
  );
  const best = above.indexOf(Math.max(...above));
  return above[best] > 1e-12 ? ordered[best] : null;
}

/** Whether a point keeps limits {largest: {column: limit}, smallest: {...}}. */
export function keeps(row, limits) {
  for (const [name, limit] of Object.entries(limits.largest))
    if (!(POINTS[name][row] !== null && POINTS[name][row] <= limit)) return false;
  for (const [name, limit] of Object.entries(limits.smallest))
    if (!(POINTS[name][row] !== null && POINTS[name][row] >= limit)) return false;
  return true;
}

/** {chosen, runnersUp, prefer, feasible}: the point that limits and preference single out, and the next ones. */
export function pickOf(rows, limits, prefer, costName) {
  const cost = POINTS[costName];
  const accuracy = POINTS.val_accuracy;
  const kept = rows.filter((row) => keeps(row, limits) && accuracy[row] !== null && cost[row] !== null);
  if (!kept.length) return { chosen: null, runnersUp: [], prefer, feasible: [] };
  const knee = prefer === "knee" ? kneeOf(frontOf(kept, cost, accuracy), cost, accuracy) : null;
  const byCost = (a, b) => cost[a] - cost[b];
  const byAccuracy = (a, b) => accuracy[b] - accuracy[a];
  const [one, two] = prefer === "cheapest" ? [byCost, byAccuracy] : [byAccuracy, byCost];
  const order = [...kept].sort(
    (a, b) =>
      one(a, b) ||
      two(a, b) ||
      POINTS.weight_bytes[a] - POINTS.weight_bytes[b] ||
      POINTS.pruning_ratio[a] - POINTS.pruning_ratio[b] ||
      a - b,
  );
  if (knee !== null) order.splice(0, order.length, knee, ...order.filter((row) => row !== knee));
  const rule = prefer === "knee" && knee === null ? "most-accurate" : prefer;
  return { chosen: order[0], runnersUp: order.slice(1, 4), prefer: rule, feasible: kept };
}
