// What a cell takes test images of each class for.

import { fill, make, note, tableOf } from "./dom.js";
import { confusionOf, PREDICTED, predictionsOf } from "./predicted.js";
import { digits, percent } from "./text.js";

const WHOLE = 20; // classes of which the whole table is shown at once
const PAIRS = 15; // most confused ones, where there are more classes

const sum = (values) => values.reduce((total, value) => total + value, 0);

let latest = null; // the cell that was last to be drawn

export async function drawConfusion(cell) {
  latest = cell;
  const found = await predictionsOf(cell);
  if (cell !== latest) return;
  if (!found) return fill("confusion", note(missingText()));
  const counts = confusionOf(found);
  const right = sum(counts.map((row, label) => row[label]));
  const all = sum(counts.flat());
  const said = note(
    `${digits(all)} test images, ${digits(right)} right (${percent(right / all, 2)}). A row is a true class, a column`,
    "what the network took its images for; recall is the share of a class that it has right.",
  );
  if (counts.length <= WHOLE) return fill("confusion", said, wholeTable(counts, found.names));
  const whole = make("details", {}, make("summary", {}, `All ${counts.length} classes`));
  // made when it is wanted: it has thousands of cells
  whole.addEventListener("toggle", () => whole.append(wholeTable(counts, found.names)), { once: true });
  fill("confusion", said, pairsTable(counts, found.names), whole);
}

/** Why there is nothing to show. */
export const missingText = () =>
  PREDICTED.length
    ? `The page has the predicted classes of ${PREDICTED.length} cells, of those that are handed over, the fronts' ` +
      "first; those of all are in their records, cells/<cell>.json."
    : "The records have no predicted classes: an older qprune evaluated these cells.";

function wholeTable(counts, names) {
  const most = Math.max(1, ...counts.flatMap((row, label) => row.filter((_, other) => other !== label)));
  const shade = (count, label, other) => {
    if (label === other) return "right";
    return count ? `wrong${Math.ceil((4 * count) / most)}` : "none";
  };
  const rows = counts.map((row, label) => [
    names[label],
    ...row.map((count, other) => make("span", { class: `count ${shade(count, label, other)}` }, String(count || "·"))),
    digits(sum(row)),
    sum(row) ? percent(row[label] / sum(row)) : "–",
  ]);
  const made = tableOf(
    [["true class", ...names, "images", "recall"], ...rows],
    "Test images by true and predicted class",
  );
  made.classList.add("confusion");
  return made;
}

function pairsTable(counts, names) {
  const pairs = counts.flatMap((row, label) =>
    row.map((count, other) => ({ label, other, count, of: sum(row) })).filter((pair) => pair.other !== label),
  );
  const worst = pairs
    .filter((pair) => pair.count)
    .sort((a, b) => b.count - a.count)
    .slice(0, PAIRS);
  if (!worst.length) return note("It has every test image right.");
  const rows = worst.map(({ label, other, count, of }) => [
    names[label],
    { words: names[other] },
    String(count),
    `${percent(count / of)} of ${of}`,
  ]);
  return tableOf([["true class", "taken for", "images", "of its class"], ...rows], "Classes that are confused most");
}
