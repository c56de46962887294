// Is pruning worth it here? One sentence for each baseline, and what there is at each octave of cost.

import { rowsOf } from "./data.js";
import { fill, make, note, tableOf } from "./dom.js";
import { studiesNow } from "./state.js";
import { digits, ratioText, signed, within } from "./text.js";

const HEAD = [
  "precision",
  "at most (bit_gflops)",
  "pruned",
  "baseline",
  "pruned − baseline, test",
  "95%",
  "validation",
  "p (Holm)",
  "better",
];

export function drawWorth() {
  const studies = studiesNow();
  if (!studies) return fill("worth", note("No cell is finished yet."));
  if (!studies.worth.length) return fill("worth", note(studies.worth_unknown));
  return fill(
    "worth",
    studies.worth.flatMap(({ baseline, sentence, rows }) => [
      make("p", { class: "verdict" }, make("strong", {}, sentence)),
      rows.cost.length
        ? make(
            "details",
            {},
            make("summary", {}, `By precision and octave of cost, against ${baseline}`),
            octaves(rows),
          )
        : null,
    ]),
    note(
      "Each precision's best network at no more than a cost, chosen by mean validation accuracy on either side;",
      "differences in percentage points, paired by seed. Unpruned networks are on both sides. A better one is named",
      "where Holm's method leaves its p below 5% over the table; nothing is extrapolated.",
    ),
  );
}

function octaves(columns) {
  const changeText = (value) => signed(value, 2);
  const at = (ratio) => ({ words: ratio === null ? "none that cheap" : ratio === 0 ? "unpruned" : ratioText(ratio) });
  const body = rowsOf(columns).map(({ precision, cost, pruned, other, test, validation, p, verdict }) => [
    precision,
    digits(cost),
    at(pruned),
    at(other),
    test.seeds ? changeText(test.mean) : "–",
    test.seeds ? within(test.low, test.high, changeText) : "–",
    validation.seeds ? changeText(validation.mean) : "–",
    p === null ? "–" : digits(p, 2),
    { words: verdict },
  ]);
  return tableOf([HEAD, ...body], "Pruned and baseline at no more than each cost");
}
