// The data that the page carries, as report/build.py made it.

/** The JSON value of a gzipped text in base64. */
async function unzipped(text) {
  const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

export const DATA = await unzipped(document.getElementById("data").textContent);

const rowAt = (columns, row) =>
  Object.fromEntries(
    Object.entries(columns).map(([name, values]) => [name, Array.isArray(values) ? values[row] : rowAt(values, row)]),
  );
const lengthOf = (columns) => (Array.isArray(columns) ? columns.length : lengthOf(Object.values(columns)[0] ?? []));

/** An object for each row of a table of columns: {ratio: [0], drop: {mean: [1]}} -> [{ratio: 0, drop: {mean: 1}}]. */
export function rowsOf(columns) {
  return Array.from({ length: lengthOf(columns) }, (_, row) => rowAt(columns, row));
}
