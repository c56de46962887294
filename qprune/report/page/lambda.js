// Lambda, the weight of activation beside Taylor: what was lost without it and with it on images held out.

import { axis, CONFIG, look } from "./charts.js";
import { rowsOf } from "./data.js";
import { byId, fill, note, tableOf } from "./dom.js";
import { studiesNow } from "./state.js";
import { distinct, PALETTE, SYMBOLS } from "./tables.js";
import { digits, ratioText, within } from "./text.js";
import { theme } from "./theme.js";

export function drawLambda() {
  const found = studiesNow()?.lambda;
  byId("lambda-study").hidden = !found;
  if (!found) return undefined;
  const curve = rowsOf(found.curve);
  const gain = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${digits(Math.abs(value))}`);
  const over = curve.filter((one) => one.ratio === null); // the mean over ratios
  const rows = over.map((one) => [
    digits(one.weight),
    digits(one.loss.mean, 4),
    gain(one.gain.mean),
    within(one.gain.low, one.gain.high, gain),
    String(one.loss.seeds),
  ]);
  const chosen = rowsOf(found.chosen).map(({ seed, weight }) => `${digits(weight)} (seed ${seed})`);
  fill(
    "lambda",
    tableOf(
      [["lambda", "held-out loss", "minus that of lambda 0", "95%", "seeds"], ...rows],
      "Held-out loss of each lambda",
    ),
    note(
      `Mean loss over ${found.folds} folds and all ratios, on images that neither trained, nor scored, nor fine-tuned`,
      `the network; lambda 0 is plain Taylor. Chosen: ${chosen.join(", ")}. Differences are paired by seed; that of a`,
      `chosen lambda is optimistic, being the least of ${over.length} on these very folds.`,
    ),
  );
  const traces = distinct(curve.map((one) => one.ratio)).map((ratio, place) => {
    const own = curve.filter((one) => one.ratio === ratio);
    const bar = (end, sign) => own.map(({ gain: one }) => (one[end] === null ? 0 : sign * (one[end] - one.mean)));
    return {
      type: "scatter",
      mode: "lines+markers",
      name: ratio === null ? "mean" : `${ratioText(ratio)} pruned`,
      x: own.map((one) => digits(one.weight)),
      y: own.map((one) => one.gain.mean),
      line: { color: ratio === null ? theme.strong : PALETTE[place % PALETTE.length], width: ratio === null ? 3 : 1.5 },
      marker: { symbol: SYMBOLS[place % SYMBOLS.length], size: 8 },
      error_y: {
        type: "data",
        symmetric: false,
        array: bar("high", 1),
        arrayminus: bar("low", -1),
        thickness: 1,
        width: 3,
      },
      hovertemplate: "lambda %{x}: %{y:+.4f}<extra></extra>",
    };
  });
  const layout = {
    ...look(),
    margin: { l: 70, r: 16, t: 40, b: 54 },
    showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    xaxis: { ...axis(), type: "category", title: { text: "lambda (0: Taylor alone)" } },
    yaxis: { ...axis(), title: { text: "held-out loss, minus that of lambda 0" } },
  };
  return Plotly.react("lambda-plot", traces, layout, CONFIG);
}
