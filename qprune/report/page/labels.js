// Where a label stands in the plot: near its point, within the plot, and over as few points and labels as can be.

const CLEAR = 7; // pixels around a point that a label leaves free
const DISTANCES = [14, 26, 42, 62, 88, 120, 160]; // from the point to the label's box
const DIRECTIONS = 12;
const LABEL_HEIGHT = 17;

let canvas = null;
/** The width of a text in pixels. */
export function widthOf(text, font) {
  canvas ??= document.createElement("canvas").getContext("2d");
  canvas.font = font;
  return canvas.measureText(text).width;
}

const overlap = (a, b) =>
  a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height;
const covers = (box, [x, y]) =>
  x > box.left - CLEAR && x < box.left + box.width + CLEAR && y > box.top - CLEAR && y < box.top + box.height + CLEAR;

/**
 * The box {left, top, width, height} of a label of this width for a point at [x, y].
 * plot: {width, height}; points: [x, y] that are not to be covered; taken: boxes of other labels.
 */
export function placeLabel(width, [x, y], plot, points, taken) {
  let best = null;
  let least = Infinity;
  for (const distance of DISTANCES)
    for (let step = 0; step < DIRECTIONS; step++) {
      const angle = (2 * Math.PI * step) / DIRECTIONS;
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      // the box touches the circle around the point with the side that faces it
      const left = x + cos * distance + (width * (cos - 1)) / 2;
      const top = y + sin * distance + (LABEL_HEIGHT * (sin - 1)) / 2;
      const box = {
        left: Math.min(Math.max(left, 2), plot.width - width - 2),
        top: Math.min(Math.max(top, 0), plot.height - LABEL_HEIGHT),
        width,
        height: LABEL_HEIGHT,
      };
      const covered = points.filter((point) => covers(box, point)).length;
      const clash = taken.filter((other) => overlap(box, other)).length;
      const moved = Math.abs(box.left - left) + Math.abs(box.top - top);
      const badness = 100 * covered + 300 * clash + distance + 0.2 * moved;
      if (badness < least) [best, least] = [box, badness];
    }
  return best;
}

/** The point of a box that is nearest to [x, y]. */
export const nearestOf = (box, [x, y]) => [
  Math.min(Math.max(x, box.left), box.left + box.width),
  Math.min(Math.max(y, box.top), box.top + box.height),
];
