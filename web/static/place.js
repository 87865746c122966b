// While a part of the page changes: what a person looks at stays where it is, and the focus where it was.
const FOCUSABLE = "a[href], button, input, summary, [tabindex]";

export function keepingPlace(change) {
  const focus = placeOfFocus();
  const row = anchor();
  const top = row?.getBoundingClientRect().top;
  change();
  restoreFocus(focus);
  const now = row && (row.isConnected ? row : rowOf(row.dataset.key));
  if (now) moveBack(now, top);
}

// The row under the pointer, or that of the focus, or the first that is seen of a page that was scrolled.
function anchor() {
  const rows = [...document.querySelectorAll(".row")];
  return document.querySelector(".row:hover") ?? document.activeElement?.closest(".row") ?? (scrollY > 0 ? rows.find(isSeen) : undefined);
}

function isSeen(row) {
  return row.getBoundingClientRect().bottom > document.querySelector("header").offsetHeight;
}

// Scrolls; where the page is too short for that, it gets longer.
function moveBack(row, top) {
  const main = document.getElementById("main");
  scrollBy({ top: row.getBoundingClientRect().top - top, behavior: "instant" });
  const missing = row.getBoundingClientRect().top - top;
  if (missing < 1) return;
  main.style.minHeight = `${main.offsetHeight + missing}px`;
  scrollBy({ top: missing, behavior: "instant" });
}

// Which of the elements that can have it, of which part of the page.
function placeOfFocus() {
  const element = document.activeElement;
  const part = element?.closest("[data-key]") ?? element?.parentElement?.closest("[id]");
  if (!part) return null;
  return { element, id: part.id, key: part.dataset.key, index: [...part.querySelectorAll(FOCUSABLE)].indexOf(element) };
}

function restoreFocus(focus) {
  if (!focus || focus.element.isConnected) return;
  const { element, id, key, index } = focus;
  const part = key ? rowOf(key) : document.getElementById(id);
  const there = part ? [...part.querySelectorAll(FOCUSABLE)] : [];
  const again = (element.id && document.getElementById(element.id)) || (there[index] ?? there.at(-1));
  again?.focus({ preventScroll: true });
}

function rowOf(key) {
  return [...document.querySelectorAll(".row")].find((row) => row.dataset.key === key);
}
