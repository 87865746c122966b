// Shows what the search finds while it is typed; the address bar holds it, as if the form had been sent.
import { show } from "./live.js";

const PAUSE = 200; // milliseconds without a key

export function startSearch() {
  const form = document.getElementById("search");
  if (!form) return;
  const field = form.elements.search;
  let timer, before = ""; // the view that was asked for last
  const send = () => {
    const asked = address(form);
    show(asked, !before); // Back leads to the view before the first key
    before = asked;
  };
  addEventListener("popstate", () => location.reload());
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(send, PAUSE);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest?.("textarea, select, input")) return;
    event.preventDefault();
    field.select();
  });
}

function address(form) {
  const asked = new URLSearchParams(new FormData(form));
  if (!asked.get("search")) asked.delete("search");
  return `${form.getAttribute("action")}${asked.size ? `?${asked}` : ""}`;
}
