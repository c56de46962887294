// One cell: its numbers, its layers and how it was trained.

const DETAIL_OF = new Map(DATA.details.rows.map((row, place) => [CELLS.key[row], place]));
const PARTS = ["dense training", "pruning", "rest of the pruning budget", "fine-tuning", "at its precision"];
const PART_COLOURS = ["#000000", "#0072B2", "#56B4E9", "#009E73", "#D55E00"];

function chooseCell(cell, goThere = false) {
  change({ cell });
  if (goThere) goTo("one-cell");
}

/** The chosen cell, or that of the pick. */
function cellNow() {
  if (CELLS.key.includes(state.cell)) return state.cell;
  const row = pickOf(comparedPoints(), limitsNow(), state.prefer, state.x).chosen;
  return row !== null ? POINTS.key[row] : CELLS.key[DATA.details.rows[0]] ?? null;
}

function drawCell() {
  const cell = cellNow();
  const names = DATA.details.rows.map((row) => CELLS.key[row]).filter((_, place) => CELLS.data[DATA.details.rows[place]] === state.data);
  if (cell && !names.includes(cell)) names.unshift(cell);
  fill("cell-controls", choice("cell", "cell", names.map((name) => [name, name]), cell, (value) => change({ cell: value })));
  const row = CELLS.key.indexOf(cell);
  if (row < 0) {
    fill("cell-facts", waiting("No cell is finished yet."));
    for (const id of ["layers", "curves"]) byId(id).hidden = true;
    return undefined;
  }
  fill("cell-facts", cardOf(CELLS, row)[1]);
  const place = DETAIL_OF.get(cell);
  return Promise.all([drawLayers(place === undefined ? null : DATA.details.layers.cells[place], row), drawCurves(place)]);
}

/** One object per layer from [structure, shape, bits]. */
function layersOf([structure, shape, bits]) {
  const { structures, shapes, bits: widths } = DATA.details.layers;
  const layers = structures[structure].map(([name, type], number) => {
    const [channelsIn, channelsOut, macs, elements] = shapes[shape].slice(4 * number, 4 * number + 4);
    const [wBits, aBits] = widths[bits].slice(2 * number, 2 * number + 2);
    return { name, type, channelsIn, channelsOut, macs, elements, wBits, aBits, work: macs * wBits * aBits };
  });
  const total = layers.reduce((sum, layer) => sum + layer.work, 0);
  return layers.map((layer) => ({ ...layer, share: layer.work / total }));
}

/** The layers of the unpruned network of the same model, by name. */
function denseLayers(row) {
  const place = DATA.details.rows.findIndex((other, number) => DATA.details.layers.cells[number] && CELLS.pruning_ratio[other] === 0 &&
    ["sweep", "model", "data"].every((name) => CELLS[name][other] === CELLS[name][row]));
  return place < 0 ? new Map() : new Map(layersOf(DATA.details.layers.cells[place]).map((layer) => [layer.name, layer]));
}

function drawLayers(packed, row) {
  byId("layers").hidden = !packed;
  if (!packed) return fill("layer-table", waiting("The page has the layers of at most 1,000 cells; this cell's are in its record, cells/<cell>.json."));
  const layers = layersOf(packed);
  const dense = denseLayers(row);
  const names = layers.map((layer) => plain(layer.name));
  const labels = layers.map((layer) => `${digits(layer.wBits)}/${digits(layer.aBits)}`);
  const bar = (y, name, colour, axes, extra = {}) => ({ type: "bar", x: names, y, name, marker: { color: colour }, ...axes, ...extra });
  const traces = [
    bar(layers.map((layer) => dense.get(layer.name)?.channelsOut ?? null), "unpruned", "#d6dbe1", {}, { hovertemplate: "%{x}: %{y} unpruned<extra></extra>" }),
    bar(layers.map((layer) => layer.channelsOut), "kept", "#0072B2", {}, { hovertemplate: "%{x}: %{y} kept<extra></extra>" }),
    bar(layers.map((layer) => 100 * layer.share), "share of bit_gflops (%)", "#E69F00", { yaxis: "y2", xaxis: "x" }, { text: layers.length <= 24 ? labels : undefined, textposition: "outside", cliponaxis: false, hovertemplate: "%{x}: %{y:.1f}% of bit_gflops<extra></extra>" }),
  ];
  const layout = {
    font: FONT, barmode: "overlay", bargap: 0.25, margin: { l: 60, r: 10, t: 30, b: 60 }, legend: { orientation: "h", y: 1.14 }, grid: { rows: 2, columns: 1 },
    xaxis: { ...AXIS, type: "category", anchor: "y2", showgrid: false }, yaxis: { ...AXIS, domain: [0.56, 1], title: { text: "channels" }, rangemode: "tozero" },
    yaxis2: { ...AXIS, domain: [0, 0.42], title: { text: "% of cost" }, rangemode: "tozero" },
  };
  fill("layer-table", tableOf(
    [["layer", "type", "channels in", "channels out", "unpruned", "weight bits", "input bits", "MACs", "share of bit_gflops", "weights"],
      ...layers.map((layer) => [layer.name, { words: layer.type }, digits(layer.channelsIn), digits(layer.channelsOut), digits(dense.get(layer.name)?.channelsOut), digits(layer.wBits), digits(layer.aBits), layer.macs.toLocaleString("en"), percent(layer.share), bytes((layer.elements * layer.wBits) / 8)])],
    "Layers of the cell"));
  return Plotly.react("layers", traces, layout, CONFIG);
}

function drawCurves(place) {
  const parts = place === undefined ? [] : DATA.details.curves.cells[place];
  byId("curves").hidden = !parts.length;
  byId("curves-save").hidden = !parts.length;
  byId("curves-note").textContent = parts.length
    ? "Mean training loss of stretches of updates. At its precision the network is trained with rounded values. Each part decays or keeps its own learning rate."
    : place === undefined ? "The page has the training curves of at most 1,000 cells." : "This cell's stages have no training curves: they were computed by an older version, or are not beside the sweep's folder.";
  if (!parts.length) return undefined;
  const traces = parts.map(([part, number], order) => {
    const { at, step, loss } = DATA.details.curves.curves[number];
    return { type: "scatter", mode: loss.length > 1 ? "lines" : "markers", name: PARTS[part], legendgroup: PARTS[part], showlegend: parts.findIndex((one) => one[0] === part) === order, x: loss.map((_, index) => at + index * step), y: loss, line: { color: PART_COLOURS[part], width: 2 }, marker: { color: PART_COLOURS[part] }, hovertemplate: "update %{x}: %{y}<extra>%{fullData.name}</extra>" };
  });
  const layout = { font: FONT, margin: { l: 60, r: 10, t: 30, b: 50 }, legend: { orientation: "h", y: 1.14 }, xaxis: { ...AXIS, title: { text: "update" } }, yaxis: { ...AXIS, type: "log", title: { text: "training loss" }, exponentformat: "power" } };
  return Plotly.react("curves", traces, layout, CONFIG);
}
