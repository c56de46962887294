// How elements are made. No name from a file ever becomes markup.

import { DATA } from "./data.js";

/** An element with attributes and children; strings become text nodes, and on<event> attributes listeners. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** An element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);
export const fill = (id, ...children) => byId(id).replaceChildren(...children.flat().filter((child) => child !== null));

/** A labelled select. options: [value, text] pairs. */
export function choice(id, label, options, value, onchange) {
  const select = make("select", { id, onchange: (event) => onchange(event.target.value) });
  for (const [key, text] of options) select.append(make("option", { value: key, selected: key === value }, text));
  return make("label", { for: id }, label, select);
}

/** A table from rows of strings or elements; the first row is its head. attributes: of each row, by its number. */
export function tableOf(rows, caption, attributes = () => ({})) {
  const [head, ...body] = rows;
  const cell = (tag, content, place) =>
    make(
      tag,
      tag === "th" ? { scope: "col" } : { class: content?.words ? "words" : null },
      place >= 0 ? (content?.words ?? content) : content,
    );
  const made = make(
    "table",
    { "aria-label": caption },
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        head.map((text) => cell("th", text, -1)),
      ),
    ),
    make(
      "tbody",
      {},
      body.map((row, number) =>
        make(
          "tr",
          attributes(number),
          row.map((one, place) => cell("td", one, place)),
        ),
      ),
    ),
  );
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

/** Text that plotly shows as it is: it reads some markup and entities in its texts. */
export const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** A paragraph of small print from parts of its text. */
export const note = (...texts) => make("p", { class: "note" }, texts.join(" "));

/** A button that says what a word means, in a box beside it, until Escape or a click anywhere. */
export function helpButton(name, text) {
  const button = make("button", { type: "button", class: "help", "aria-label": `What is ${name}?` }, "?");
  button.addEventListener("click", () => {
    const box = byId("help");
    box.showPopover();
    box.replaceChildren(make("strong", {}, name), make("span", {}, `: ${text}`)); // shown first, so that it is read out
    const [at, size] = [button.getBoundingClientRect(), box.getBoundingClientRect()];
    const below = at.bottom + 6 + size.height < innerHeight;
    box.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8))}px`;
    box.style.top = `${Math.max(8, below ? at.bottom + 6 : at.top - size.height - 6)}px`;
  });
  return button;
}
/** The button that says what a column of costs counts; null for a word that is none. */
export const costHelp = (name) => (DATA.words[name] ? helpButton(name, DATA.words[name].text) : null);

/** Pairs of a name and a value, below each other. */
export const factsOf = (facts) =>
  make(
    "dl",
    { class: "facts" },
    facts.flatMap(([name, value]) => [make("dt", {}, name, costHelp(name)), make("dd", {}, String(value ?? "–"))]),
  );

/** A command with a button that copies it. id: of the command's text. */
export function commandLine(text, label, id = null) {
  const button = make("button", { type: "button", "aria-label": `Copy the ${label} command` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return make("div", { class: "command" }, make("code", { id }, text), button);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // no permission, or a browser that has no clipboard for files
    const area = make("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

export function download(url, name) {
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

export function goTo(id) {
  const section = byId(id);
  section.setAttribute("tabindex", "-1");
  section.focus({ preventScroll: true });
  section.scrollIntoView();
}
