// The page's data, and how numbers and elements are made. No name from a file ever becomes markup.

const DATA = await unzipped(document.getElementById("data").textContent);

/** The JSON value of a gzipped text in base64. */
async function unzipped(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

const TITLES = {
  bit_gflops: "bit-weighted GFLOPs (bit_gflops)",
  linear_gflops: "linearly weighted GFLOPs (linear_gflops)",
  gbops_acc: "GBOPs with accumulation (gbops_acc)",
  relative_bops: "BOPs relative to dense FP32 (relative_bops)",
  gflops: "GFLOPs whatever the width (gflops)",
  weight_bytes: "weights in bytes (weight_bytes)",
  latency_ms: "measured latency in ms (latency_ms)",
};
// Okabe and Ito's palette, told apart with any kind of colour vision; FP32 is always black
const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon", "pentagon"];

/** A column of a table as an array; null for each row where the table lacks it. */
function column(table, name) {
  const packed = table[name];
  if (packed === undefined) return new Array(table.point ? table.point.length : table.group.length).fill(null);
  return packed.names ? packed.index.map((place) => (place < 0 ? null : packed.names[place])) : packed;
}

/** All columns of a table, unpacked: name -> array. */
function unpack(table, names) {
  return Object.fromEntries(names.map((name) => [name, column(table, name)]));
}

const POINTS = unpack(DATA.points, [
  "precision", "pruning_ratio", "achieved_ratio", "cell", "seeds", "val_accuracy", "accuracy", "val_accuracy_sd", "accuracy_sd",
  "val_loss", "test_loss", "baseline_val_accuracy", "baseline_accuracy", "macs", "params", "speedup",
  ...Object.keys(TITLES), ...Object.keys(TITLES).map((cost) => `${cost}_sd`),
]);
POINTS.group = DATA.points.group;
POINTS.count = POINTS.group.length;
for (const name of ["sweep", "model", "data", "criterion", "method"])
  POINTS[name] = POINTS.group.map((group) => DATA.groups[group][name]);

const CELLS = unpack(DATA.cells, [
  "cell", "sweep", "model", "data", "criterion", "method", "precision", "pruning_ratio", "achieved_ratio", "seed", "status", "val_accuracy",
  "accuracy", "val_loss", "test_loss", "baseline_val_accuracy", "baseline_accuracy", ...Object.keys(TITLES), "gbops", "macs",
  "params", "speedup", "total_updates", "seconds", "reason",
]);
CELLS.point = DATA.cells.point;
CELLS.count = CELLS.point.length;

const distinct = (values) => [...new Set(values)];
const PRECISIONS = distinct(CELLS.precision);
const COLOURS = Object.fromEntries(
  PRECISIONS.filter((name) => name !== "fp32").map((name, place) => [name, PALETTE[place % PALETTE.length]])
);
COLOURS.fp32 = "#000000";
/** Those of sweep, model, criterion and method that there are several of; networks from scratch have no criterion. */
const VARYING = ["sweep", "model", "criterion", "method"].filter(
  (name) => distinct(CELLS[name].filter((_, row) => name !== "criterion" || CELLS.method[row] !== "scratch")).length > 1);
/** What tells a point's or cell's marker. */
const familyOf = (table, row) =>
  VARYING.filter((name) => name !== "criterion" || table.method[row] !== "scratch").map((name) => table[name][row]).join(" · ");
POINTS.family = POINTS.group.map((_, row) => familyOf(POINTS, row));
CELLS.family = CELLS.point.map((_, row) => familyOf(CELLS, row));
/** What names a cell on this page: with several sweeps, the sweep too. */
const keyOf = (table, row) => (DATA.sweeps.length > 1 ? `${table.sweep[row]}: ${table.cell[row]}` : table.cell[row]);
CELLS.key = CELLS.point.map((_, row) => keyOf(CELLS, row));
POINTS.key = POINTS.group.map((_, row) => keyOf(POINTS, row));
const FAMILIES = distinct(CELLS.family);
const symbolOf = (family) => SYMBOLS[FAMILIES.indexOf(family) % SYMBOLS.length];

/** An element with attributes and children; strings become text nodes, and on<event> attributes listeners. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);
const fill = (id, ...children) => byId(id).replaceChildren(...children.flat().filter((child) => child !== null));

/** A labelled select. options: [value, text] pairs. */
function choice(id, label, options, value, onchange) {
  const select = make("select", { id, onchange: (event) => onchange(event.target.value) });
  for (const [key, text] of options) select.append(make("option", { value: key, selected: key === value }, text));
  return make("label", { for: id }, label, select);
}

/** A table from rows of strings or elements; the first row is its head. attributes: of each row, by its number. */
function tableOf(rows, caption, attributes = () => ({})) {
  const [head, ...body] = rows;
  const cell = (tag, content, place) =>
    make(tag, tag === "th" ? { scope: "col" } : { class: content?.words ? "words" : null }, place >= 0 ? content?.words ?? content : content);
  const made = make(
    "table", { "aria-label": caption },
    make("thead", {}, make("tr", {}, head.map((text) => cell("th", text, -1)))),
    make("tbody", {}, body.map((row, number) => make("tr", attributes(number), row.map((one, place) => cell("td", one, place)))))
  );
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

/** Text that plotly shows as it is: it reads some markup and entities in its texts. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** A number with so many digits, with an exponent where it is small or huge. */
function digits(value, count = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(count - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(count)));
}
const costText = (name, value) => (name === "weight_bytes" ? bytes(value) : digits(value));
function bytes(value) {
  if (value === null || value === undefined) return "–";
  const unit = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([size]) => value >= size);
  return unit ? `${Number((value / unit[0]).toPrecision(3))} ${unit[1]}` : `${Math.round(value)} B`;
}
const percent = (value, places = 1) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(places)}%`);
/** A difference in percentage points, with its sign. */
const signed = (value, places = 1) => {
  if (value === null || value === undefined) return "–";
  const text = (100 * value).toFixed(places);
  return Number(text) === 0 ? (0).toFixed(places) : value > 0 ? `+${text}` : text.replace("-", "−");
};
const ratioText = (ratio) => `${digits(100 * ratio)}%`;
const nameOf = (row) => [POINTS.precision[row], `${ratioText(POINTS.pruning_ratio[row])} pruned`, POINTS.family[row]].filter(Boolean).join(", ");
