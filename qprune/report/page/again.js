// The command that makes one cell again, of its sweep's own file.

import { DATA } from "./data.js";
import { distinct } from "./tables.js";
import { quoted } from "./text.js";

const flow = (value) => JSON.stringify(value).replaceAll('"', "");

const OUT = "again"; // in the sweep's own folder, the table would have no other cells any more

/**
 * The command for the cell (of a point: its cells of all seeds) at a row; null where the file is not known, or no
 * method makes such cells any more.
 */
export function commandOf(table, row) {
  const sweep = DATA.sweeps.find(({ name }) => name === table.sweep[row]);
  const { protocol, prune, budget } = sweep?.settings ?? {};
  if (!sweep?.file.path || !prune) return null;
  const criterion = sweep.criteria[table.criterion[row]];
  const method = table.method[row].split(".");
  if (table.baseline[row] && method[1] && method[1] !== "flops") return null;
  const seeds = table.seed ? [table.seed[row]] : sweep.seeds;
  const settings = [
    ...(protocol ? [] : [["protocol", "classic"]]), // a sweep from before there were others
    ["prune.until", prune.until], // of all ratios, so that the budget is what it was
    ...(criterion?.lambda === "cv" ? [] : [["prune.ratios", flow([table.pruning_ratio[row]])]]),
    ["precisions", flow([table.precision[row]])],
    ["seeds", flow(seeds)],
    ...(prune.criterion.length > 1 ? [["prune.criterion", JSON.stringify(criterion ?? prune.criterion[0])]] : []),
    ...(budget ? [["budget.shares.quantize", budget.shares.quantize]] : []), // which goes by all precisions
    ...(table.baseline[row]
      ? [
          ["baselines", flow([method[0]])],
          ["baseline_budget", method[1] ?? "updates"],
        ]
      : [
          ["order", flow([method[0]])],
          ["baselines", "[]"],
        ]),
  ];
  const sets = [...(sweep.file.set ?? []), ...distinct(settings.map((pair) => pair.join("=")))];
  return ["qprune sweep", quoted(sweep.file.path), "--out", OUT, ...sets.map((text) => `--set ${quoted(text)}`)].join(
    " ",
  );
}
