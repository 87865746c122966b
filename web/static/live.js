// Asks once a second whether anything changed, and puts what did into the page, without a jump.
const PAUSE = 1000; // milliseconds
const LONGEST_PAUSE = 15000; // after failures in a row
const HOST_PAUSE = 5000; // host and queue change though no row does

let failures = 0;
let changed = () => {}; // what there is to do for a page with new content
let hostTag = ""; // the ETag of the panel that is shown

export function keepUpToDate(then) {
  changed = then;
  const view = () => document.getElementById("view");
  if (!view()) return;
  let timer;
  async function round() {
    clearTimeout(timer);
    if (!document.hidden && !busy()) await look(view());
    clearTimeout(timer); // another round may have begun meanwhile
    timer = setTimeout(round, Math.min(PAUSE * 2 ** failures, LONGEST_PAUSE));
  }
  document.addEventListener("visibilitychange", () => document.hidden || round());
  timer = setTimeout(round, PAUSE);
  keepHostUpToDate(changed);
}

function keepHostUpToDate(changed) {
  if (!document.getElementById("host")) return;
  setTimeout(async () => {
    if (!document.hidden && !busy()) await lookAtHost(changed);
    keepHostUpToDate(changed);
  }, HOST_PAUSE);
}

async function lookAtHost(changed) {
  const place = document.getElementById("host");
  const answer = await get(place.dataset.watch, "text/html", hostTag ? { "If-None-Match": hostTag } : {});
  const text = answer?.ok && (await answer.text().catch(() => null)); // 304: as it is shown
  const fresh = text && new DOMParser().parseFromString(text, "text/html").getElementById("host");
  if (!fresh || busy()) return;
  keepingPlace(() => replace(place, fresh));
  hostTag = answer.headers.get("ETag");
  changed();
}

// A person who selects text keeps it, and so does one who holds a slider or the picture.
function busy() {
  if (document.querySelector("#xray :active, .is-held")) return true;
  const selection = document.getSelection();
  return !selection.isCollapsed && document.getElementById("main").contains(selection.anchorNode);
}

async function look(view) {
  const answer = await get(view.dataset.watch, "application/json");
  const fine = answer?.status === 204 || (answer?.ok && (await refresh(view)));
  failures = fine ? 0 : failures + 1;
  const lost = failures > 2 ? "No connection. This may be out of date." : "";
  const place = document.getElementById("lost");
  if (place.textContent !== lost) place.textContent = lost;
}

// The answer, or null when the server cannot be reached.
function get(address, type, headers = {}) {
  return fetch(address, { headers: { Accept: type, ...headers }, cache: "no-store" }).catch(() => null);
}

// Shows another view of the worklist, without leaving the page.
export async function show(address) {
  history.replaceState(null, "", address);
  return refresh(document.getElementById("view"));
}

async function refresh(view) {
  const address = location.href;
  const answer = await get(address, "text/html");
  if (answer?.status === 404) location.reload(); // the X-ray was forgotten
  const text = answer?.ok && (await answer.text().catch(() => null));
  if (!text) return false;
  if (busy() || address !== location.href) return true; // the next round does it
  const next = new DOMParser().parseFromString(text, "text/html");
  keepingPlace(() => {
    for (const fresh of next.querySelectorAll("[data-live]")) {
      const old = document.getElementById(fresh.id);
      if (fresh.dataset.live === "rows") mergeRows(old, fresh);
      else replace(old, fresh);
    }
  });
  view.dataset.watch = next.getElementById("view").dataset.watch;
  hostTag = ""; // the panel came along, and may be another one
  changed();
  return true;
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
    return old.replaceChildren(...fresh.childNodes);
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
  old.querySelector(".rest")?.remove();
  const rest = fresh.querySelector(".rest");
  if (rest) list.after(rest);
  return undefined;
}

// Keeps the row under the pointer, or else that at the top of the window, where it is; and the focus.
function keepingPlace(change) {
  const focus = document.activeElement;
  const [id, key] = [focus?.id, focus?.closest("[data-key]")?.dataset.key];
  const anchor = document.querySelector(".row:hover") ?? (scrollY > 0 ? [...document.querySelectorAll(".row")].find(visible) : undefined);
  const top = anchor?.getBoundingClientRect().top;
  change();
  if (focus && !focus.isConnected) {
    const again = key ? rowOf(key)?.querySelector("a") : document.getElementById(id);
    again?.focus({ preventScroll: true });
  }
  const now = anchor && (anchor.isConnected ? anchor : rowOf(anchor.dataset.key));
  if (now) scrollBy({ top: now.getBoundingClientRect().top - top, behavior: "instant" });
}

function visible(row) {
  return row.getBoundingClientRect().bottom > document.querySelector("header").offsetHeight;
}

function rowOf(key) {
  return [...document.querySelectorAll(".row")].find((row) => row.dataset.key === key);
}
