// The worklist: which rows are selected, the dates of its filter, and the place in it that a reader returns to.
const marked = new Set(); // names of the selected rows; kept while rows refresh
let view; // the view that they belong to
let last; // the checkbox that was changed last: Shift selects from there

export function startList() {
  const form = document.getElementById("selected");
  if (!form) return;
  document.addEventListener("click", (event) => {
    const box = event.target;
    if (box.id === "select-page") boxes().forEach((one) => (one.checked = box.checked));
    else if (!box.matches?.(".row .mark input")) return;
    else if (event.shiftKey && last?.isConnected) markBetween(last, box);
    if (box.id !== "select-page") last = box;
    noteMarked();
  });
  form.addEventListener("change", showMarked);
  form.addEventListener("submit", (event) => {
    // The search changes the address without a reload; the request is about the view that is shown.
    const { pathname } = new URL(event.submitter?.formAction || form.action, location.href);
    event.submitter?.setAttribute("formaction", pathname + location.search);
  });
  addEventListener("pagehide", rememberPlace);
  addEventListener("pageshow", noteMarked); // Back brings the boxes as they were
  returnToPlace();
}

// Shows the selection again after the rows changed.
export function showSelection() {
  const list = document.getElementById("list");
  if (!list) return;
  if (view !== list.dataset.view) marked.clear();
  view = list.dataset.view;
  for (const box of boxes()) box.checked = marked.has(box.value);
  noteMarked();
}

export function markFocused() {
  document.activeElement?.closest(".row")?.querySelector(".mark input")?.click();
}

const boxes = () => [...document.querySelectorAll(".row .mark input")];

function markBetween(from, to) {
  const all = boxes();
  const [low, high] = [all.indexOf(from), all.indexOf(to)].sort((a, b) => a - b);
  for (const box of all.slice(low, high + 1)) box.checked = to.checked;
}

function noteMarked() {
  marked.clear();
  for (const box of boxes()) if (box.checked) marked.add(box.value);
  showMarked();
}

function showMarked() {
  const whole = document.getElementById("select-all");
  if (whole && !marked.size) whole.checked = false;
  const all = whole?.checked;
  const page = document.getElementById("select-page");
  page.checked = marked.size > 0 && marked.size === boxes().length;
  page.indeterminate = marked.size > 0 && !page.checked;
  document.getElementById("selected").classList.toggle("is-on", marked.size > 0);
  const count = document.getElementById("selected-count");
  const text = all || !marked.size ? "" : `${marked.size} selected`;
  if (count.textContent !== text) count.textContent = text;
}

// Dates: chosen as days here, and sent as times

export function showDates() {
  for (const field of document.querySelectorAll("input[data-moment]")) {
    field.value = localDay(new Date(field.dataset.moment));
    delete field.dataset.moment;
  }
}

// Returns the beginning of a local day, or of the one after it, as the address has it.
export function momentOf(day, isEnd) {
  const moment = new Date(`${day}T00:00`);
  if (isEnd) moment.setDate(moment.getDate() + 1);
  return Number.isNaN(moment.getTime()) ? "" : `${moment.toISOString().slice(0, 16)}Z`;
}

function localDay(moment) {
  const two = (number) => String(number).padStart(2, "0");
  return `${String(moment.getFullYear()).padStart(4, "0")}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
}

// The place: how far the list was scrolled, for the way back from an X-ray

function rememberPlace() {
  store("place", JSON.stringify({ view: location.search, top: scrollY }));
}

function returnToPlace() {
  const [from, at] = [document.referrer && new URL(document.referrer), read("place")];
  if (from?.origin !== location.origin || !from.pathname.startsWith("/xray/")) return;
  const place = at && JSON.parse(at);
  if (place?.view === location.search) scrollTo({ top: place.top, behavior: "instant" });
  const seen = read("seen");
  const row = [...document.querySelectorAll(".row")].find((one) => one.dataset.key === seen);
  row?.querySelector("a.name")?.focus({ preventScroll: true });
  row?.scrollIntoView({ block: "nearest", behavior: "instant" });
}

// Notes which X-ray is open, so that its row has the focus on return.
export function noteSeen() {
  const name = document.querySelector("#xray[data-key]")?.dataset.key;
  if (name) store("seen", name);
}

function store(name, value) {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // Storage is switched off: the way back leads to the top of the list.
  }
}

function read(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}
