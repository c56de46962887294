// One cell: its numbers, its layers and how it was trained.

import { commandOf } from "./again.js";
import { cardOf } from "./card.js";
import { axis, CONFIG, look } from "./charts.js";
import { pickOf } from "./choose.js";
import { DATA, rowsOf } from "./data.js";
import { byId, choice, commandLine, fill, note, plain, tableOf } from "./dom.js";
import { change, comparedPoints, limitsNow, state } from "./state.js";
import { CELLS, POINTS } from "./tables.js";
import { bytes, digits, percent } from "./text.js";
import { theme } from "./theme.js";

const DETAIL_OF = new Map(DATA.details.rows.map((row, place) => [CELLS.key[row], place]));
const phases = () => ({
  dense: { name: "dense training", colour: theme.strong },
  prune: { name: "pruning and the rest of its budget", colour: "#0072B2" },
  finetune: { name: "fine-tuning", colour: "#009E73" },
  quantize: { name: "at its precision", colour: "#D55E00" },
});

/** The chosen cell, or that of the pick. */
function cellNow() {
  if (CELLS.key.includes(state.cell)) return state.cell;
  const row = pickOf(comparedPoints(), limitsNow(), state.prefer, state.x).chosen;
  return row !== null ? POINTS.key[row] : (CELLS.key[DATA.details.rows[0]] ?? null);
}

export function drawCell() {
  const cell = cellNow();
  const names = DATA.details.rows
    .map((row) => CELLS.key[row])
    .filter((_, place) => CELLS.data[DATA.details.rows[place]] === state.data);
  if (cell && !names.includes(cell)) names.unshift(cell);
  fill(
    "cell-controls",
    choice(
      "cell",
      "cell",
      names.map((name) => [name, name]),
      cell,
      (value) => change({ cell: value }),
    ),
  );
  const row = CELLS.key.indexOf(cell);
  if (row < 0) {
    fill("cell-facts", note("No cell is finished yet."));
    for (const id of ["layers", "curves"]) byId(id).hidden = true;
    return undefined;
  }
  const again = commandOf(CELLS, row);
  fill(
    "cell-facts",
    cardOf(CELLS, row)[1],
    again && [note("This cell again, in a folder of its own:"), commandLine(again, "sweep of this cell", "again")],
  );
  const place = DETAIL_OF.get(cell);
  return Promise.all([drawLayers(layersOf(place), row), drawCurves(place)]);
}

/** One object per layer of the cell at a place of the details; null where the page has none. */
function layersOf(place) {
  const { structures, shapes, bits, cells } = DATA.details.layers;
  if (place === undefined || cells.structures[place] === null) return null;
  const tables = { ...structures[cells.structures[place]], ...shapes[cells.shapes[place]], ...bits[cells.bits[place]] };
  const layers = rowsOf(tables).map((layer) => ({ ...layer, work: layer.macs * layer.w_bits * layer.a_bits }));
  const total = layers.reduce((sum, layer) => sum + layer.work, 0);
  return layers.map((layer) => ({ ...layer, share: layer.work / total }));
}

/** The layers of the unpruned network of the same model, by name. */
function denseLayers(row) {
  const same = (other) => ["sweep", "model", "data"].every((name) => CELLS[name][other] === CELLS[name][row]);
  const place = DATA.details.rows.findIndex(
    (other, number) =>
      CELLS.pruning_ratio[other] === 0 && same(other) && DATA.details.layers.cells.structures[number] !== null,
  );
  return place < 0 ? new Map() : new Map(layersOf(place).map((layer) => [layer.name, layer]));
}

function drawLayers(layers, row) {
  byId("layers").hidden = !layers;
  if (!layers)
    return fill(
      "layer-table",
      note("The page has the layers of at most 1,000 cells; this cell's are in its record, cells/<cell>.json."),
    );
  const dense = denseLayers(row);
  const names = layers.map((layer) => plain(layer.name));
  const labels = layers.map((layer) => `${digits(layer.w_bits)}/${digits(layer.a_bits)}`);
  const bar = (y, name, colour, axes, extra = {}) => ({
    type: "bar",
    x: names,
    y,
    name,
    marker: { color: colour },
    ...axes,
    ...extra,
  });
  const traces = [
    bar(
      layers.map((layer) => dense.get(layer.name)?.channels_out ?? null),
      "unpruned",
      theme.pale,
      {},
      { hovertemplate: "%{x}: %{y} unpruned<extra></extra>" },
    ),
    bar(
      layers.map((layer) => layer.channels_out),
      "kept",
      "#0072B2",
      {},
      { hovertemplate: "%{x}: %{y} kept<extra></extra>" },
    ),
    bar(
      layers.map((layer) => 100 * layer.share),
      "share of bit_gflops (%)",
      "#E69F00",
      { yaxis: "y2", xaxis: "x" },
      {
        text: layers.length <= 24 ? labels : undefined,
        textposition: "outside",
        cliponaxis: false,
        hovertemplate: "%{x}: %{y:.1f}% of bit_gflops<extra></extra>",
      },
    ),
  ];
  const layout = {
    ...look(),
    barmode: "overlay",
    bargap: 0.25,
    margin: { l: 60, r: 10, t: 30, b: 60 },
    legend: { orientation: "h", y: 1.14 },
    grid: { rows: 2, columns: 1 },
    xaxis: { ...axis(), type: "category", anchor: "y2", showgrid: false },
    yaxis: { ...axis(), domain: [0.56, 1], title: { text: "channels" }, rangemode: "tozero" },
    yaxis2: { ...axis(), domain: [0, 0.42], title: { text: "% of cost" }, rangemode: "tozero" },
  };
  fill(
    "layer-table",
    tableOf(
      [
        [
          "layer",
          "type",
          "channels in",
          "channels out",
          "unpruned",
          "weight bits",
          "input bits",
          "MACs",
          "share of bit_gflops",
          "weights",
        ],
        ...layers.map((layer) => [
          layer.name,
          { words: layer.type },
          digits(layer.channels_in),
          digits(layer.channels_out),
          digits(dense.get(layer.name)?.channels_out),
          digits(layer.w_bits),
          digits(layer.a_bits),
          layer.macs.toLocaleString("en"),
          percent(layer.share),
          bytes((layer.weight_elements * layer.w_bits) / 8),
        ]),
      ],
      "Layers of the cell",
    ),
  );
  return Plotly.react("layers", traces, layout, CONFIG);
}

function curvesNote(place, count) {
  if (place === undefined) return "The page has the training curves of at most 1,000 cells.";
  const said = count
    ? [
        "Mean training loss of stretches of updates. At its precision the network is trained with rounded values.",
        "Each part decays or keeps its own learning rate.",
      ]
    : [
        "This cell's stages have no training curves: they were computed by an older version, or are not beside the",
        "sweep's folder.",
      ];
  return said.join(" ");
}

function drawCurves(place) {
  const curves = place === undefined ? [] : rowsOf(DATA.details.curves.cells[place]);
  byId("curves").hidden = !curves.length;
  byId("curves-save").hidden = !curves.length;
  byId("curves-note").textContent = curvesNote(place, curves.length);
  if (!curves.length) return undefined;
  const traces = curves.map(({ phase, curve }, order) => {
    const { at, step, loss } = DATA.details.curves.curves[curve];
    const { name, colour } = phases()[phase] ?? { name: phase, colour: "#CC79A7" };
    return {
      type: "scatter",
      mode: loss.length > 1 ? "lines" : "markers",
      name,
      legendgroup: name,
      showlegend: curves.findIndex((one) => one.phase === phase) === order,
      x: loss.map((_, index) => at + index * step),
      y: loss,
      line: { color: colour, width: 2 },
      marker: { color: colour },
      hovertemplate: "update %{x}: %{y}<extra>%{fullData.name}</extra>",
    };
  });
  const layout = {
    ...look(),
    margin: { l: 60, r: 10, t: 30, b: 50 },
    legend: { orientation: "h", y: 1.14 },
    xaxis: { ...axis(), title: { text: "update" } },
    yaxis: { ...axis(), type: "log", title: { text: "training loss" }, exponentformat: "power" },
  };
  return Plotly.react("curves", traces, layout, CONFIG);
}
