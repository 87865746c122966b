// Notifications of the browser, by the reader's choice: X-rays of the list that became pneumonia, or failed.
const CHOICE = "notices"; // in the browser's storage
const TELLS = ["pneumonia", "failed"];

let isOn = false;
let known = new Map(); // state of each row seen, by its key
let last = 0; // number of the last change seen

// Blind mode and pages without a list have no button: nothing is told there.
export function startNotices() {
  const button = document.getElementById("notify");
  if (!button || !("Notification" in window) || !window.isSecureContext) return;
  button.hidden = false;
  button.addEventListener("click", choose);
  isOn = stored() && Notification.permission === "granted";
  look();
  showChoice();
}

export function isNoticing() {
  return isOn;
}

// Tells of what is new; called whenever the content was refreshed.
export function look() {
  const until = last;
  const fresh = {};
  for (const row of document.querySelectorAll(".row[data-key]")) {
    const { key, state, change } = row.dataset;
    const isNews = until && Number(change) > until && known.get(key) !== state;
    if (isNews && TELLS.includes(state)) fresh[state] = (fresh[state] ?? 0) + 1;
    known.set(key, state);
    last = Math.max(last, Number(change));
  }
  last = Math.max(last, lastChange());
  if (isOn && Object.keys(fresh).length) tell(fresh);
}

function lastChange() {
  const watched = document.getElementById("view")?.dataset.watch ?? "";
  return Number(new URLSearchParams(watched.split("?")[1]).get("since"));
}

function tell(fresh) {
  const total = Object.values(fresh).reduce((sum, count) => sum + count);
  const words = TELLS.filter((state) => fresh[state]).map((state) => (total === fresh[state] ? state : `${fresh[state]} ${state}`));
  const text = `${total} new X-ray${total === 1 ? "" : "s"}: ${words.join(", ")}`;
  try {
    // One tag for each change: the same news of several tabs is one notification.
    const notice = new Notification(text, { body: "Not for diagnosis.", tag: `cxr-${last}` });
    notice.onclick = () => {
      window.focus();
      notice.close();
    };
  } catch {
    isOn = false; // a browser that has them in service workers only
    showChoice();
  }
}

async function choose() {
  isOn = !isOn && (await Notification.requestPermission()) === "granted";
  store(isOn);
  showChoice();
}

function showChoice() {
  const button = document.getElementById("notify");
  button.setAttribute("aria-pressed", String(isOn));
  button.title = Notification.permission === "denied" ? "Notifications of this page are blocked in the browser's settings" : "Show a notification when an X-ray becomes pneumonia or fails, while this page is open";
}

function stored() {
  try {
    return localStorage.getItem(CHOICE) === "on";
  } catch {
    return false;
  }
}

function store(on) {
  try {
    if (on) localStorage.setItem(CHOICE, "on");
    else localStorage.removeItem(CHOICE);
  } catch {
    // Storage is switched off: the choice lasts as long as the page.
  }
}
