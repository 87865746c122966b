// Times as a person says them, in the viewer's zone.
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
const DAY = 86400;

export function showTimes() {
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

const STYLES = {
  ago: (moment, seconds) => (seconds > 7 * DAY ? day(moment) : ago(seconds)),
  for: (_, seconds) => (seconds < 1 ? "for a moment" : `for ${rough(seconds)}`),
  both: (moment, seconds) => `${exact(moment)} (${seconds > 7 * DAY ? `${Math.floor(seconds / DAY)} d ago` : ago(seconds)})`,
};

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
