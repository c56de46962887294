// What the page has of single cells: their layers, and their place among those it has the details of.

import { DATA, rowsOf } from "./data.js";
import { CELLS } from "./tables.js";

/** Key of a cell -> its place in DATA.details. */
export const DETAIL_OF = new Map(DATA.details.rows.map((row, place) => [CELLS.key[row], place]));

/** One object per layer of the cell at a place of the details; null where the page has none. */
export function layersOf(place) {
  const { structures, shapes, bits, cells } = DATA.details.layers;
  if (place === undefined || cells.structures[place] === null) return null;
  const tables = { ...structures[cells.structures[place]], ...shapes[cells.shapes[place]], ...bits[cells.bits[place]] };
  const layers = rowsOf(tables).map((layer) => ({ ...layer, work: layer.macs * layer.w_bits * layer.a_bits }));
  const total = layers.reduce((sum, layer) => sum + layer.work, 0);
  return layers.map((layer) => ({ ...layer, share: layer.work / total }));
}

/** The layers of the unpruned network of the same model, by name. */
export function denseLayers(row) {
  const same = (other) => ["sweep", "model", "data"].every((name) => CELLS[name][other] === CELLS[name][row]);
  const place = DATA.details.rows.findIndex(
    (other, number) =>
      CELLS.pruning_ratio[other] === 0 && same(other) && DATA.details.layers.cells.structures[number] !== null,
  );
  return place < 0 ? new Map() : new Map(layersOf(place).map((layer) => [layer.name, layer]));
}
