// The page's script: everything works to read without it.
import { keepUpToDate } from "./live.js";
import { startSearch } from "./search.js";
import { showTimes } from "./time.js";
import { startUploads } from "./upload.js";
import { startViewer, toggleMap } from "./viewer.js";
import { startVerdict } from "./verdict.js";

function start() {
  showTimes();
  startViewer();
  startVerdict();
}

function switchTheme() {
  const light = document.documentElement.dataset.theme !== "light";
  document.documentElement.dataset.theme = light ? "light" : "dark";
  nameTheme();
  try {
    localStorage.setItem("theme", light ? "light" : "dark");
  } catch {
    // storage is switched off: the choice lasts as long as the page
  }
}

function nameTheme() {
  const other = document.documentElement.dataset.theme === "light" ? "Dark theme" : "Light theme";
  const button = document.getElementById("theme");
  button.title = other;
  button.querySelector(".unseen").textContent = other;
}

document.getElementById("theme").addEventListener("click", switchTheme);
const LINKS = { ArrowLeft: "previous", ArrowRight: "next", Escape: "back" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.target.closest?.("textarea, select, input")) return;
  if (event.key === "h") toggleMap();
  document.getElementById(LINKS[event.key])?.click();
});
nameTheme();
start();
startSearch();
startUploads();
setInterval(showTimes, 5000);
keepUpToDate(start);
