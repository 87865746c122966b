// Uploads one file after the other, with its progress: chosen, or dropped anywhere on the page, folders too.
import { filesOf } from "./dropped.js";

const queue = [];
const counted = { sent: 0, failed: 0, all: 0 };
let sending = false;

export function startUploads() {
  const form = document.getElementById("upload");
  if (!form) return;
  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      add([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      input.value = "";
    });
  }
  document.querySelector("#uploads button").addEventListener("click", close);
  acceptDrops();
}

// A file that the worklist shows needs no line of its own any more.
export function uploadsSeen() {
  const keys = new Set([...document.querySelectorAll(".row")].map((row) => row.dataset.key));
  for (const line of document.querySelectorAll("#uploads li.is-done")) {
    if (keys.has(line.dataset.uploaded)) line.remove();
  }
  showOverall();
}

function acceptDrops() {
  let depth = 0; // dragenter and dragleave come for every element on the way
  const hover = (by) => {
    depth = by ? depth + by : 0;
    document.body.classList.toggle("is-dragging", depth > 0);
  };
  const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
  addEventListener("dragenter", (event) => carriesFiles(event) && hover(1));
  addEventListener("dragleave", (event) => carriesFiles(event) && hover(-1));
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    hover(0);
    add(await filesOf(event.dataTransfer));
  });
}

function add(files) {
  // Folders hold files of the system's own, which nobody meant.
  const meant = files.filter(({ path }) => files.length === 1 || !path.split("/").some((part) => part.startsWith(".")));
  queue.push(...meant);
  counted.all += meant.length;
  document.getElementById("uploads").hidden = counted.all === 0;
  if (!sending) send();
}

async function send() {
  sending = true;
  while (queue.length) {
    const { file, path } = queue.shift();
    const line = showLine(path);
    const answer = await post(file, path, line.querySelector("progress"));
    counted[answer.key ? "sent" : "failed"] += 1;
    finish(line, path, answer);
  }
  sending = false;
}

function post(file, path, progress) {
  const form = document.getElementById("upload");
  const limit = Number(form.dataset.limit);
  if (file.size > limit) return { error: `The file is larger than ${Math.round(limit / 1e6)} MB. Export it as a JPEG or PNG.` };
  const data = new FormData();
  data.append("files", file, path);
  const request = new XMLHttpRequest();
  return new Promise((resolve) => {
    request.upload.onprogress = (event) => (progress.value = event.loaded / event.total);
    request.onerror = () => resolve({ error: "The upload broke off. Try again." });
    request.onload = () => resolve(request.response ?? { error: "The answer was not understood. Try again." });
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "application/json");
    request.responseType = "json";
    request.send(data);
  });
}

function showLine(path) {
  const line = document.createElement("li");
  const name = document.createElement("bdi");
  name.textContent = path;
  const progress = document.createElement("progress");
  progress.max = 1;
  progress.value = 0;
  progress.setAttribute("aria-label", `Upload of ${path}`);
  line.append(name, progress);
  document.querySelector("#uploads ul").append(line);
  showOverall();
  return line;
}

function finish(line, path, { key, error }) {
  const word = document.createElement("span");
  const name = key?.slice("inbox/".length);
  word.textContent = error ?? (name === path ? "in the inbox" : `in the inbox as ${name}`);
  line.querySelector("progress").replaceWith(word);
  line.classList.add(error ? "is-refused" : "is-done");
  if (key) line.dataset.uploaded = key;
  uploadsSeen();
}

function showOverall() {
  const section = document.getElementById("uploads");
  if (!section) return;
  const failed = counted.failed ? `, ${counted.failed} refused` : "";
  section.querySelector("[role=status]").textContent = `${counted.sent} of ${counted.all} uploaded${failed}`;
  const over = counted.sent + counted.failed === counted.all;
  section.querySelector("button").hidden = !over;
  if (over && !section.querySelector("li")) close();
}

function close() {
  document.getElementById("uploads").hidden = true;
  document.querySelector("#uploads ul").replaceChildren();
  Object.assign(counted, { sent: 0, failed: 0, all: 0 });
}
