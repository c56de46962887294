// All cells as a table that sorts and filters, and what failed; and where it all comes from.

import { DATA } from "./data.js";
import { byId, costHelp, download, factsOf, fill, make, tableOf } from "./dom.js";
import { chooseCell, comparedPoints, compareWith, filtered } from "./state.js";
import { CELLS, distinct, RECALLS } from "./tables.js";
import { costText, digits, percent, ratioText } from "./text.js";

const TABLE_COLUMNS = [
  "cell",
  "precision",
  "pruning_ratio",
  "seed",
  "status",
  "val_accuracy",
  "accuracy",
  ...RECALLS,
  ...DATA.costs,
  "macs",
  "params",
  "training_flops",
  "training_flops_cap",
  "protocol",
  "ratio_of",
  "seconds",
].filter((name) => CELLS[name].some((value) => value !== null));
const CSV_COLUMNS = Object.keys(CELLS).filter(
  (name) =>
    !["count", "point", "family", "key", "baseline"].includes(name) && CELLS[name].some((value) => value !== null),
);
const ROWS_PER_PAGE = 50;
const view = { sort: "", descending: false, filter: "", page: 0 };

function filteredRows() {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row) =>
    ["cell", "sweep", "precision", "status"]
      .map((name) => CELLS[name][row])
      .join(" ")
      .toLowerCase();
  const left = new Set(comparedPoints());
  const rows = [...CELLS.point.keys()].filter(
    (row) => words.every((word) => text(row).includes(word)) && (!filtered() || left.has(CELLS.point[row])),
  );
  if (!view.sort) return rows;
  const values = CELLS[view.sort];
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  return rows.sort((a, b) => {
    // what is missing comes last
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
    return (view.descending ? -1 : 1) * order(values[a], values[b]) || a - b;
  });
}

/** A cell's name, that shows it, and a button that sets it beside the chosen one. */
function cellButtons(row) {
  const key = CELLS.key[row];
  const button = (text, attributes, onclick) => make("button", { type: "button", ...attributes, onclick }, text);
  return make(
    "span",
    { class: "cell-buttons" },
    button(CELLS.cell[row], { title: "Look at this cell" }, () => chooseCell(key, true)),
    CELLS.status[row] === "done"
      ? button("vs", { title: "Set beside the chosen cell", "aria-label": `Compare with ${key}` }, () =>
          compareWith(key),
        )
      : null,
  );
}

function cellText(name, row) {
  const value = CELLS[name][row];
  if (value === null) return "–";
  if (name === "cell") return cellButtons(row);
  if (name.endsWith("accuracy") || name.endsWith("recall")) return percent(value, 2);
  if (name === "pruning_ratio") return ratioText(value);
  return typeof value === "string"
    ? { words: value }
    : DATA.costs.includes(name)
      ? costText(name, value)
      : digits(value);
}

/** A column's name, by which the table is sorted, and what it counts. */
function headOf(name) {
  const sort = () => {
    Object.assign(view, { descending: view.sort === name && !view.descending, sort: name, page: 0 });
    drawTable();
    byId("table").querySelector(`[data-sort="${name}"]`).focus();
  };
  const mark = view.sort === name ? (view.descending ? " ▼" : " ▲") : "";
  return make(
    "span",
    {},
    make("button", { type: "button", "data-sort": name, onclick: sort }, name + mark),
    costHelp(name),
  );
}

export function drawTable() {
  const rows = filteredRows();
  const pages = Math.max(1, Math.ceil(rows.length / ROWS_PER_PAGE));
  view.page = Math.min(view.page, pages - 1);
  const head = TABLE_COLUMNS.map(headOf);
  const shownRows = rows.slice(view.page * ROWS_PER_PAGE, (view.page + 1) * ROWS_PER_PAGE);
  const made = tableOf(
    [head, ...shownRows.map((row) => TABLE_COLUMNS.map((name) => cellText(name, row)))],
    "All cells",
    (number) => (CELLS.status[shownRows[number]] === "done" ? {} : { class: "out" }),
  );
  made.querySelectorAll("th").forEach((th, place) => {
    if (TABLE_COLUMNS[place] === view.sort) th.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
  });
  fill("table", made);
  const turn = (by, text) =>
    make(
      "button",
      {
        type: "button",
        disabled: view.page + by < 0 || view.page + by >= pages,
        onclick: () => {
          view.page += by;
          drawTable();
        },
      },
      text,
    );
  fill(
    "pages",
    pages > 1 ? [turn(-1, "Previous"), turn(1, "Next")] : [],
    make(
      "span",
      { class: "soft", role: "status" },
      `${rows.length} of ${CELLS.count} cells` +
        (filtered() ? ", those of the points that the filter leaves" : "") +
        (pages > 1 ? `, page ${view.page + 1} of ${pages}` : ""),
    ),
  );
}

export function drawTableControls() {
  const filter = make("input", {
    type: "search",
    id: "filter",
    placeholder: "int4 s0",
    oninput: (event) => {
      Object.assign(view, { filter: event.target.value, page: 0 });
      drawTable();
    },
  });
  fill(
    "table-controls",
    make("label", { for: "filter" }, "cells with all of these words", filter),
    make(
      "button",
      {
        type: "button",
        id: "csv",
        onclick: () => {
          const url = URL.createObjectURL(new Blob([csvOf(filteredRows())], { type: "text/csv" }));
          download(url, "cells.csv");
          setTimeout(() => URL.revokeObjectURL(url), 1000);
        },
      },
      "Download these rows as CSV",
    ),
  );
}

/** Rows as CSV (RFC 4180). */
function csvOf(rows) {
  const field = (value) =>
    value === null ? "" : /[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  return `${[CSV_COLUMNS, ...rows.map((row) => CSV_COLUMNS.map((name) => CELLS[name][row]))]
    .map((row) => row.map(field).join(","))
    .join("\r\n")}\r\n`;
}

export function drawFailures() {
  const rows = [...CELLS.point.keys()].filter((row) => CELLS.status[row] === "failed");
  byId("failed").hidden = !rows.length;
  if (rows.length)
    fill(
      "failures",
      make(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Failed cells" },
        make(
          "table",
          {},
          make(
            "thead",
            {},
            make(
              "tr",
              {},
              make("th", { scope: "col" }, "cell"),
              make("th", { scope: "col", class: "words" }, "reason"),
            ),
          ),
          make(
            "tbody",
            {},
            rows.map((row) =>
              make("tr", {}, make("td", {}, CELLS.cell[row]), make("td", { class: "wrap" }, CELLS.reason[row] ?? "–")),
            ),
          ),
        ),
      ),
    );
}

const PROVENANCE = [
  ["protocol", "protocol"],
  ["ratio_of", "ratios are shares of"],
];
/** The known values of a column in a sweep. */
const valuesOf = (sweep, name) => CELLS[name].filter((value, row) => value !== null && CELLS.sweep[row] === sweep);

export function drawOrigin() {
  fill(
    "origin",
    DATA.sweeps.map((sweep) =>
      make(
        "div",
        {},
        DATA.sweeps.length > 1 ? make("h3", {}, sweep.name) : null,
        factsOf([
          ["folder", sweep.folder],
          ["sweep file", sweep.file.path ?? "–"],
          ...(sweep.file.set?.length ? [["--set", sweep.file.set.join(" ")]] : []),
          ["seeds", sweep.seeds.join(", ")],
          ["updates of each cell", digits(sweep.updates)],
          ...PROVENANCE.map(([name, text]) => [text, distinct(valuesOf(sweep.name, name)).join(", ")]).filter(
            ([, value]) => value,
          ),
          ["training, cell by cell", `${digits(sweep.seconds / 60)} minutes (shared stages count in each cell)`],
          ...sweep.machines.flatMap((one) => [
            ["made on", `${one.host}, ${one.device}, ${one.threads} thread(s), ${one.cells} cell(s)`],
            ["versions", one.versions],
          ]),
          ["page", `qprune ${DATA.version}, ${DATA.written}`],
        ]),
        sweep.file.text
          ? make("details", {}, make("summary", {}, "The sweep file"), make("pre", { tabindex: "0" }, sweep.file.text))
          : null,
        make(
          "details",
          {},
          make("summary", {}, "All settings"),
          make("pre", { tabindex: "0" }, JSON.stringify(sweep.settings, null, 1)),
        ),
      ),
    ),
  );
}
