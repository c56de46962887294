// Fronts, knee and pick: the rules of qprune/analysis/front.py and pick.py, which the tests hold against these.

import { CELLS, POINTS } from "./tables.js";

// what isn't a cost: limits hold for the mean alone
const OF_THE_MEAN = ["val_accuracy", "val_balanced_accuracy", "val_least_recall", "val_loss"];
export const CHEAPEST_WITHIN = "cheapest-within";
const ROUNDING = 1e-12;

/** The measured cells of each point, that of median validation accuracy first, then by the places between. */
const CELLS_OF = (() => {
  const own = Array.from({ length: POINTS.count }, () => []);
  CELLS.point.forEach((point, row) => {
    if (point >= 0 && CELLS.status[row] === "done") own[point].push(row);
  });
  return own.map((rows) => {
    rows.sort((a, b) => CELLS.val_accuracy[a] - CELLS.val_accuracy[b] || CELLS.seed[a] - CELLS.seed[b] || a - b);
    const middle = Math.floor((rows.length - 1) / 2);
    const away = rows.map((row, rank) => [Math.abs(rank - middle), rank, row]);
    return away.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , row]) => row);
  });
})();

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

/** Whether a row of a table keeps the limits on columns, but for those of some names. */
function columnsKeep(table, row, limits, but = []) {
  const value = (name) => table[name]?.[row] ?? null;
  const all = (part, keeps) =>
    Object.entries(part).every(
      ([name, limit]) => but.includes(name) || (value(name) !== null && keeps(value(name), limit)),
    );
  return all(limits.largest, (one, limit) => one <= limit) && all(limits.smallest, (one, limit) => one >= limit);
}

/** Whether a point's means keep limits {largest: {column: limit}, smallest: {...}, drop: points or null, sure}. */
export function meanKeeps(row, limits) {
  if (!columnsKeep(POINTS, row, limits)) return false;
  if (limits.drop === null) return true;
  const [gain, bound] = [POINTS.val_gain[row], POINTS.val_gain_bound[row]];
  if (gain === null || gain < -limits.drop / 100 - ROUNDING) return false;
  return !limits.sure || (bound !== null && bound > -limits.drop / 100);
}

/** The cell that a point hands over: the nearest to its median that keeps the limits on costs; null where none does. */
export const handedOver = (row, limits) =>
  CELLS_OF[row].find((cell) => columnsKeep(CELLS, cell, limits, OF_THE_MEAN)) ?? null;

/** Whether a point keeps the limits, with a cell to hand over. */
export const keeps = (row, limits) => meanKeeps(row, limits) && handedOver(row, limits) !== null;

/** {chosen, runnersUp, prefer, feasible, meanOnly}: the point that limits and preference single out, and the next. */
export function pickOf(rows, limits, prefer, costName) {
  const cost = POINTS[costName];
  const accuracy = POINTS.val_accuracy;
  const byMean = rows.filter((row) => meanKeeps(row, limits) && accuracy[row] !== null && cost[row] !== null);
  const kept = byMean.filter((row) => handedOver(row, limits) !== null);
  const meanOnly = byMean.filter((row) => !kept.includes(row));
  if (!kept.length) return { chosen: null, runnersUp: [], prefer, feasible: [], meanOnly };
  const knee = prefer === "knee" ? kneeOf(frontOf(kept, cost, accuracy), cost, accuracy) : null;
  const byCost = (a, b) => cost[a] - cost[b];
  const byAccuracy = (a, b) => accuracy[b] - accuracy[a];
  const [one, two] = ["cheapest", CHEAPEST_WITHIN].includes(prefer) ? [byCost, byAccuracy] : [byAccuracy, byCost];
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
  return { chosen: order[0], runnersUp: order.slice(1, 4), prefer: rule, feasible: kept, meanOnly };
}
