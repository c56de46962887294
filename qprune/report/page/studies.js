// What the sweep is for: how much each precision bears, interaction, prune or quantise, which first, the grid.

/** The number of the sweep, model, data set, criterion and method that the studies are about. */
function groupNow() {
  const fitting = groupsNow();
  return fitting.includes(Number(state.group)) && state.group !== "" ? Number(state.group) : fitting[0] ?? null;
}
const groupsNow = () => DATA.groups.map((_, number) => number).filter((number) => DATA.groups[number].studies && DATA.groups[number].data === state.data && (!state.model || DATA.groups[number].model === state.model));
/** The chosen group's comparisons; undefined before a cell is finished. */
const studiesNow = () => DATA.groups[groupNow()]?.studies;

const within = (low, high, text) => (low === null || low === undefined ? "one seed" : `${text(low)} to ${text(high)}`);
const waiting = (text) => make("p", { class: "note" }, text);

function drawStudies() {
  const groups = groupsNow();
  const controls = [];
  if (groups.length > 1)
    controls.push(choice("group", "of", groups.map((number) => [String(number), VARYING.map((name) => DATA.groups[number][name]).join(" · ")]), String(groupNow()), (value) => change({ group: value })));
  const field = make("input", { type: "number", id: "points", min: 0, step: 0.5, value: state.points, oninput: (event) => {
    if (event.target.value === "") return;
    state.points = event.target.value;
    drawBears();
    rememberState();
  } });
  controls.push(make("label", { for: "points" }, "largest ratio within", field, "percentage points of the FP32 unpruned baseline of equal updates"));
  fill("study-controls", controls);
  drawBears();
  drawInteraction();
  drawEqualCost();
  drawOrders();
  drawBudget();
}

/** drops: [precision, ratio, mean, low, high, seeds, test mean, low, high, test images' mean, low, high] */
function drawBears() {
  const group = studiesNow();
  if (!group) return fill("bears", waiting("No cell is finished yet."));
  const allowed = Number(state.points) / 100 + 1e-9;
  const largest = (drops, place) => drops.reduce((best, one) => (one[place] !== null && one[place] <= allowed && (!best || one[1] > best[1]) ? one : best), null);
  const rows = distinct(group.drops.map((one) => one[0])).map((precision) => {
    const drops = group.drops.filter((one) => one[0] === precision);
    const [best, low, high] = [largest(drops, 2), largest(drops, 4), largest(drops, 3)];
    const one = best ?? drops.reduce((least, other) => (other[2] < least[2] ? other : least));
    const ratio = (found) => (found ? ratioText(found[1]) : "none");
    return [
      precision, make("strong", {}, ratio(best)), one[5] > 1 ? `${ratio(low)} to ${ratio(high)}` : "one seed",
      `${signed(-one[2], 2)}${best ? "" : ` at ${ratioText(one[1])}`}`, within(-one[4], one[4] === null ? null : -one[3], (value) => signed(value, 2)),
      signed(one[6] === null ? null : -one[6], 2), one[9] === null ? "–" : within(-one[11], -one[10], (value) => signed(value, 2)), String(one[5]),
    ];
  });
  fill("bears",
    tableOf([["precision", "largest ratio", "95% interval", "validation change there", "95% (seeds)", "test change there", "95% (test images)", "seeds"], ...rows], "Largest pruning ratio that each precision bears"),
    make("p", { class: "note" }, "Changes are in percentage points against the baseline, paired by seed; the choice goes by validation. Interval of the ratio: the largest at which the drop's whole interval is within the limit, to the largest at which its better end is. Where none holds, the smallest loss is shown."));
}

/** A row for each effect on accuracy and loss. accuracy, loss: [precision, ratio, mean, low, high, seeds], of the same places. */
function effectTable(accuracy, loss, question, [above, below], caption) {
  const number = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`);
  const verdict = (one) => (one[3] === null ? "one seed: can't say" : one[4] < 0 ? below : one[3] > 0 ? above : "no difference shown");
  const rows = accuracy.map((one, place) => [one[0], ratioText(one[1]), signed(one[2], 2), within(one[3], one[4], (value) => signed(value, 2)), number(loss[place]?.[2] ?? null), within(loss[place]?.[3], loss[place]?.[4], number), { words: verdict(one) }, String(one[5])]);
  return tableOf([["precision", "pruned", "on accuracy (percentage points)", "95%", "on loss", "95%", question, "seeds"], ...rows], caption);
}

/** interactions: of effectTable */
function drawInteraction() {
  const group = studiesNow();
  const test = state.y === "accuracy";
  const [accuracy, loss] = group ? [group.interactions[test ? "accuracy" : "val_accuracy"], group.interactions[test ? "test_loss" : "val_loss"]] : [[], []];
  if (!accuracy.length) return fill("interaction", waiting("This needs FP32 and another precision, each unpruned and pruned, of the same seed."));
  fill("interaction",
    effectTable(accuracy, loss, "together they lose", ["less than the sum", "more than the sum"], "Interaction of pruning and quantising"),
    make("p", { class: "note" }, `[pruned and quantised] − [pruned] − [quantised] + [neither], on ${test ? "test" : "validation"} results, paired by seed. Below 0 on accuracy, or above 0 on loss: both together lose more than the sum of both alone. Not corrected for the number of rows.`));
}

/** equal_cost: [limit, pruned, quantised, both, difference's mean, low, high, seeds] */
function drawEqualCost() {
  const group = studiesNow();
  if (!group?.equal_cost.length) return fill("equal", waiting("This needs FP32 pruned points and unpruned quantised ones."));
  const name = (row) => (row === null ? { words: "none that cheap" } : { words: `${POINTS.precision[row]} ${ratioText(POINTS.pruning_ratio[row])}: ${percent(POINTS.val_accuracy[row])}` });
  const verdict = (one) => {
    if (one[1] === null || one[2] === null) return { words: "no overlap" };
    if (one[5] === null) return { words: "one seed: can't say" };
    return { words: one[5] > 0 ? "quantise" : one[6] < 0 ? "prune" : "no difference shown" };
  };
  const rows = group.equal_cost.map((one) => [digits(one[0]), name(one[1]), name(one[2]), name(one[3]), one[7] ? signed(one[4], 2) : "–", one[7] ? within(one[5], one[6], (value) => signed(value, 2)) : "–", verdict(one)]);
  fill("equal",
    tableOf([["at most (bit_gflops)", "pruned, FP32", "quantised, unpruned", "both", "quantised − pruned", "95%", "better alone"], ...rows], "Best validation accuracy by pruning, quantising and both at no more than a cost"),
    make("p", { class: "note" }, "The best mean validation accuracy at no more than each cost that one of the two has; nothing is extrapolated. Differences in percentage points, paired by seed."));
}

/** orders: of effectTable; shown only where something was done in both orders. */
function drawOrders() {
  const effects = studiesNow()?.orders;
  const test = state.y === "accuracy";
  const accuracy = effects?.[test ? "accuracy" : "val_accuracy"] ?? [];
  byId("orders-study").hidden = !accuracy.length;
  if (!accuracy.length) return;
  fill("orders",
    effectTable(accuracy, effects[test ? "test_loss" : "val_loss"], "the better", ["quantise first", "prune first"], "Quantising first against pruning first"),
    make("p", { class: "note" }, `[quantised first, then pruned] − [pruned first, then quantised], on ${test ? "test" : "validation"} results, paired by seed. Above 0 on accuracy, or below 0 on loss: quantising first is the better. Not corrected for the number of rows.`));
}

function drawGrid() {
  const number = groupNow();
  fill("grid-controls", choice("measure", "show", [["accuracy", "accuracy"], ["drop", "change against the baseline"], ["spread", "standard deviation over seeds"]], state.measure, (value) => change({ measure: value })));
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
    type: "heatmap", z, x: ratios.map((ratio) => plain(ratioText(ratio))), y: precisions.map(plain), colorscale: "Cividis", reversescale: state.measure === "spread",
    texttemplate: few ? "%{z:.1f}" : "", xgap: 2, ygap: 2, hovertemplate: "%{y}, %{x} pruned: %{z:.2f}<extra></extra>", colorbar: { title: { text: state.measure === "accuracy" ? "%" : "percentage points" }, thickness: 12 },
  };
  const layout = { font: FONT, margin: { l: 60, r: 10, t: 34, b: 50 }, xaxis: { ...AXIS, type: "category", title: { text: "pruned" }, showgrid: false }, yaxis: { ...AXIS, type: "category", showgrid: false } };
  byId("heat").style.height = `${Math.max(220, Math.min(640, 124 + 52 * precisions.length))}px`;
  return Plotly.react("heat", [trace], layout, CONFIG);
}

function drawVolumes() {
  byId("compare").hidden = DATA.sweeps.length < 2;
  if (DATA.sweeps.length < 2) return;
  const rows = DATA.hypervolumes.filter((one) => one.data === state.data).map(({ sweep, interval: [mean, low, high, seeds] }) => {
    const own = comparedPoints().filter((row) => POINTS.sweep[row] === sweep);
    const front = new Set(frontOf(comparedPoints(), POINTS[state.x], POINTS.val_accuracy));
    const ownFront = frontOf(own, POINTS[state.x], POINTS.val_accuracy);
    return [sweep, digits(mean, 4), within(low, high, (value) => digits(value, 4)), String(seeds), `${ownFront.filter((row) => !front.has(row)).length} of ${ownFront.length}`];
  });
  fill("volumes",
    tableOf([["sweep", "hypervolume", "95% (seeds)", "seeds", "its front's points that others dominate"], ...rows], "Hypervolume of each sweep"),
    make("p", { class: "note" }, "Octaves of bit_gflops × percentage points of validation accuracy that a front dominates, up to the dense FP32 cost and down to 10 percentage points under the baseline."));
}
