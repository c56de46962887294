// Lambda, the weight of activation beside Taylor: what was lost without it and with it on images held out.

/** Draws the chosen group's curve. lambda: {chosen: [[seed, lambda]], folds, curve: [[lambda, ratio or null, loss, gain]]}. */
function drawLambda() {
  const found = studiesNow()?.lambda;
  byId("lambda-study").hidden = !found;
  if (!found) return undefined;
  const number = ([mean]) => digits(mean, 4);
  const gain = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${digits(Math.abs(value))}`);
  const over = found.curve.filter(([, ratio]) => ratio === null);
  fill("lambda",
    tableOf([["lambda", "held-out loss", "minus that of lambda 0", "95%", "seeds"],
      ...over.map(([weight, , loss, more]) => [digits(weight), number(loss), gain(more[0]), within(more[1], more[2], gain), String(loss[3])])], "Held-out loss of each lambda"),
    make("p", { class: "note" }, `Mean loss over ${found.folds} folds and all ratios, on images that neither trained, nor scored, nor fine-tuned the network; lambda 0 is plain Taylor. Chosen: ${found.chosen.map(([seed, weight]) => `${digits(weight)} (seed ${seed})`).join(", ")}. Differences are paired by seed; that of a chosen lambda is optimistic, being the least of ${over.length} on these very folds.`));
  const traces = distinct(found.curve.map(([, ratio]) => ratio)).map((ratio, place) => {
    const own = found.curve.filter((one) => one[1] === ratio);
    const bar = (side) => own.map(([, , , more]) => (more[1] === null ? 0 : side * (more[side > 0 ? 2 : 1] - more[0])));
    return {
      type: "scatter", mode: "lines+markers", name: ratio === null ? "mean" : `${ratioText(ratio)} pruned`, x: own.map(([weight]) => digits(weight)), y: own.map(([, , , more]) => more[0]),
      line: { color: ratio === null ? "#000000" : PALETTE[place % PALETTE.length], width: ratio === null ? 3 : 1.5 }, marker: { symbol: SYMBOLS[place % SYMBOLS.length], size: 8 },
      error_y: { type: "data", symmetric: false, array: bar(1), arrayminus: bar(-1), thickness: 1, width: 3 }, hovertemplate: "lambda %{x}: %{y:+.4f}<extra></extra>",
    };
  });
  const layout = { font: FONT, margin: { l: 70, r: 16, t: 40, b: 54 }, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, xaxis: { ...AXIS, type: "category", title: { text: "lambda (0: Taylor alone)" } }, yaxis: { ...AXIS, title: { text: "held-out loss, minus that of lambda 0" } } };
  return Plotly.react("lambda-plot", traces, layout, CONFIG);
}
