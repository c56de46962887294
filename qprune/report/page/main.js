// Puts the page together, and draws anew what a change concerns.

const SECTIONS = [["tradeoff", "Tradeoff"], ["studies", "Each precision"], ["grid", "Grid"], ["one-cell", "One cell"], ["all-cells", "All cells"], ["failed", "Failed"], ["provenance", "Provenance"]];

function goTo(id) {
  const section = byId(id);
  section.setAttribute("tabindex", "-1");
  section.focus({ preventScroll: true });
  section.scrollIntoView();
}

function drawHeader() {
  const { done, failed, pending, skipped } = DATA.counts;
  const name = DATA.sweeps.map((sweep) => sweep.name).join(" and ");
  document.title = `${name} · qprune report`;
  byId("title").textContent = name;
  byId("summary").textContent = `${done} of ${CELLS.count} cells done` + (failed ? `, ${failed} failed` : "") + (pending ? `, ${pending} pending: reload this page for more` : "") + (skipped ? `, ${skipped} skipped (strategy: front)` : "") + `. Written ${DATA.written}.`;
  fill("sections", SECTIONS.filter(([id]) => id !== "failed" || failed).map(([id, text]) => make("a", { href: `#${id}`, onclick: (event) => {
    event.preventDefault(); // the fragment is for the view
    goTo(id);
  } }, text)));
}

function drawViewControls() {
  const costs = DATA.costs.map((cost) => [cost, cost]);
  const controls = [];
  if (CHOICES.data.length > 1) controls.push(choice("data-choice", "data", CHOICES.data.map((name) => [name, name]), state.data, (value) => change({ data: value, cell: "" })));
  if (CHOICES.model.length > 2) controls.push(choice("model-choice", "model", CHOICES.model.map((name) => [name, name || "all"]), state.model, (value) => change({ model: value, cell: "" })));
  controls.push(
    choice("y", "accuracy", [["val_accuracy", "validation (chooses)"], ["accuracy", "test"]], state.y, (value) => change({ y: value })),
    choice("x", "cost", costs, state.x, (value) => change({ x: value })),
    choice("scale", "axis", [["log", "log"], ["linear", "linear"]], state.scale, (value) => change({ scale: value })),
    choice("show", "show", [["means", "means over seeds"], ["seeds", "every seed"]], state.show, (value) => change({ show: value })));
  fill("view-controls", controls);
}

/** Takes over new choices and draws what they concern; keeps the focus where it was. */
async function change(changed) {
  const focused = document.activeElement?.id;
  Object.assign(state, changed);
  rememberState();
  await ("cell" in changed && Object.keys(changed).length === 1 ? drawCell() : draw());
  if (focused && document.activeElement === document.body) byId(focused)?.focus();
}

async function draw() {
  drawViewControls();
  drawLegend();
  drawLimits();
  drawPick();
  drawStudies();
  drawVolumes();
  drawPublished();
  await Promise.all([drawPareto(), drawBudgetPlot(), drawLambda(), drawGrid(), drawCell()]);
}

/** For --figures: the main charts, drawn one after the other, as text in the page. */
async function writeFigures() {
  const charts = [["pareto", paretoFigure], ["budget", () => byId("budget-plot"), "budget-plot"], ["lambda", () => byId("lambda-plot"), "lambda-study"], ["heat", () => byId("heat")], ["layers", () => byId("layers")], ["curves", () => byId("curves")]];
  const figures = {};
  const take = async (name, figure) => {
    for (const format of ["svg", "png"]) figures[`${name}.${format}`] = await Plotly.toImage(figure(), { format, width: 1000, height: 620, scale: format === "png" ? 2 : 1 });
  };
  for (const [name, figure, id = name] of charts) if (POINTS.count && !byId(id).hidden) await take(name, figure);
  if (POINTS.count && PUBLISHED.length) {
    Object.assign(state, PUBLISHED_AXES);
    await draw();
    await take("published", paretoFigure);
  }
  document.body.replaceChildren(make("pre", { id: "figures" }, JSON.stringify(figures)));
}

async function start() {
  const fragment = location.hash;
  state = readFragment(fragment);
  drawHeader();
  drawTableControls();
  drawTable();
  drawFailures();
  drawOrigin();
  saveButtons("pareto-save", pareto, "tradeoff", paretoFigure);
  for (const [id, name] of [["heat", "grid"], ["layers", "layers"], ["curves", "training"]]) saveButtons(`${id}-save`, byId(id), name);
  for (const name of ["budget", "lambda"]) saveButtons(`${name}-save`, byId(`${name}-plot`), name);
  await draw();
  document.documentElement.dataset.ready = "yes";
  if (new URLSearchParams(fragment.slice(1)).has("figures")) await writeFigures();
}

addEventListener("hashchange", () => {
  state = readFragment(location.hash);
  draw();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  goTo("tradeoff");
});
byId("limits").addEventListener("submit", (event) => event.preventDefault());
start();
