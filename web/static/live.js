// Keeps the page up to date: asks once a second whether anything changed, and swaps in what did, without a jump.
import { isNoticing } from "./notices.js";

const PAUSE = 1000; // milliseconds
const LONGEST_PAUSE = 15000; // after several failures in a row
const PATIENCE = 10000; // milliseconds for another X-ray to arrive
const HOST_PAUSE = 5000; // the host and its queue change even when no row does
const FOCUSABLE = "a[href], button, input, summary, [tabindex]";

let failures = 0;
let moving = false; // another X-ray is on its way: this one stays as it is
let held = false; // new content waits until the selection is released
let changed = () => {}; // called after the content changed
let hostTag = ""; // ETag of the host panel on the page
let shown = location.href; // the view on the page: not that of the address bar while a request for it fails

export function keepUpToDate(then) {
  changed = then;
  if (!document.getElementById("view")) return;
  let timer;
  async function round() {
    clearTimeout(timer);
    try {
      if ((!document.hidden || isNoticing()) && !isGrasped()) await look();
    } finally {
      clearTimeout(timer); // another round may have begun in the meantime
      timer = setTimeout(round, Math.min(PAUSE * 2 ** failures, LONGEST_PAUSE));
    }
  }
  document.addEventListener("visibilitychange", () => document.hidden || round());
  timer = setTimeout(round, PAUSE);
  keepHostUpToDate();
}

// Shows another view of the worklist without leaving the page.
export async function show(address, isNew) {
  history[isNew ? "pushState" : "replaceState"](null, "", address);
  report(await refresh());
}

// Shows the X-ray that answers a request in the place of this one, without leaving the page; returns whether it did.
export async function showXray(address, request = {}) {
  moving = true;
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const answer = await get(address, "text/html", {}, { ...request, signal });
    const next = await parsed(answer);
    if (!next?.getElementById("xray")) return false; // an error, or a proxy's login page
    if (answer.url !== location.href) history.pushState(null, "", answer.url);
    document.title = next.title;
    document.getSelection().removeAllRanges(); // what was selected goes
    delete document.getElementById("xray").dataset.change; // the same X-ray may come with an answer to the request
    take(next);
    return true;
  } finally {
    moving = false;
  }
}

export const isMoving = () => moving;

function keepHostUpToDate() {
  if (!document.getElementById("host")) return;
  setTimeout(async () => {
    if (!document.hidden && !isGrasped()) await lookAtHost();
    keepHostUpToDate();
  }, HOST_PAUSE);
}

async function lookAtHost() {
  const host = document.getElementById("host");
  const answer = await get(host.dataset.watch, "text/html", hostTag ? { "If-None-Match": hostTag } : {});
  const fresh = (await parsed(answer))?.getElementById("host"); // none after a 304: nothing changed
  if (!fresh || isGrasped() || hasSelection(host)) return;
  keepingPlace(() => replace(host, fresh));
  hostTag = answer.headers.get("ETag");
  changed();
}

async function look() {
  const view = document.getElementById("view");
  const answer = shown === location.href && (await get(view.dataset.watch, "application/json"));
  report(answer?.status === 204 || ((answer === false || answer?.ok) && (await refresh())));
}

function report(fine) {
  failures = fine ? 0 : failures + 1;
  if (fine !== true) held = false;
  const text = held ? "Paused while text is selected." : failures > 2 ? "No connection. This may be out of date." : "";
  const ofHost = document.querySelector("#host .unreached");
  if (ofHost) ofHost.hidden = failures <= 2;
  const line = document.getElementById("lost");
  if (line.textContent !== text) line.textContent = text;
}

// Requests

// Returns the answer, or null when the server cannot be reached.
function get(address, type, headers = {}, request = {}) {
  return fetch(address, { ...request, headers: { Accept: type, ...headers }, cache: "no-store" }).catch(() => null);
}

async function parsed(answer) {
  const text = answer?.ok && (await answer.text().catch(() => null));
  return text ? new DOMParser().parseFromString(text, "text/html") : null;
}

// Returns whether the page is now as the server has it, or will be once nothing is held any more.
async function refresh() {
  const address = location.href;
  const answer = await get(address, "text/html");
  if (answer?.status === 404) location.reload(); // the X-ray was forgotten
  const next = await parsed(answer);
  if (!next?.getElementById("view")) return false; // not our page, but perhaps a proxy's login page
  if (isGrasped() || address !== location.href) return true; // the next round does it
  take(next);
  return true;
}

// Puts what the server sent in the place of what the page holds, as the view at the page's address.
function take(next) {
  held = false;
  keepingPlace(() => {
    for (const fresh of next.querySelectorAll("[data-live]")) update(document.getElementById(fresh.id), fresh);
  });
  if (!held) document.getElementById("view").dataset.watch = next.getElementById("view").dataset.watch;
  shown = location.href;
  hostTag = ""; // the host panel was replaced too
  changed();
}

// Updates; nothing is replaced while a person drags a slider or the picture, writes a note, or selects text in it

function update(old, fresh) {
  if (!old) return;
  if (hasSelection(old) && old.innerHTML !== fresh.innerHTML) held = true;
  else if (fresh.dataset.live === "rows") mergeRows(old, fresh);
  else replace(old, fresh);
}

function isGrasped() {
  const note = document.getElementById("note");
  return moving || document.querySelector("#xray :active, .is-held") !== null || (note !== null && note.value !== note.defaultValue);
}

function hasSelection(part) {
  const selection = document.getSelection();
  return !selection.isCollapsed && selection.containsNode(part, true);
}

function replace(old, fresh) {
  if (old.dataset.change && old.dataset.change === fresh.dataset.change) return;
  if (old.innerHTML === fresh.innerHTML) return;
  for (const details of old.querySelectorAll("details[open]")) {
    fresh.querySelector(`#${details.id}`)?.setAttribute("open", "");
  }
  old.replaceChildren(...fresh.childNodes);
  Object.assign(old.dataset, fresh.dataset);
}

// Rows that did not change stay the same elements, so their images, focus and animations carry on.
function mergeRows(old, fresh) {
  const [list, newList] = [old.querySelector("ol"), fresh.querySelector("ol")];
  if (!list || !newList || old.dataset.view !== fresh.dataset.view) {
    old.dataset.view = fresh.dataset.view;
    old.replaceChildren(...fresh.childNodes);
    return;
  }
  const known = new Map([...list.children].map((row) => [row.dataset.key, row]));
  let place = list.firstElementChild;
  for (const row of [...newList.children]) {
    let here = known.get(row.dataset.key);
    known.delete(row.dataset.key);
    if (here?.dataset.change !== row.dataset.change) {
      row.classList.add("is-fresh");
      if (here === place) place = place?.nextElementSibling ?? null;
      here?.remove();
      here = row;
    }
    if (here === place) place = place.nextElementSibling;
    else list.insertBefore(here, place);
  }
  for (const row of known.values()) row.remove();
  const [rest, newRest] = [old.querySelector(".rest"), fresh.querySelector(".rest")];
  if (rest?.innerHTML === newRest?.innerHTML) return;
  rest?.remove();
  if (newRest) list.after(newRest);
}

// Scroll position and focus: both stay where they were while a part of the page changes

function keepingPlace(change) {
  const focus = placeOfFocus();
  const row = anchor();
  const top = row?.getBoundingClientRect().top;
  change();
  restoreFocus(focus);
  const now = row && (row.isConnected ? row : rowOf(row.dataset.key));
  if (now) moveBack(now, top);
}

// The row under the pointer, else the row with the focus, else the first visible row of a scrolled page.
function anchor() {
  const rows = [...document.querySelectorAll(".row")];
  return document.querySelector(".row:hover") ?? document.activeElement?.closest(".row") ?? (scrollY > 0 ? rows.find(isVisible) : undefined);
}

function isVisible(row) {
  return row.getBoundingClientRect().bottom > document.querySelector("header").offsetHeight;
}

// Scrolls the row back to where it was; a page that is too short for that becomes longer.
function moveBack(row, top) {
  const main = document.getElementById("main");
  scrollBy({ top: row.getBoundingClientRect().top - top, behavior: "instant" });
  const missing = row.getBoundingClientRect().top - top;
  if (missing < 1) return;
  main.style.minHeight = `${main.offsetHeight + missing}px`;
  scrollBy({ top: missing, behavior: "instant" });
}

// Notes the focused element by its number among the focusable elements of its row or section.
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
