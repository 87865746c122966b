// The page's script: everything works to read without it.
import { keepUpToDate } from "./live.js";
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
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("textarea, select, input:not([type=range])");
  if (event.key === "h" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) toggleMap();
});
nameTheme();
start();
startUploads();
setInterval(showTimes, 5000);
keepUpToDate(start);
