// A classic script, not a module, so that it runs before the first paint: marks that there is script, and sets
// the theme chosen last. Dark is the default.
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  try {
    if (localStorage.getItem("theme") === "light") root.dataset.theme = "light";
  } catch {
    // Storage is switched off: the default stays.
  }
})();
