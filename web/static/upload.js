// Uploads what was chosen, or dropped anywhere on the page, folders too: a few files at a time.
import { acceptDrops } from "./dropped.js";
import { refusal } from "./filetypes.js";
import { send } from "./send.js";
import { addLine, closeUploads, showOverall, showUploads, tell } from "./uploads.js";

const AT_ONCE = 3;
const queue = [];
const atWork = new Map(); // by path: two files of one path do not race for its name
const counted = {};
let stop = new AbortController();

export function startUploads() {
  const form = document.getElementById("upload");
  if (!form) return;
  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      add([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      input.value = "";
    });
  }
  document.getElementById("uploads-cancel").addEventListener("click", cancel);
  document.getElementById("uploads-close").addEventListener("click", close);
  addEventListener("beforeunload", (event) => isOver() || event.preventDefault());
  reset();
  acceptDrops(add);
}

async function add(files) {
  // Folders hold files of the system's own, which nobody meant.
  const meant = files.filter(({ path }) => files.length === 1 || !path.split("/").some((part) => part.startsWith(".")));
  if (!meant.length) return;
  if (isOver()) close();
  counted.all += meant.length;
  for (const { file } of meant) counted.bytes += file?.size ?? 0;
  showUploads();
  show();
  const limit = Number(document.getElementById("upload").dataset.limit);
  const { signal } = stop;
  for (const item of meant) {
    const reason = await refusal(item.file, limit);
    if (signal.aborted) return;
    if (reason) finish(item, { error: reason });
    else {
      queue.push(item);
      work();
    }
  }
}

function work() {
  while (atWork.size < AT_ONCE) {
    const next = queue.findIndex(({ path }) => !atWork.has(path));
    if (next < 0) return;
    upload(queue.splice(next, 1)[0], stop.signal);
  }
}

async function upload(item, signal) {
  const line = addLine(item.path);
  const job = { size: item.file.size, share: 0 };
  atWork.set(item.path, job);
  const progress = (share) => {
    job.share = share;
    line.advance(share);
    show();
  };
  const answer = await send(item, document.getElementById("upload"), progress, signal).catch(() => null);
  line.remove();
  atWork.delete(item.path);
  if (!signal.aborted) finish(item, answer);
  work();
}

function finish({ file, path }, { key, error }) {
  const name = key?.slice("inbox/".length);
  counted[key ? "sent" : "refused"] += 1;
  counted.done += file?.size ?? 0;
  if (!key) tell(path, error, true);
  else if (name !== path) tell(path, `is in the inbox as ${name}`, false);
  show();
}

function cancel() {
  queue.length = 0;
  counted.cancelled = counted.all - counted.sent - counted.refused;
  stop.abort();
  stop = new AbortController();
  show();
}

function close() {
  closeUploads();
  reset();
}

function reset() {
  Object.assign(counted, { all: 0, sent: 0, refused: 0, cancelled: 0, bytes: 0, done: 0 });
}

function isOver() {
  return counted.sent + counted.refused + counted.cancelled === counted.all;
}

function show() {
  let done = counted.done;
  for (const { size, share } of atWork.values()) done += size * share;
  showOverall(counted, counted.bytes ? done / counted.bytes : 0);
}
