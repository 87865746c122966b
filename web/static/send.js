// The way of one file into the inbox: straight into the bucket where the page gives a ticket, else through the page.
const DEADLINE = 15 * 60 * 1000; // milliseconds, of one file
const BROKE_OFF = { error: "The upload broke off. Try again." };

let bucketAnswers = true; // until it does not: it may not know this page's address (CORS)

// The key, or the reason against the file. Throws when `signal` says that it was cancelled.
export async function send({ file, path }, form, progress, signal) {
  const key = form.dataset.ticket && bucketAnswers && (await sendToBucket(file, path, form, progress, signal));
  if (key) return { key };
  const data = new FormData();
  data.append("files", file, path);
  const { status, response } = await post(form.action, data, progress, signal);
  return (status && response) || BROKE_OFF;
}

// The key, or null: then the page takes the file, or says why not.
async function sendToBucket(file, path, form, progress, signal) {
  const ticket = await ask(form.dataset.ticket, { name: path, size: file.size }, signal);
  if (!ticket) return null;
  const data = new FormData();
  for (const [name, value] of Object.entries(ticket.fields)) data.append(name, value);
  data.append("file", file); // the last: S3 reads no field after it
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

// Status 0 when there was no answer. Not `fetch`, which tells nothing of an upload's progress.
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
