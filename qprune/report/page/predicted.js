// Which class each network took each test image for, of the cells that the page has that of.

import { DATA, inflated } from "./data.js";
import { CELLS } from "./tables.js";

const PACKED = DATA.details.predicted;
const PLACE_OF = new Map(PACKED.rows.map((detailed, place) => [CELLS.key[DATA.details.rows[detailed]], place]));
/** Keys of the cells that the page has predictions of. */
export const PREDICTED = [...PLACE_OF.keys()];

const arrays = new Map();
/** Packed class numbers, one or two bytes an image, as an array. */
async function numbersOf(packed, images) {
  if (!arrays.has(packed)) {
    const bytes = await inflated(packed, "deflate");
    arrays.set(packed, bytes.byteLength === images ? new Uint8Array(bytes) : new Uint16Array(bytes));
  }
  return arrays.get(packed);
}

/** {labels, predicted, names, set} of a cell's test images; null where the page has none. */
export async function predictionsOf(key) {
  const place = PLACE_OF.get(key);
  if (place === undefined) return null;
  const { labels: packed, images, names } = PACKED.sets[PACKED.of[place]];
  const labels = await numbersOf(packed, images);
  const wrong = await numbersOf(PACKED.differences[place], images);
  return {
    labels,
    predicted: Uint16Array.from(labels, (label, image) => (label + wrong[image]) % names.length),
    names,
    set: PACKED.of[place],
  };
}

/** counts[true class][predicted class]. */
export function confusionOf({ labels, predicted, names }) {
  const counts = names.map(() => new Array(names.length).fill(0));
  for (const [image, label] of labels.entries()) counts[label][predicted[image]]++;
  return counts;
}

/**
 * For each class how many of its test images both networks have right, only the first, only the second, and neither;
 * and for how many they give different answers.
 */
export function disagreementOf(one, two) {
  const counts = one.names.map((name) => ({ name, images: 0, both: 0, first: 0, second: 0, neither: 0, differ: 0 }));
  for (const [image, label] of one.labels.entries()) {
    const [a, b] = [one.predicted[image], two.predicted[image]];
    const count = counts[label];
    count.images++;
    count[a === label ? (b === label ? "both" : "first") : b === label ? "second" : "neither"]++;
    if (a !== b) count.differ++;
  }
  return counts;
}
