// The colours of charts: light or dark, as the reader's system has it. Those of the page itself are in page.css.

const LIGHT = {
  ink: "#1c2430",
  strong: "#000000", // what is always black on white, as FP32 is
  soft: "#55606e",
  paper: "#ffffff",
  grid: "#e9ecef",
  axis: "#7d8896",
  tick: "#b5bdc6",
  pale: "#d6dbe1", // what lies behind
  front: "#c3c9d0",
  otherFront: "#dfc9ae",
  baselines: "#8a5a00",
  published: "#6a2c91", // none of the palette's
};
const DARK = {
  ink: "#e4e8ed",
  strong: "#ffffff",
  soft: "#a3adb9",
  paper: "#14181d",
  grid: "#2a3038",
  axis: "#7d8896",
  tick: "#4d5661",
  pale: "#3d4651",
  front: "#4d5661",
  otherFront: "#5f4f3a",
  baselines: "#d29a3a",
  published: "#c39be0",
};
const dark = matchMedia("(prefers-color-scheme: dark)");
export const theme = { ...(dark.matches ? DARK : LIGHT) };

/** Draws anew when the system turns dark or light. */
export function onTheme(redraw) {
  dark.addEventListener("change", () => {
    Object.assign(theme, dark.matches ? DARK : LIGHT);
    redraw();
  });
}
