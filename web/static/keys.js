// Single keys that call something or follow a link, by its id; but not while a person types.
export function startKeys(actions, links) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest?.("textarea, select, input:not([type=range])")) return;
    (actions[key] ?? actions[key.toLowerCase()])?.();
    // A slider has its own use for arrows, and an open list for Escape.
    if (event.shiftKey || target.closest?.("input") || document.querySelector(":popover-open")) return;
    document.getElementById(links[key])?.click();
  });
}
