// What the page shows of uploads: those at work, what has to be said of single files, and one line for all the rest.
const LINGER = 4000; // milliseconds, when all went well

let closing;
const part = (selector) => document.querySelector(`#uploads ${selector}`);

export function showUploads() {
  clearTimeout(closing);
  document.getElementById("uploads").hidden = false;
}

export function closeUploads() {
  clearTimeout(closing);
  document.getElementById("uploads").hidden = true;
  part(".told").replaceChildren();
  part(".told").hidden = true;
}

// A line with a bar for a file at work.
export function addLine(path) {
  const progress = document.createElement("progress");
  progress.value = 0;
  progress.setAttribute("aria-label", `Upload of ${path}`);
  const line = lineOf(path, progress);
  part(".at-work").append(line);
  return { advance: (share) => (progress.value = share), remove: () => line.remove() };
}

// What a person has to know of one file stays until the list is closed.
export function tell(path, sentence, isRefusal) {
  const word = document.createElement("span");
  word.textContent = sentence;
  const line = lineOf(path, word);
  line.classList.toggle("is-refused", isRefusal);
  part(".told").append(line);
  part(".told").hidden = false;
}

export function showOverall({ all, sent, refused, cancelled }, share) {
  const more = [[refused, "refused"], [cancelled, "cancelled"]].filter(([count]) => count);
  const words = [`${sent} of ${all} uploaded`, ...more.map(([count, word]) => `${count} ${word}`)].join(", ");
  const over = sent + refused + cancelled === all;
  part(".overall progress").value = over && !cancelled ? 1 : share;
  part(".count").textContent = words;
  announce(over ? words : `Uploading ${all} file${all === 1 ? "" : "s"}`);
  part("#uploads-cancel").hidden = over;
  part("#uploads-close").hidden = !over;
  clearTimeout(closing);
  if (over && !cancelled && part(".told").hidden) closing = setTimeout(closeUploads, LINGER);
}

// For screen readers, which would read every step aloud.
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
