// What the page carries packed: its data, as report/build.py made them, and plotly.

/** The bytes that a text holds in base64, inflated. form: "gzip", or "deflate" (zlib's). */
export async function inflated(text, form) {
  const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream(form))).arrayBuffer();
}

/** The text of an element that holds it packed. Takes the element away. */
async function unzipped(id) {
  const element = document.getElementById(id);
  element.remove();
  return new TextDecoder().decode(await inflated(element.textContent, "gzip"));
}

/** Runs a script that the page's policy knows by its hash. */
function run(text) {
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
  script.remove();
}

const unpacked = await Promise.all([unzipped("data"), unzipped("plotly")]);
run(unpacked[1]);
export const DATA = JSON.parse(unpacked[0]);

const rowAt = (columns, row) =>
  Object.fromEntries(
    Object.entries(columns).map(([name, values]) => [name, Array.isArray(values) ? values[row] : rowAt(values, row)]),
  );
const lengthOf = (columns) => (Array.isArray(columns) ? columns.length : lengthOf(Object.values(columns)[0] ?? []));

/** An object for each row of a table of columns: {ratio: [0], drop: {mean: [1]}} -> [{ratio: 0, drop: {mean: 1}}]. */
export function rowsOf(columns) {
  return Array.from({ length: lengthOf(columns) }, (_, row) => rowAt(columns, row));
}
