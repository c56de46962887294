// What the sweep is for: how much each precision bears, interaction, prune or quantise, which first, the grid.

import { drawBudget } from "./budget.js";
import { axis, CONFIG, look, shown } from "./charts.js";
import { frontOf } from "./choose.js";
import { DATA, rowsOf } from "./data.js";
import { byId, choice, fill, make, note, plain, tableOf } from "./dom.js";
import { change, comparedPoints, groupNow, groupsNow, rememberState, state, studiesNow } from "./state.js";
import { distinct, POINTS, VARYING } from "./tables.js";
import { digits, percent, ratioText, signed, within } from "./text.js";

export function drawStudies() {
  const groups = groupsNow();
  const controls = [];
  if (groups.length > 1)
    controls.push(
      choice(
        "group",
        "of",
        groups.map((number) => [String(number), VARYING.map((name) => DATA.groups[number][name]).join(" · ")]),
        String(groupNow()),
        (value) => change({ group: value }),
      ),
    );
  const field = make("input", {
    type: "number",
    id: "percentage-points",
    min: 0,
    step: 0.5,
    value: state.percentage_points,
    oninput: (event) => {
      if (event.target.value === "") return;
      state.percentage_points = event.target.value;
      drawBears();
      rememberState();
    },
  });
  controls.push(
    make(
      "label",
      { for: "percentage-points" },
      "largest ratio within",
      field,
      "percentage points of the FP32 unpruned baseline of equal updates",
    ),
  );
  fill("study-controls", controls);
  drawBears();
  drawInteraction();
  drawEqualCost();
  drawOrders();
  drawBudget();
}

/** The largest ratio at which a number of drops is within what may be lost; null where there is none. */
function largestRatio(drops, number) {
  const allowed = Number(state.percentage_points) / 100 + 1e-9;
  const held = drops.filter((one) => number(one) !== null && number(one) <= allowed);
  return held.reduce((best, one) => (best && best.ratio >= one.ratio ? best : one), null);
}

function drawBears() {
  const studies = studiesNow();
  if (!studies) return fill("bears", note("No cell is finished yet."));
  const all = rowsOf(studies.drops);
  const changeText = (value) => signed(value === null ? null : -value, 2);
  const rows = distinct(all.map((one) => one.precision)).map((precision) => {
    const drops = all.filter((one) => one.precision === precision);
    const [best, low, high] = ["mean", "high", "low"].map((end) => largestRatio(drops, (one) => one.validation[end]));
    const shownAt = best ?? drops.reduce((least, one) => (one.validation.mean < least.validation.mean ? one : least));
    const { ratio, validation, test, images } = shownAt;
    const text = (found) => (found ? ratioText(found.ratio) : "none");
    return [
      precision,
      make("strong", {}, text(best)),
      validation.seeds > 1 ? `${text(low)} to ${text(high)}` : "one seed",
      `${changeText(validation.mean)}${best ? "" : ` at ${ratioText(ratio)}`}`,
      within(validation.high, validation.low, changeText),
      changeText(test.mean),
      images.mean === null ? "–" : within(images.high, images.low, changeText),
      String(validation.seeds),
    ];
  });
  const head = [
    "precision",
    "largest ratio",
    "95% interval",
    "validation change there",
    "95% (seeds)",
    "test change there",
    "95% (test images)",
    "seeds",
  ];
  fill(
    "bears",
    tableOf([head, ...rows], "Largest pruning ratio that each precision bears"),
    note(
      "Changes are in percentage points against the baseline, paired by seed; the choice goes by validation. Interval",
      "of the ratio: the largest at which the drop's whole interval is within the limit, to the largest at which its",
      "better end is. Where none holds, the smallest loss is shown.",
    ),
  );
}

/** A row for each place's effect on accuracy and on loss; both have the same places. */
function effectTable(accuracy, loss, question, [above, below], caption) {
  const number = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`);
  const changeText = (value) => signed(value, 2);
  const verdict = ({ low, high }) => {
    if (low === null) return "one seed: can't say";
    return high < 0 ? below : low > 0 ? above : "no difference shown";
  };
  const losses = rowsOf(loss);
  const rows = rowsOf(accuracy).map(({ precision, ratio, effect }, place) => {
    const onLoss = losses[place]?.effect ?? { mean: null, low: null, high: null };
    return [
      precision,
      ratioText(ratio),
      changeText(effect.mean),
      within(effect.low, effect.high, changeText),
      number(onLoss.mean),
      within(onLoss.low, onLoss.high, number),
      { words: verdict(effect) },
      String(effect.seeds),
    ];
  });
  const head = ["precision", "pruned", "on accuracy (percentage points)", "95%", "on loss", "95%", question, "seeds"];
  return tableOf([head, ...rows], caption);
}

/** The effects on the accuracy and the loss of the images that are shown: validation or test. */
function effectsShown(effects) {
  const test = state.y === "accuracy";
  const [accuracy, loss] = test ? [effects.accuracy, effects.test_loss] : [effects.val_accuracy, effects.val_loss];
  return { accuracy, loss, images: test ? "test" : "validation" };
}

function drawInteraction() {
  const studies = studiesNow();
  const { accuracy, loss, images } = studies ? effectsShown(studies.interactions) : {};
  if (!accuracy?.ratio.length)
    return fill(
      "interaction",
      note("This needs FP32 and another precision, each unpruned and pruned, of the same seed."),
    );
  const verdicts = ["less than the sum", "more than the sum"];
  fill(
    "interaction",
    effectTable(accuracy, loss, "together they lose", verdicts, "Interaction of pruning and quantising"),
    note(
      `[pruned and quantised] − [pruned] − [quantised] + [neither], on ${images} results, paired by seed. Below 0 on`,
      "accuracy, or above 0 on loss: both together lose more than the sum of both alone. Not corrected for the number",
      "of rows.",
    ),
  );
}

function drawEqualCost() {
  const rows = rowsOf(studiesNow()?.equal_cost ?? {});
  if (!rows.length) return fill("equal", note("This needs FP32 pruned points and unpruned quantised ones."));
  const name = (row) => {
    if (row === null) return { words: "none that cheap" };
    const made = `${POINTS.precision[row]} ${ratioText(POINTS.pruning_ratio[row])}`;
    return { words: `${made}: ${percent(POINTS.val_accuracy[row])}` };
  };
  const verdict = ({ pruned, quantised, difference }) => {
    if (pruned === null || quantised === null) return { words: "no overlap" };
    if (difference.low === null) return { words: "one seed: can't say" };
    return { words: difference.low > 0 ? "quantise" : difference.high < 0 ? "prune" : "no difference shown" };
  };
  const changeText = (value) => signed(value, 2);
  const texts = ({ mean, low, high, seeds }) =>
    seeds ? [changeText(mean), within(low, high, changeText)] : ["–", "–"];
  const head = [
    "at most (bit_gflops)",
    "pruned, FP32",
    "quantised, unpruned",
    "both",
    "quantised − pruned",
    "95%",
    "better alone",
  ];
  const body = rows.map((one) => [
    digits(one.limit),
    name(one.pruned),
    name(one.quantised),
    name(one.both),
    ...texts(one.difference),
    verdict(one),
  ]);
  fill(
    "equal",
    tableOf([head, ...body], "Best validation accuracy by pruning, quantising and both at no more than a cost"),
    note(
      "The best mean validation accuracy at no more than each cost that one of the two has; nothing is extrapolated.",
      "Differences in percentage points, paired by seed.",
    ),
  );
}

/** Shown only where something was done in both orders. */
function drawOrders() {
  const studies = studiesNow();
  const { accuracy, loss, images } = studies ? effectsShown(studies.orders) : {};
  byId("orders-study").hidden = !accuracy?.ratio.length;
  if (!accuracy?.ratio.length) return;
  const verdicts = ["quantise first", "prune first"];
  fill(
    "orders",
    effectTable(accuracy, loss, "the better", verdicts, "Quantising first against pruning first"),
    note(
      `[quantised first, then pruned] − [pruned first, then quantised], on ${images} results, paired by seed. Above 0`,
      "on accuracy, or below 0 on loss: quantising first is the better. Not corrected for the number of rows.",
    ),
  );
}

export function drawGrid() {
  const number = groupNow();
  fill(
    "grid-controls",
    choice(
      "measure",
      "show",
      [
        ["accuracy", "accuracy"],
        ["drop", "change against the baseline"],
        ["spread", "standard deviation over seeds"],
      ],
      state.measure,
      (value) => change({ measure: value }),
    ),
  );
  const rows = [...Array(POINTS.count).keys()].filter((row) => POINTS.group[row] === number);
  const precisions = distinct(rows.map((row) => POINTS.precision[row])).reverse();
  const ratios = distinct(rows.map((row) => POINTS.pruning_ratio[row])).sort((a, b) => a - b);
  const at = new Map(rows.map((row) => [`${POINTS.precision[row]} ${POINTS.pruning_ratio[row]}`, row]));
  const base = state.y === "accuracy" ? "baseline_accuracy" : "baseline_val_accuracy";
  const value = (row) => {
    if (row === undefined) return null;
    if (state.measure === "spread") return shown(POINTS[`${state.y}_sd`][row]);
    if (state.measure === "accuracy") return shown(POINTS[state.y][row]);
    return POINTS[base][row] === null ? null : 100 * (POINTS[state.y][row] - POINTS[base][row]);
  };
  const z = precisions.map((precision) => ratios.map((ratio) => value(at.get(`${precision} ${ratio}`))));
  const few = precisions.length * ratios.length <= 200;
  const trace = {
    type: "heatmap",
    z,
    x: ratios.map((ratio) => plain(ratioText(ratio))),
    y: precisions.map(plain),
    colorscale: "Cividis",
    reversescale: state.measure === "spread",
    texttemplate: few ? "%{z:.1f}" : "",
    xgap: 2,
    ygap: 2,
    hovertemplate: "%{y}, %{x} pruned: %{z:.2f}<extra></extra>",
    colorbar: { title: { text: state.measure === "accuracy" ? "%" : "percentage points" }, thickness: 12 },
  };
  const layout = {
    ...look(),
    margin: { l: 60, r: 10, t: 34, b: 50 },
    xaxis: { ...axis(), type: "category", title: { text: "pruned" }, showgrid: false },
    yaxis: { ...axis(), type: "category", showgrid: false },
  };
  byId("heat").style.height = `${Math.max(220, Math.min(640, 124 + 52 * precisions.length))}px`;
  return Plotly.react("heat", [trace], layout, CONFIG);
}

export function drawVolumes() {
  byId("compare").hidden = DATA.sweeps.length < 2;
  if (DATA.sweeps.length < 2) return;
  const points = comparedPoints();
  const front = new Set(frontOf(points, POINTS[state.x], POINTS.val_accuracy));
  const text = (value) => digits(value, 4);
  const rows = DATA.hypervolumes
    .filter((one) => one.data === state.data)
    .map(({ sweep, volume: { mean, low, high, seeds } }) => {
      const own = points.filter((row) => POINTS.sweep[row] === sweep);
      const ownFront = frontOf(own, POINTS[state.x], POINTS.val_accuracy);
      const dominated = ownFront.filter((row) => !front.has(row)).length;
      return [sweep, text(mean), within(low, high, text), String(seeds), `${dominated} of ${ownFront.length}`];
    });
  const head = ["sweep", "hypervolume", "95% (seeds)", "seeds", "its front's points that others dominate"];
  fill(
    "volumes",
    tableOf([head, ...rows], "Hypervolume of each sweep"),
    note(
      "Octaves of bit_gflops × percentage points of validation accuracy that a front dominates, up to the dense FP32",
      "cost and down to 10 percentage points under the baseline.",
    ),
  );
}
