// The entry: theme, times, search, keys and copy buttons of every page. Everything can be read without script.
import { markFocused, momentOf, noteSeen, showDates, showSelection, startList } from "./list.js";
import { isMoving, keepUpToDate, show, showXray } from "./live.js";
import { look as lookForNews, startNotices } from "./notices.js";
import { startUploads } from "./upload.js";
import { KEYS, startViewer } from "./viewer.js";

// Ids of the links and buttons that keys press.
const LINKS = { ArrowLeft: "previous", ArrowRight: "next", k: "previous", j: "next", Escape: "back", 1: "say-1", 2: "say-2", 3: "say-3", u: "undo" };
const STEPS = { j: 1, k: -1 }; // through the rows of the worklist
const TICK = 5000; // milliseconds between updates of the times
const SEARCH_PAUSE = 200; // milliseconds without a key before the search is sent
const DAY = 86400; // seconds
const UNITS = [["d", DAY], ["h", 3600], ["min", 60], ["s", 1]];

// How a <time> is written, by its data-style.
const STYLES = {
  ago: (moment, seconds) => (seconds > 7 * DAY ? day(moment) : ago(seconds)),
  for: (_, seconds) => (seconds < 1 ? "" : `for ${rough(seconds)}`),
  both: (moment, seconds) => `${exact(moment)} (${seconds > 7 * DAY ? `${Math.floor(seconds / DAY)} d ago` : ago(seconds)})`,
};

startTheme();
startContent();
startSearch();
startUploads();
startKeys();
startReview();
startFullScreen();
startNotices();
startList();
setInterval(showTimes, TICK);
keepUpToDate(startContent);

// Starts what the page holds now; called again whenever the content is refreshed.
function startContent() {
  showTimes();
  showDates();
  showSelection();
  noteSeen();
  startViewer();
  startVerdict();
  lookForNews();
}

// Theme

function startTheme() {
  document.getElementById("theme").addEventListener("click", switchTheme);
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", followSystem);
  nameTheme();
}

// The system's theme is followed until the reader has chosen one.
function followSystem({ matches }) {
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage is switched off: nothing was chosen.
  }
  if (chosen) return;
  document.documentElement.dataset.theme = matches ? "light" : "dark";
  nameTheme();
}

function switchTheme() {
  const theme = document.documentElement.dataset.theme === "light" ? "dark" : "light";
  document.documentElement.dataset.theme = theme;
  nameTheme();
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage is switched off: the choice lasts as long as the page.
  }
}

function nameTheme() {
  const other = document.documentElement.dataset.theme === "light" ? "Dark theme" : "Light theme";
  const button = document.getElementById("theme");
  button.title = other;
  button.querySelector(".unseen").textContent = other;
}

// Times, relative and in the viewer's time zone

function showTimes() {
  for (const element of document.querySelectorAll("time")) {
    const moment = new Date(element.dateTime);
    const text = STYLES[element.dataset.style](moment, (Date.now() - moment) / 1000);
    if (element.textContent !== text) element.textContent = text;
    element.title = exact(moment);
  }
  for (const hour of document.querySelectorAll("[data-hour]")) {
    hour.querySelector("title").textContent = `${exact(new Date(hour.dataset.hour))}: ${hour.dataset.found}`;
  }
}

function ago(seconds) {
  return seconds < 5 ? "just now" : `${rough(seconds)} ago`;
}

function rough(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? UNITS.at(-1);
  return `${Math.floor(seconds / length)} ${unit}`;
}

function day(moment) {
  return moment.toLocaleDateString(undefined, { dateStyle: "medium" });
}

function exact(moment) {
  return moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

// Search while typing: the address bar always holds the search, as if the form had been submitted

function startSearch() {
  const form = document.getElementById("search");
  if (!form) return;
  const field = form.elements.search;
  let timer, before = ""; // the address shown last
  const send = () => {
    clearTimeout(timer);
    const address = addressOf(form);
    show(address, !before); // only the first search adds to the history: Back leads to the page before it
    before = address;
  };
  addEventListener("popstate", () => location.reload());
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(send, SEARCH_PAUSE);
  });
  for (const name of ["from", "to"]) form.elements[name].addEventListener("change", send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest?.("textarea, select, input")) return;
    event.preventDefault();
    field.select();
  });
}

function addressOf(form) {
  const query = new URLSearchParams(new FormData(form));
  for (const [name, isEnd] of [["from", false], ["to", true]]) query.set(name, momentOf(query.get(name), isEnd));
  for (const name of ["search", "from", "to"]) if (!query.get(name)) query.delete(name);
  return `${form.getAttribute("action")}${query.size ? `?${query}` : ""}`;
}

// Keys of the viewer and keys that follow links; ignored while a person types

function startKeys() {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest?.("textarea, select, input:not([type=range], [type=checkbox])")) return;
    (KEYS[key] ?? KEYS[key.toLowerCase()])?.();
    // A slider uses the arrow keys itself, and an open list uses Escape.
    if (event.shiftKey || target.closest?.("input[type=range]") || document.querySelector(":popover-open") || (key === "Escape" && document.fullscreenElement)) return;
    if (event.repeat && "123u".includes(key)) return; // a key that is held down answers no further X-ray
    if (key === "n" && document.getElementById("note")) {
      event.preventDefault(); // the letter is not part of the note
      document.getElementById("note").select();
    } else if (key === "x") markFocused();
    else if (STEPS[key] && document.querySelector(".row")) stepThroughRows(STEPS[key]);
    else document.getElementById(LINKS[key] ?? LINKS[key.toLowerCase()])?.click();
  });
}

function stepThroughRows(step) {
  const names = [...document.querySelectorAll(".row a.name")];
  const here = names.indexOf(document.activeElement?.closest(".row")?.querySelector("a.name"));
  const there = here < 0 ? (step > 0 ? 0 : names.length - 1) : here + step;
  names[there]?.focus();
}

// The answer about a verdict: sent once, even when a key is pressed twice; Enter ends the note

let isSent = false;

function startReview() {
  addEventListener("pageshow", () => (isSent = isLeaving = false)); // also when Back brings the page as it was
  document.addEventListener("submit", (event) => {
    const { target: form, submitter } = event;
    if (!form.matches("[data-once]")) return;
    if (isSent || isMoving()) return event.preventDefault();
    isSent = true;
    if (!document.fullscreenElement || isLeaving) return;
    event.preventDefault();
    const body = new URLSearchParams(new FormData(form, submitter));
    const address = submitter?.getAttribute("formaction") ?? form.action;
    goTo(address, { method: "POST", body }, () => form.requestSubmit(submitter));
  });
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (target.id !== "note" || event.isComposing || !["Enter", "Escape"].includes(key)) return;
    event.preventDefault();
    const save = key === "Enter" && document.getElementById("note-save");
    if (save) save.click();
    else target.blur();
  });
}

// Full screen ends when the page is left, so the next X-ray comes to the page instead

function startFullScreen() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#previous, #next");
    if (!link || !(document.fullscreenElement || isMoving())) return;
    event.preventDefault();
    if (!isMoving() && !isSent) goTo(link.href);
  });
}

let isLeaving = false; // the next request is the browser's own, and ends full screen
let hasMoved = false; // then Back leads to another X-ray without leaving the page

// Shows an X-ray in full screen. Where that fails, leaves the page as without full screen, which says what is wrong.
async function goTo(address, request = {}, leave = () => location.assign(address)) {
  const came = await showXray(address, request);
  isSent = false;
  isLeaving = !came;
  if (isLeaving) return leave();
  if (!hasMoved) addEventListener("popstate", () => (document.fullscreenElement && !isMoving() ? goTo(location.href) : location.reload()));
  hasMoved = true;
}

// Buttons that copy a hash or the verdict, or download the verdict

function startVerdict() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.onclick = () => copy(document.getElementById(button.dataset.copies), button.firstElementChild);
  }
  const button = document.getElementById("json-download");
  if (button) button.onclick = () => download(document.getElementById("json-text").textContent, button.dataset.name);
}

async function copy(text, word) {
  try {
    await navigator.clipboard.writeText(text.textContent);
    word.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text); // no clipboard outside a secure context: select it for Ctrl-C
    word.textContent = "Selected";
  }
  setTimeout(() => (word.textContent = "Copy"), 2000);
}

function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
