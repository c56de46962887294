// The unpruned network given as many updates as a pruned one has had: what it has, and what a pruned one then loses.

// column of the table -> what the line is called, its colour and dash, and where its label stands (a share of the width)
const LINES = {
  dense: { name: "unpruned, N", colour: "#D55E00", dash: "dot", at: 0.01 },
  baseline: { name: "unpruned, N + M", colour: "#0072B2", dash: "solid", at: 0.22 },
  scratch: { name: "from scratch, N + M", colour: "#009E73", dash: "dash", at: 0.48 },
};

/** {updates: [N, N + M], val_accuracy and accuracy: {lines, rows}} of the chosen group; null before a cell is finished. */
const budgetNow = () => studiesNow()?.budget ?? null;

/** [kind of LINES, mean, standard deviation, seeds] of those that there are, of the accuracy that is shown. */
function referenceLines() {
  const lines = budgetNow()?.[state.y].lines ?? {};
  return Object.entries(lines).map(([name, values]) => [name, ...values]);
}

/** rows: [precision, ratio, against N, against N + M, against N + M from scratch, extra training], each mean, low, high, seeds. */
function drawBudget() {
  const budget = budgetNow();
  if (!budget) return fill("budget", waiting("No cell is finished yet."));
  const { rows } = budget[state.y];
  const gain = (value) => signed(value, 2);
  const loss = (value) => (value === null ? gain(null) : gain(-value));
  const change = ([mean, low, high, seeds]) => (seeds ? [loss(mean), low === null ? "one seed" : within(-high, -low, gain)] : ["–", "–"]);
  const extra = ([mean, low, high, seeds]) => (seeds ? [gain(mean), within(low, high, gain)] : ["–", "–"]);
  const scratch = rows.some((row) => row[4][3]);
  const [dense, total] = budget.updates;
  const accuracy = state.y === "accuracy" ? "test" : "validation";
  const missing = rows.some((row) => row[2][3]) ? "" : ` The sweep's table has no ${accuracy} accuracy after N.`;
  fill("budget",
    tableOf([["precision", "pruned", "against N", "95%", "against N + M", "95%", ...(scratch ? ["against scratch", "95%"] : []), "extra training", "95%", "seeds"],
      ...rows.map(([precision, ratio, apparent, fair, fresh, more]) =>
        [precision, ratioText(ratio), ...change(apparent), make("strong", {}, change(fair)[0]), change(fair)[1], ...(scratch ? change(fresh) : []), ...extra(more), String(Math.max(apparent[3], fair[3], fresh[3]))])],
    "Change against the unpruned FP32 network after fewer and after as many updates"),
    make("p", { class: "note" }, `Changes of ${accuracy} accuracy in percentage points, paired by seed, against the unpruned FP32 network after N = ${digits(dense)} updates, and after N + M = ${digits(total)}, as many as every pruned network has had` +
      (scratch ? ", by warm restarts as theirs, or from scratch under one schedule" : ", by warm restarts as theirs") + `. Extra training is what M more updates alone give the unpruned network: what a comparison with it after N would credit to pruning.${missing}`));
}

/** FP32 accuracy against cost, a curve for each criterion, as in Molchanov et al. (2017), with the unpruned networks as lines. */
function drawBudgetPlot() {
  const number = groupNow();
  const chart = byId("budget-plot");
  const lines = referenceLines();
  const same = (row) => ["sweep", "model", "data"].every((name) => POINTS[name][row] === DATA.groups[number][name]);
  const rows = number === null ? [] : [...Array(POINTS.count).keys()].filter((row) => POINTS.precision[row] === "fp32" && POINTS.method[row] !== "scratch" && same(row) && POINTS[state.x][row] !== null);
  chart.hidden = byId("budget-save").hidden = byId("budget-note").hidden = !rows.length || !lines.length;
  if (chart.hidden) return undefined;
  const costs = rows.map((row) => POINTS[state.x][row]);
  const span = [Math.min(...costs) / 1.15, Math.max(...costs) * 1.15];
  const [dense, total] = budgetNow().updates;
  const traces = lines.flatMap(([kind, mean, sd, seeds]) => {
    const { name, colour, dash } = LINES[kind];
    const updates = (kind === "dense" ? dense : total).toLocaleString("en");
    const band = sd === null ? [] : [{
      type: "scatter", mode: "lines", x: [...span, span[1], span[0]], y: [mean - sd, mean - sd, mean + sd, mean + sd].map(shown), fill: "toself", fillcolor: colour,
      opacity: 0.13, line: { width: 0 }, hoverinfo: "skip", showlegend: false, meta: { kind: "band", of: kind },
    }];
    return [...band, {
      type: "scatter", mode: "lines", x: span, y: [mean, mean].map(shown), name: `${name} = ${updates} updates`, line: { color: colour, dash, width: 2 },
      hovertemplate: `%{y:.2f}% (${seeds} seed${seeds > 1 ? "s" : ""})<extra>${name}</extra>`, meta: { kind: "line", of: kind },
    }];
  });
  for (const family of distinct(rows.map((row) => POINTS.family[row]))) {
    const own = rows.filter((row) => POINTS.family[row] === family).sort((a, b) => POINTS[state.x][a] - POINTS[state.x][b]);
    const bar = (name, scale) => ({ type: "data", array: own.map((row) => scale * (POINTS[`${name}_sd`]?.[row] ?? 0)), color: COLOURS.fp32, thickness: 1, width: 3, visible: own.some((row) => POINTS[`${name}_sd`]?.[row]) });
    traces.push({
      type: "scatter", mode: "lines+markers", x: own.map((row) => POINTS[state.x][row]), y: own.map((row) => shown(POINTS[state.y][row])),
      name: plain(["fp32, pruned", family].filter(Boolean).join(" · ")), line: { color: COLOURS.fp32, width: 1 }, error_x: bar(state.x, 1), error_y: bar(state.y, 100),
      marker: { color: COLOURS.fp32, symbol: symbolOf(family), size: 8 }, text: own.map((row) => plain(nameOf(row))), hovertemplate: "%{text}: %{y:.2f}%<extra></extra>", meta: { kind: "points", rows: own },
    });
  }
  const label = ([kind, mean], place) => ({
    x: LINES[kind].at, xref: "paper", xanchor: "left", y: shown(mean), yanchor: place ? "bottom" : "top", text: LINES[kind].name, showarrow: false, font: { ...FONT, size: 12, color: LINES[kind].colour },
  });
  const byHeight = [...lines].sort((a, b) => a[1] - b[1]); // the lowest line's label hangs below it
  const layout = { ...paretoLayout(rows), showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 60, r: 16, t: 60, b: 54 }, annotations: lines.length > 1 ? byHeight.map(label) : byHeight.map((line) => label(line, 1)) };
  byId("budget-note").textContent = `FP32 networks${VARYING.length ? " of the same sweep and model" : ""}: points are means over seeds, bars and bands one standard deviation. M is what every pruned network has had on top of N: pruning, fine-tuning and the updates at its precision.`;
  return Plotly.react(chart, traces, layout, CONFIG);
}
