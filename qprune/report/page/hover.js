// The card of what is under the pointer.

import { byId } from "./dom.js";

/** Shows the card with these elements beside the pointer, as a whole within the view. */
export function showCard(elements, event) {
  const card = byId("card");
  card.replaceChildren(...elements);
  card.hidden = false;
  const box = card.getBoundingClientRect();
  const x = Math.min(event.clientX + 16, document.documentElement.clientWidth - box.width - 8);
  const y = event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 16;
  card.style.left = `${Math.max(4, x) + scrollX}px`;
  card.style.top = `${Math.max(4, y) + scrollY}px`;
}
export const hideCard = () => (byId("card").hidden = true);
// a finger leaves no point that it has touched
for (const name of ["pointerdown", "scroll"]) addEventListener(name, hideCard, { passive: true, capture: true });
addEventListener("keydown", (event) => event.key === "Escape" && hideCard());
