// A classic script, not a module, so that it runs before the first paint: marks that there is script, and sets
// the theme chosen last, else the system's (as the styles do by themselves where there is no script).
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage is switched off: nothing was chosen.
  }
  const isLight = chosen ? chosen === "light" : matchMedia("(prefers-color-scheme: light)").matches;
  root.dataset.theme = isLight ? "light" : "dark";
})();
