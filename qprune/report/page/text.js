// How numbers are written.

import { DATA } from "./data.js";

/** A number with so many digits, with an exponent where it is small or huge. */
export function digits(value, count = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7))
    return value
      .toExponential(count - 1)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(count)));
}
export const costText = (name, value) => (DATA.words[name]?.unit === "bytes" ? bytes(value) : digits(value));
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const unit = [
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ].find(([size]) => value >= size);
  return unit ? `${Number((value / unit[0]).toPrecision(3))} ${unit[1]}` : `${Math.round(value)} B`;
}
export const percent = (value, places = 1) =>
  value === null || value === undefined ? "–" : `${(100 * value).toFixed(places)}%`;
/** A difference in percentage points, with its sign. */
export const signed = (value, places = 1) => {
  if (value === null || value === undefined) return "–";
  const text = (100 * value).toFixed(places);
  return Number(text) === 0 ? (0).toFixed(places) : value > 0 ? `+${text}` : text.replace("-", "−");
};
export const ratioText = (ratio) => `${digits(100 * ratio)}%`;
/** An interval as text, its ends written by a function; there is none of one seed. */
export const within = (low, high, text) =>
  low === null || low === undefined ? "one seed" : `${text(low)} to ${text(high)}`;

/** A word of a shell's command, in quotes where it needs them. */
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replaceAll("'", `'"'"'`)}'`);
