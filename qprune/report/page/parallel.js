// All operating points as lines over parallel axes. What is chosen on an axis, by dragging along it or by its two
// handles, filters the plot, the pick and the table.

import { axesOf, passes, spansText, ticksOf } from "./axes.js";
import { cardOf } from "./card.js";
import { keeps } from "./choose.js";
import { byId, fill, make, svg } from "./dom.js";
import { hideCard, showCard } from "./hover.js";
import { change, chooseCell, comparedPoints, filtered, limitsNow, pointsInView, state } from "./state.js";
import { COLOURS, POINTS } from "./tables.js";

const TOP = 50; // pixels: of the names above the axes,
const HEIGHT = 240; // of the axes,
const BOTTOM = 16; // below them,
const LEFT = 64; // beside the first one
const RIGHT = 30; // and the last one
const NARROWEST = 84; // between two
const REACH = 14; // to the sides of an axis
const CLICK = 4; // pixels: a shorter drag is none

/** A value's place on the screen; what is not known lies below the axis. */
const heightOf = (axis, value) => TOP + HEIGHT * (1 - (axis.at(value) ?? -0.06));
const spanNow = (axis) => state.only[axis.name] ?? [null, null];
/** The nearest of an axis' steps to a place on the screen. */
function stepAt(axis, y) {
  const distance = (value) => Math.abs(heightOf(axis, value) - y);
  return axis.steps.reduce((best, value) => (distance(value) < distance(best) ? value : best));
}

/** Spans with another one for an axis; an end at the axis' own is open, and a span with two open ends none. */
function spansWith(axis, [low, high]) {
  const span = [low === axis.steps[0] ? null : low, high === axis.steps.at(-1) ? null : high];
  const { [axis.name]: _, ...others } = state.only;
  return span.every((end) => end === null) ? others : { ...others, [axis.name]: span };
}

export function drawParallel() {
  const rows = pointsInView();
  const axes = axesOf(rows, state.only);
  byId("parallel-part").hidden = axes.length < 2;
  drawSaid(rows);
  if (axes.length < 2) return;
  const holder = byId("parallel");
  const gap = Math.max(NARROWEST, (holder.clientWidth - LEFT - RIGHT) / (axes.length - 1));
  const width = LEFT + RIGHT + gap * (axes.length - 1);
  const places = axes.map((_, number) => LEFT + gap * number);
  const size = { width, height: TOP + HEIGHT + BOTTOM };
  const ways = rows.map((row) => wayOf(row, axes, places));
  holder.replaceChildren(
    svg(
      "svg",
      { ...size, viewBox: `0 0 ${size.width} ${size.height}`, role: "group", "aria-label": "Parallel coordinates" },
      svg("g", { class: "ways" }, ...ways),
      ...axes.map((axis, number) => drawnAxis(axis, places[number])),
    ),
  );
  fadeWays();
}

/** The line of a point. */
function wayOf(row, axes, places) {
  const corners = axes.map((axis, number) => `${places[number]} ${heightOf(axis, POINTS[axis.name][row]).toFixed(1)}`);
  const way = svg("path", { d: `M${corners.join("L")}`, stroke: COLOURS[POINTS.precision[row]], "data-row": row });
  way.addEventListener("pointerenter", (event) => showCard(cardOf(POINTS, row), event));
  way.addEventListener("pointerleave", hideCard);
  way.addEventListener("click", () => chooseCell(POINTS.key[row]));
  return way;
}

/** Shows which lines the filter and the limits leave. only: the spans, also while one is being dragged. */
export function fadeWays(only = state.only) {
  const limits = limitsNow();
  for (const way of byId("parallel").querySelectorAll(".ways path")) {
    const row = Number(way.dataset.row);
    way.setAttribute("class", !passes(row, only) ? "gone" : keeps(row, limits) ? "" : "beyond");
  }
}

function drawnAxis(axis, x) {
  const line = svg("line", { class: "axis", x1: x, x2: x, y1: TOP, y2: TOP + HEIGHT });
  const span = svg("rect", { class: "span", x: x - 4, width: 8 });
  const reach = svg("rect", {
    class: "reach",
    x: x - REACH,
    y: TOP - 8,
    width: 2 * REACH,
    height: HEIGHT + 16,
    "data-axis": axis.name,
  });
  const ticks = ticksOf(axis).map((value) =>
    svg("text", { class: "tick", x: x - 7, y: heightOf(axis, value) + 4, "text-anchor": "end" }, axis.text(value)),
  );
  const handles = [0, 1].map((end) => handleOf(axis, end, x));
  const show = (now) => {
    const [low, high] = [now[0] ?? axis.steps[0], now[1] ?? axis.steps.at(-1)];
    const [top, bottom] = [heightOf(axis, high), heightOf(axis, low)];
    span.setAttribute("y", top - 3);
    span.setAttribute("height", now[0] === null && now[1] === null ? 0 : bottom - top + 6);
    for (const [end, value] of [low, high].entries()) {
      handles[end].setAttribute("transform", `translate(${x} ${heightOf(axis, value)})`);
      handles[end].setAttribute("aria-valuenow", axis.steps.indexOf(value));
      handles[end].setAttribute("aria-valuetext", now[end] === null ? "no limit" : axis.text(value));
    }
  };
  show(spanNow(axis));
  listenToDrag(axis, reach, show);
  for (const [end, handle] of handles.entries()) listenToHandle(axis, handle, end, show);
  return svg("g", { class: "parallel-axis" }, line, span, ...ticks, titleText(axis.name, x), reach, ...handles);
}

/** An axis' name in two lines, where it has two words. */
function titleText(name, x) {
  const middle = name.indexOf("_", name.length / 4);
  const lines = middle > 0 && name.length > 9 ? [name.slice(0, middle + 1), name.slice(middle + 1)] : [name];
  const text = svg("text", { class: "axis-name", "text-anchor": "middle" });
  for (const [number, line] of lines.entries())
    text.append(svg("tspan", { x, y: TOP - 18 - 15 * (lines.length - 1 - number) }, line));
  return text;
}

function handleOf(axis, end, x) {
  return svg(
    "g",
    {
      class: "handle",
      id: `only-${axis.name}-${end ? "high" : "low"}`,
      role: "slider",
      tabindex: 0,
      transform: `translate(${x} 0)`,
      "aria-orientation": "vertical",
      "aria-label": `${end ? "last" : "first"} ${axis.name} that is kept`,
      "aria-valuemin": 0,
      "aria-valuemax": axis.steps.length - 1,
    },
    svg("path", { d: end ? "M-7 -3L7 -3L0 -12Z" : "M-7 3L7 3L0 12Z" }),
  );
}

/** A pointer that goes down on an element: what it passes on its way, and where it ends. */
function follow(element, onmove, onend) {
  element.addEventListener("pointerdown", (down) => {
    down.preventDefault();
    element.setPointerCapture(down.pointerId);
    const top = () => byId("parallel").firstChild.getBoundingClientRect().top;
    const start = down.clientY - top();
    const moved = (event) => onmove(start, event.clientY - top());
    const ended = (event) => {
      element.removeEventListener("pointermove", moved);
      if (event.type === "pointerup") onend(start, event.clientY - top());
      else drawParallel();
    };
    element.addEventListener("pointermove", moved);
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, ended, { once: true });
  });
}

/** Dragging along an axis chooses what the pointer has passed; a click on it chooses all. */
function listenToDrag(axis, reach, show) {
  const spanOf = (start, end) => {
    const [top, bottom] = [Math.min(start, end) - CLICK, Math.max(start, end) + CLICK];
    const passed = axis.steps.filter((value) => heightOf(axis, value) >= top && heightOf(axis, value) <= bottom);
    return passed.length ? [passed[0], passed.at(-1)] : [stepAt(axis, end), stepAt(axis, end)];
  };
  const moved = (start, end) => {
    show(spanOf(start, end));
    fadeWays(spansWith(axis, spanOf(start, end)));
  };
  follow(reach, moved, (start, end) =>
    change({ only: spansWith(axis, Math.abs(end - start) < CLICK ? [null, null] : spanOf(start, end)) }),
  );
}

/** A handle moves one end of the span, not beyond the other. end: 0 the low one, 1 the high one. */
function listenToHandle(axis, handle, end, show) {
  const { steps } = axis;
  const limited = (place) => {
    const span = spanNow(axis);
    const places = [Math.max(0, steps.indexOf(span[0])), (steps.indexOf(span[1]) + steps.length) % steps.length];
    places[end] = end ? Math.max(places[0], place) : Math.min(places[1], place);
    return places.map((one) => steps[one]);
  };
  const spanAt = (y) => limited(steps.indexOf(stepAt(axis, y)));
  const moved = (_, y) => {
    show(spanAt(y));
    fadeWays(spansWith(axis, spanAt(y)));
  };
  follow(handle, moved, (_, y) => change({ only: spansWith(axis, spanAt(y)) }));
  handle.addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
    const last = steps.length - 1;
    const now = steps.indexOf(spanNow(axis)[end] ?? (end ? steps.at(-1) : steps[0]));
    const place = { Home: 0, End: last }[event.key] ?? (by && Math.min(Math.max(now + by, 0), last));
    if (place === undefined) return;
    event.preventDefault();
    change({ only: spansWith(axis, limited(place)) });
  });
}

/** What the filter leaves, in words, and the way back. */
function drawSaid(rows) {
  fill(
    "parallel-said",
    make(
      "span",
      {},
      filtered()
        ? `${comparedPoints().length} of ${rows.length} points are left: ${spansText(state.only)}.`
        : `All ${rows.length} points. Drag along an axis or move its handles to filter the plot, pick and table.`,
    ),
  );
  byId("filter-reset").disabled = !filtered();
}
