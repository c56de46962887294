// One cell: its numbers, its layers and how it was trained.

import { commandOf } from "./again.js";
import { cardOf } from "./card.js";
import { handedOver, pickOf } from "./choose.js";
import { drawConfusion } from "./confusion.js";
import { drawCurves } from "./curves.js";
import { DATA } from "./data.js";
import { DETAIL_OF, layersOf } from "./details.js";
import { byId, choice, commandLine, fill, note } from "./dom.js";
import { drawLayers } from "./layers.js";
import { change, comparedPoints, limitsNow, state } from "./state.js";
import { CELLS } from "./tables.js";

/** The chosen cell, or that of the pick. */
export function cellNow() {
  if (CELLS.key.includes(state.cell)) return state.cell;
  const limits = limitsNow();
  const row = pickOf(comparedPoints(), limits, state.prefer, state.x).chosen;
  return row !== null ? CELLS.key[handedOver(row, limits)] : (CELLS.key[DATA.details.rows[0]] ?? null);
}

export function drawCell() {
  const cell = cellNow();
  const names = DATA.details.rows
    .map((row) => CELLS.key[row])
    .filter((_, place) => CELLS.data[DATA.details.rows[place]] === state.data);
  if (cell && !names.includes(cell)) names.unshift(cell);
  fill(
    "cell-controls",
    choice(
      "cell",
      "cell",
      names.map((name) => [name, name]),
      cell,
      (value) => change({ cell: value }),
    ),
  );
  const row = CELLS.key.indexOf(cell);
  if (row < 0) {
    fill("cell-facts", note("No cell is finished yet."));
    for (const id of ["layers", "curves"]) byId(id).hidden = true;
    return undefined;
  }
  const again = commandOf(CELLS, row);
  fill(
    "cell-facts",
    cardOf(CELLS, row)[1],
    again && [note("This cell again, in a folder of its own:"), commandLine(again, "sweep of this cell", "again")],
  );
  const place = DETAIL_OF.get(cell);
  return Promise.all([drawLayers(layersOf(place), row), drawCurves(place), drawConfusion(cell)]);
}
