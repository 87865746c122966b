// Asks once a second whether anything changed, and puts what did into the page, without a jump.
import { keepingPlace } from "./place.js";

const PAUSE = 1000; // milliseconds
const LONGEST_PAUSE = 15000; // after failures in a row
const HOST_PAUSE = 5000; // host and queue change though no row does

let failures = 0;
let held = false; // something new waits until a person lets go of what they selected
let changed = () => {}; // what there is to do for a page with new content
let hostTag = ""; // the ETag of the panel that is shown
let shown = location.href; // the view that is shown, if the one of the address could not be had

export function keepUpToDate(then) {
  changed = then;
  if (!document.getElementById("view")) return;
  let timer;
  async function round() {
    clearTimeout(timer);
    try {
      if (!document.hidden && !isGrasped()) await look();
    } finally {
      clearTimeout(timer); // another round may have begun meanwhile
      timer = setTimeout(round, Math.min(PAUSE * 2 ** failures, LONGEST_PAUSE));
    }
  }
  document.addEventListener("visibilitychange", () => document.hidden || round());
  timer = setTimeout(round, PAUSE);
  keepHostUpToDate();
}

// Shows another view of the worklist, without leaving the page.
export async function show(address, isNew) {
  history[isNew ? "pushState" : "replaceState"](null, "", address);
  say(await refresh());
}

function keepHostUpToDate() {
  if (!document.getElementById("host")) return;
  setTimeout(async () => {
    if (!document.hidden && !isGrasped()) await lookAtHost();
    keepHostUpToDate();
  }, HOST_PAUSE);
}

async function lookAtHost() {
  const place = document.getElementById("host");
  const answer = await get(place.dataset.watch, "text/html", hostTag ? { "If-None-Match": hostTag } : {});
  const fresh = (await parsed(answer))?.getElementById("host"); // 304: as it is shown
  if (!fresh || isGrasped() || hasSelection(place)) return;
  keepingPlace(() => replace(place, fresh));
  hostTag = answer.headers.get("ETag");
  changed();
}

async function look() {
  const view = document.getElementById("view");
  const answer = shown === location.href && (await get(view.dataset.watch, "application/json"));
  say(answer?.status === 204 || ((answer === false || answer?.ok) && (await refresh())));
}

function say(fine) {
  failures = fine ? 0 : failures + 1;
  if (fine !== true) held = false;
  const text = held ? "Held while text is selected." : failures > 2 ? "No connection. This may be out of date." : "";
  const place = document.getElementById("lost");
  if (place.textContent !== text) place.textContent = text;
}

// The answer, or null when the server cannot be reached.
function get(address, type, headers = {}) {
  return fetch(address, { headers: { Accept: type, ...headers }, cache: "no-store" }).catch(() => null);
}

async function parsed(answer) {
  const text = answer?.ok && (await answer.text().catch(() => null));
  return text ? new DOMParser().parseFromString(text, "text/html") : null;
}

// Whether the page is now as the server has it; or will be, once a person lets go of it.
async function refresh() {
  const address = location.href;
  const answer = await get(address, "text/html");
  if (answer?.status === 404) location.reload(); // the X-ray was forgotten
  const next = await parsed(answer);
  const view = next?.getElementById("view");
  if (!view) return false; // no page of ours: that of a proxy which asks for a login, say
  if (isGrasped() || address !== location.href) return true; // the next round does it
  held = false;
  keepingPlace(() => {
    for (const fresh of next.querySelectorAll("[data-live]")) update(document.getElementById(fresh.id), fresh);
  });
  if (!held) document.getElementById("view").dataset.watch = view.dataset.watch;
  shown = address;
  hostTag = ""; // the panel came along, and may be another one
  changed();
  return true;
}

function update(old, fresh) {
  if (!old) return;
  if (hasSelection(old) && old.innerHTML !== fresh.innerHTML) held = true;
  else if (fresh.dataset.live === "rows") mergeRows(old, fresh);
  else replace(old, fresh);
}

// A person who holds a slider or the picture keeps it,
function isGrasped() {
  return document.querySelector("#xray :active, .is-held") !== null;
}

// and so does one who selects text.
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
  if (fresh.dataset.change) old.dataset.change = fresh.dataset.change;
}

// Rows that did not change stay the same elements: images, focus and animations go on.
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
