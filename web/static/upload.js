// Uploads: files that were chosen, or dropped anywhere on the page, folders too; a few at a time.
const AT_ONCE = 3;
const LINGER = 4000; // milliseconds until a list without problems closes itself
const DEADLINE = 15 * 60 * 1000; // milliseconds for one file
const BROKEN_OFF = { error: "The upload was interrupted. Try again.", failed: true };

const queue = [];
const atWork = new Map(); // by path: two files with the same path are not sent at once
const counted = {};
let stop = new AbortController();
let closing; // the timer that closes the list
let bucketAnswers = true; // until it does not: its CORS rules may not allow this page

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
  acceptDrops();
}

// The queue

async function add(files) {
  // Skip the operating system's hidden files in folders: nobody meant to upload them.
  const meant = files.filter(({ path }) => files.length === 1 || !path.split("/").some((part) => part.startsWith(".")));
  if (!meant.length) return;
  if (isOver()) close();
  counted.all += meant.length;
  for (const { file } of meant) counted.bytes += file?.size ?? 0;
  openList();
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

function finish({ file, path }, { key, existed, error, failed }) {
  const name = key?.slice("inbox/".length);
  counted[existed ? "existed" : key ? "sent" : failed ? "failed" : "refused"] += 1;
  counted.done += file?.size ?? 0;
  if (!key) tell(path, error, true);
  else if (existed) tell(path, name === path ? "is already there" : `is already there as ${name}`, false);
  else if (name !== path) tell(path, `was saved as ${name}`, false);
  show();
}

function cancel() {
  queue.length = 0;
  counted.cancelled = counted.all - finished();
  stop.abort();
  stop = new AbortController();
  show();
}

function close() {
  closeList();
  reset();
}

function reset() {
  Object.assign(counted, { all: 0, sent: 0, existed: 0, refused: 0, failed: 0, cancelled: 0, bytes: 0, done: 0 });
}

function isOver() {
  return finished() + counted.cancelled === counted.all;
}

function finished() {
  return counted.sent + counted.existed + counted.refused + counted.failed;
}

// Sending one file: straight to the bucket where the page hands out tickets, else through the page

// Returns the key, or why the file was refused, or why sending it failed. Throws when `signal` says that it was cancelled.
async function send({ file, path }, form, progress, signal) {
  const key = form.dataset.ticket && bucketAnswers && (await sendToBucket(file, path, form, progress, signal));
  if (key) return { key };
  const data = new FormData();
  data.append("files", file, path);
  const { status, response } = await post(form.action, data, progress, signal);
  const answer = (status && response) || BROKEN_OFF;
  return status < 500 ? answer : { ...answer, failed: true }; // the page's fault, not the file's
}

// Returns the key, or null: then the page takes the file, or says why not.
async function sendToBucket(file, path, form, progress, signal) {
  const ticket = await ask(form.dataset.ticket, { name: path, size: file.size }, signal);
  if (!ticket) return null;
  const data = new FormData();
  for (const [name, value] of Object.entries(ticket.fields)) data.append(name, value);
  data.append("file", file); // must be last: S3 ignores the fields after it
  const { status } = await post(ticket.url, data, progress, signal);
  bucketAnswers = status !== 0;
  return status >= 200 && status < 300 ? ticket.key : null;
}

async function ask(address, question, signal) {
  try {
    const answer = await fetch(address, {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify(question),
      signal: AbortSignal.any([signal, AbortSignal.timeout(DEADLINE)]),
    });
    return answer.ok ? await answer.json() : null;
  } catch {
    signal.throwIfAborted();
    return null;
  }
}

// Returns the finished request; status 0 when there was no answer. `fetch` would not report the progress.
function post(address, data, progress, signal) {
  const request = new XMLHttpRequest();
  const cancel = () => request.abort();
  return new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onabort = () => reject(signal.reason);
    request.onerror = request.ontimeout = () => resolve({ status: 0 });
    request.onload = () => resolve(request);
    request.open("POST", address);
    request.setRequestHeader("Accept", "application/json");
    request.responseType = "json";
    request.timeout = DEADLINE;
    signal.addEventListener("abort", cancel);
    request.send(data);
  }).finally(() => signal.removeEventListener("abort", cancel));
}

// The list on the page: files being sent, messages about single files, and one line for everything

const part = (selector) => document.querySelector(`#uploads ${selector}`);

function openList() {
  clearTimeout(closing);
  document.getElementById("uploads").hidden = false;
}

function closeList() {
  clearTimeout(closing);
  document.getElementById("uploads").hidden = true;
  part(".told").replaceChildren();
  part(".told").hidden = true;
}

function show() {
  const { all, sent, existed, refused, failed, cancelled, bytes } = counted;
  const more = [[existed, "already there"], [refused, "refused"], [failed, "failed"], [cancelled, "cancelled"]].filter(([count]) => count);
  const words = [`${sent} of ${all} uploaded`, ...more.map(([count, word]) => `${count} ${word}`)].join(", ");
  let done = counted.done;
  for (const { size, share } of atWork.values()) done += size * share;
  const over = isOver();
  part(".overall progress").value = over && !cancelled ? 1 : bytes ? done / bytes : 0;
  part(".count").textContent = words;
  announce(over ? words : `Uploading ${all} file${all === 1 ? "" : "s"}`);
  part("#uploads-cancel").hidden = over;
  part("#uploads-close").hidden = !over;
  clearTimeout(closing);
  if (over && !cancelled && part(".told").hidden) closing = setTimeout(closeList, LINGER);
}

// Adds a line with a progress bar for a file being sent.
function addLine(path) {
  const progress = document.createElement("progress");
  progress.value = 0;
  progress.setAttribute("aria-label", `Upload of ${path}`);
  const line = lineOf(path, progress);
  part(".at-work").append(line);
  return { advance: (share) => (progress.value = share), remove: () => line.remove() };
}

// Adds a message about one file, which stays until the list is closed.
function tell(path, sentence, isRefusal) {
  const word = document.createElement("span");
  word.textContent = sentence;
  const line = lineOf(path, word);
  line.classList.toggle("is-refused", isRefusal);
  part(".told").append(line);
  part(".told").hidden = false;
}

// Tells screen readers the beginning and the end only: they would read every step aloud.
function announce(words) {
  const status = part("[role=status]");
  if (status.textContent !== words) status.textContent = words;
}

function lineOf(path, rest) {
  const line = document.createElement("li");
  const name = document.createElement("bdi");
  name.textContent = path;
  line.append(name, rest);
  return line;
}

// Dropped files and folders, each file with its path

function acceptDrops() {
  let depth = 0; // dragenter and dragleave fire for every element on the way
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

async function filesOf(transfer) {
  // Get the entries before the first await: the browser empties the transfer at that point.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

// Lists the files under an entry; one that cannot be read is listed without its file, so that it is reported.
async function walk(entry) {
  const path = entry.fullPath.slice(1);
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    return [{ file, path }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve(null)));
    if (!some) return [...found, { file: null, path }];
    if (!some.length) return found; // a reader returns a hundred entries at a time
    for (const child of some) found.push(...(await walk(child)));
  }
}

// File types: refuses, before anything is sent, files that are too large or clearly something else.
// Unknown content passes: some DICOM files lack their mark, and the server looks more closely.

const HEAD = 512; // bytes
const DICOM = { at: 128, mark: "DICM" };
const EXPORT = "Export the X-ray as DICOM, PNG or JPEG and upload that.";
const UNPACK = "Unpack it and upload the X-rays in it.";
const CHOOSE = "Choose the X-ray itself.";
const OTHERS = [
  { at: 0, marks: ["%PDF"], what: "a PDF", advice: EXPORT },
  { at: 0, marks: ["PK\x03\x04", "PK\x05\x06"], what: "a ZIP archive or an Office document", advice: UNPACK },
  { at: 0, marks: ["\x1f\x8b", "7z\xbc\xaf", "Rar!", "\xfd7zXZ", "BZh"], what: "an archive", advice: UNPACK },
  { at: 0, marks: ["\xd0\xcf\x11\xe0"], what: "an Office document", advice: EXPORT },
  { at: 4, marks: ["ftyp", "moov", "mdat", "wide"], what: "a video or a HEIC photo", advice: EXPORT },
  { at: 0, marks: ["\x1aE\xdf\xa3"], what: "a video", advice: EXPORT },
  { at: 8, marks: ["AVI ", "WAVE"], what: "a video or an audio file", advice: EXPORT },
  { at: 4, marks: ["jP  "], what: "a JPEG 2000 image outside of DICOM, which is not supported", advice: EXPORT },
  { at: 0, marks: ["MZ", "\x7fELF", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe"], what: "a program", advice: CHOOSE },
];

// Returns the sentence that refuses the file, or null.
export async function refusal(file, limit) {
  if (!file) return "The file or folder cannot be read. Choose it again, or upload a copy.";
  if (file.size > limit) return `The file is larger than ${Math.round(limit / 1e6)} MB. Export it as a JPEG or PNG.`;
  try {
    const head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
    if (!head.length) return "The file is empty. Export the X-ray again and upload that.";
    const other = otherType(head);
    return other && `This is ${other.what}. ${other.advice}`;
  } catch {
    return refusal(null, limit); // the file is gone, or may not be read
  }
}

function otherType(head) {
  const bytes = String.fromCharCode(...head);
  if (bytes.startsWith(DICOM.mark, DICOM.at)) return null; // the bytes before the mark may look like anything
  const known = OTHERS.find(({ at, marks }) => marks.some((mark) => bytes.startsWith(mark, at)));
  if (known) return known;
  const text = textOf(head);
  if (text === null) return null;
  return { what: /^\s*</.test(text) ? "HTML, XML or SVG" : "plain text", advice: EXPORT };
}

// Returns the bytes as text; null where they are not UTF-8, or hold control characters.
function textOf(head) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true }); // may end inside a character
    return /[\0-\x08\x0e-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}
