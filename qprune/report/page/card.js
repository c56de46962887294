// The facts of one operating point or cell.

import { DATA } from "./data.js";
import { factsOf, make } from "./dom.js";
import { CELLS, POINTS, VARYING } from "./tables.js";
import { costText, digits, percent, ratioText } from "./text.js";

/** What the cell's network has had; where equal FLOPs would have been more than was given, that. */
function trainingText(row) {
  const cap = CELLS.training_flops_cap[row];
  return digits(CELLS.training_flops[row]) + (cap === null ? "" : ` (capped at ${cap} times the updates)`);
}

const recallsText = (table, row, name) => `${percent(table[`val_${name}`][row], 2)}, ${percent(table[name][row], 2)}`;

export function cardOf(table, row) {
  const many = table === POINTS;
  const spread = (name) =>
    many && POINTS[`${name}_sd`]?.[row] ? ` ± ${(100 * POINTS[`${name}_sd`][row]).toFixed(2)}` : "";
  const title = [
    table.precision[row],
    `${ratioText(table.pruning_ratio[row])} ${table.baseline[row] ? "smaller" : "pruned"}`,
  ].join(", ");
  const facts = [
    ["model", table.model[row]],
    ["data", table.data[row]],
    ...(table.criterion[row] === "none" ? [] : [["criterion", table.criterion[row]]]),
    ...(VARYING.includes("method") ? [["method", table.method[row]]] : []),
    many ? ["seeds", POINTS.seeds[row]] : ["seed", CELLS.seed[row]],
    ["achieved ratio", ratioText(table.achieved_ratio[row])],
    ["validation accuracy", percent(table.val_accuracy[row], 2) + spread("val_accuracy")],
    ["test accuracy", percent(table.accuracy[row], 2) + spread("accuracy")],
    ...(table.val_balanced_accuracy[row] === null
      ? []
      : [
          ["balanced (val., test)", recallsText(table, row, "balanced_accuracy")],
          ["least recall of a class (val., test)", recallsText(table, row, "least_recall")],
        ]),
    [
      "baseline (val., test)",
      `${percent(table.baseline_val_accuracy[row], 2)}, ${percent(table.baseline_accuracy[row], 2)}`,
    ],
    ["validation loss", digits(table.val_loss[row])],
    ...DATA.costs.map((name) => [name, costText(name, table[name][row])]),
    ["MACs", digits(table.macs[row])],
    ["parameters", digits(table.params[row])],
    ...(many ? [] : [["training FLOPs", trainingText(row)]]),
    [many ? "cell to export" : "cell", table.cell[row]],
  ];
  return [make("strong", {}, title), factsOf(facts)];
}
