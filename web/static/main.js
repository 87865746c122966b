// The page's script: everything works to read without it.
import { startKeys } from "./keys.js";
import { keepUpToDate } from "./live.js";
import { startSearch } from "./search.js";
import { showTimes } from "./time.js";
import { startUploads } from "./upload.js";
import { KEYS, startViewer } from "./viewer.js";
import { startVerdict } from "./verdict.js";

const LINKS = { ArrowLeft: "previous", ArrowRight: "next", Escape: "back" };

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
nameTheme();
start();
startSearch();
startUploads();
startKeys(KEYS, LINKS);
setInterval(showTimes, 5000);
keepUpToDate(start);
