// What lies over the plot: the limits, the marks of what is picked, and the points that fade, so that a slider moves
// without a new drawing of thousands of points.

import { shown } from "./charts.js";
import { keeps } from "./choose.js";
import { byId, svg } from "./dom.js";
import { nearestOf, placeLabel, widthOf } from "./labels.js";
import { comparedPoints, limitsNow, state } from "./state.js";
import { POINTS } from "./tables.js";
import { theme } from "./theme.js";

export const pareto = byId("pareto");
const LABEL_SIZE = 13; // pixels
const RING = 12; // radius
const LEADER = 24; // from how far away a line leads to a label
let nodesOfPoint = []; // point -> the elements that fade with it
export let fadedPoints = new Set();
export let marksNow = []; // {row, text, kind} of the picked points

/** Says which points are marked from now on; drawMarks() shows it. */
export function setMarks(marks) {
  marksNow = marks;
}

/** Finds the elements of each point after plotly has drawn, and fades and marks them anew. */
export function findNodes() {
  nodesOfPoint = Array.from({ length: POINTS.count }, () => []);
  for (const group of pareto.querySelectorAll(".scatterlayer .trace")) {
    const trace = group.__data__?.[0]?.trace;
    if (trace?.meta?.kind !== "points") continue;
    const rows = trace.customdata;
    for (const node of group.querySelectorAll(".points path")) nodesOfPoint[rows[node.__data__.i]].push(node);
    for (const bar of group.querySelectorAll(".errorbars .errorbar")) nodesOfPoint[rows[bar.__data__.i]]?.push(bar);
  }
  fadedPoints = new Set();
  fadePoints(limitsNow());
  drawMarks();
}

/** Fades the points that don't keep the limits; touches only those that change. */
export function fadePoints(limits) {
  for (const row of comparedPoints()) {
    const fades = !keeps(row, limits);
    if (fades === fadedPoints.has(row)) continue;
    for (const node of nodesOfPoint[row]) node.classList.toggle("faded", fades);
    if (fades) fadedPoints.add(row);
    else fadedPoints.delete(row);
  }
}

/** Draws the limits and the marks of pick, runners-up and knee over the plot. */
export function drawMarks() {
  const { xaxis, yaxis } = pareto._fullLayout ?? {};
  if (!xaxis) return;
  pareto.querySelector(".marks")?.remove();
  const marks = svg("svg", { class: "marks", "aria-hidden": "true" });
  const [left, top, width, height] = [xaxis._offset, yaxis._offset, xaxis._length, yaxis._length];
  const limits = limitsNow();
  const dashed = { stroke: theme.soft, "stroke-dasharray": "5 4" };
  const edge = limits.largest[state.x];
  if (edge > 0) {
    const x = Math.min(Math.max(xaxis.d2p(edge), 0), width);
    marks.append(svg("rect", { x: left + x, y: top, width: width - x, height, fill: theme.soft, opacity: 0.07 }));
    marks.append(svg("line", { x1: left + x, x2: left + x, y1: top, y2: top + height, ...dashed }));
  }
  if (limits.smallest.val_accuracy !== undefined && state.y === "val_accuracy") {
    const y = Math.min(Math.max(yaxis.d2p(shown(limits.smallest.val_accuracy)), 0), height);
    marks.append(svg("rect", { x: left, y: top + y, width, height: height - y, fill: theme.soft, opacity: 0.07 }));
    marks.append(svg("line", { x1: left, x2: left + width, y1: top + y, y2: top + y, ...dashed }));
  }
  const plot = { width, height };
  const at = (row) => [xaxis.d2p(POINTS[state.x][row]), yaxis.d2p(shown(POINTS[state.y][row]))];
  const inside = ([x, y]) => x >= 0 && x <= width && y >= 0 && y <= height;
  const seen = marksNow.filter(({ row }) => inside(at(row)));
  for (const { row, kind } of seen) marks.append(ringOf(kind, left + at(row)[0], top + at(row)[1]));
  const points = plottedPoints(xaxis, yaxis).filter(inside);
  const taken = [];
  for (const { row, text, kind } of seen.filter((mark) => mark.text)) {
    const bold = kind === "pick" ? 600 : 400;
    const font = `${bold} ${LABEL_SIZE}px ${getComputedStyle(pareto).fontFamily}`;
    const fits = widthOf(text, font) < width ? text : kind;
    const box = placeLabel(widthOf(fits, font), at(row), plot, points, taken);
    taken.push(box);
    const [x, y] = at(row);
    const [nearX, nearY] = nearestOf(box, [x, y]);
    const distance = Math.hypot(nearX - x, nearY - y);
    if (distance > LEADER) {
      const start = RING / distance;
      marks.append(
        svg("line", {
          x1: left + x + (nearX - x) * start,
          y1: top + y + (nearY - y) * start,
          x2: left + nearX,
          y2: top + nearY,
          stroke: theme.ink,
          "stroke-width": 1,
        }),
      );
    }
    marks.append(svg("text", { x: left + box.left, y: top + box.top + LABEL_SIZE, "font-weight": bold }, fits));
  }
  pareto.append(marks);
}

/** What is drawn around a marked point. */
function ringOf(kind, x, y) {
  const look = { fill: "none", stroke: theme.ink };
  if (kind !== "knee")
    return svg("circle", {
      cx: x,
      cy: y,
      r: kind === "pick" ? RING : 9,
      "stroke-width": kind === "pick" ? 2.5 : 1,
      ...look,
    });
  const square = { x: x - 9, y: y - 9, width: 18, height: 18, transform: `rotate(45 ${x} ${y})` };
  return svg("rect", { ...square, "stroke-dasharray": "3 2", ...look });
}

/** Where the points that the plot shows are, in pixels of the plot. */
function plottedPoints(xaxis, yaxis) {
  return pareto.data
    .filter((trace) => trace.meta.kind !== "front")
    .flatMap((trace) => trace.x.map((x, place) => [xaxis.d2p(x), yaxis.d2p(trace.y[place])]));
}
