// What lies over the plot: the limits, the marks of what is picked, and the points that fade, so that a slider moves
// without a new drawing of thousands of points.

import { shown } from "./charts.js";
import { keeps } from "./choose.js";
import { byId } from "./dom.js";
import { comparedPoints, limitsNow, state } from "./state.js";
import { POINTS } from "./tables.js";

export const pareto = byId("pareto");
const LETTER = 8; // how wide one is at most, on average
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
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const marks = svg("svg", { class: "marks", "aria-hidden": "true" });
  const [left, top, width, height] = [xaxis._offset, yaxis._offset, xaxis._length, yaxis._length];
  const limits = limitsNow();
  const dashed = { stroke: "#55606e", "stroke-dasharray": "5 4" };
  const edge = limits.largest[state.x];
  if (edge > 0) {
    const x = Math.min(Math.max(xaxis.d2p(edge), 0), width);
    marks.append(svg("rect", { x: left + x, y: top, width: width - x, height, fill: "#55606e", opacity: 0.07 }));
    marks.append(svg("line", { x1: left + x, x2: left + x, y1: top, y2: top + height, ...dashed }));
  }
  if (limits.smallest.val_accuracy !== undefined && state.y === "val_accuracy") {
    const y = Math.min(Math.max(yaxis.d2p(shown(limits.smallest.val_accuracy)), 0), height);
    marks.append(svg("rect", { x: left, y: top + y, width, height: height - y, fill: "#55606e", opacity: 0.07 }));
    marks.append(svg("line", { x1: left, x2: left + width, y1: top + y, y2: top + y, ...dashed }));
  }
  const taken = [];
  for (const { row, text, kind } of marksNow) {
    const [x, y] = [xaxis.d2p(POINTS[state.x][row]), yaxis.d2p(shown(POINTS[state.y][row]))];
    if (!(x >= 0 && x <= width && y >= 0 && y <= height)) continue;
    const ring = { cx: left + x, cy: top + y, fill: "none", stroke: "#10161d" };
    if (kind === "knee")
      marks.append(
        svg("rect", {
          x: left + x - 9,
          y: top + y - 9,
          width: 18,
          height: 18,
          fill: "none",
          stroke: "#10161d",
          "stroke-dasharray": "3 2",
          transform: `rotate(45 ${left + x} ${top + y})`,
        }),
      );
    else
      marks.append(svg("circle", { ...ring, r: kind === "pick" ? 12 : 9, "stroke-width": kind === "pick" ? 2.5 : 1 }));
    if (!text) continue;
    const atRight = x + LETTER * text.length < width;
    let below = y + 26 > height ? -18 : 24;
    while (taken.some(([ox, oy]) => Math.abs(ox - x) < 120 && Math.abs(oy - (y + below)) < 15))
      below += y + below + 40 > height ? -40 : 15;
    taken.push([x, y + below]);
    marks.append(
      svg(
        "text",
        {
          x: left + x + (atRight ? 6 : -6),
          y: top + y + below,
          "text-anchor": atRight ? "start" : "end",
          "font-weight": kind === "pick" ? 600 : 400,
        },
        text,
      ),
    );
  }
  pareto.append(marks);
}
