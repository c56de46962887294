// The layers of one cell: a chart and a table.

import { axis, CONFIG, look } from "./charts.js";
import { denseLayers } from "./details.js";
import { byId, fill, note, plain, tableOf } from "./dom.js";
import { bytes, digits, percent } from "./text.js";
import { theme } from "./theme.js";

export function drawLayers(layers, row) {
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
