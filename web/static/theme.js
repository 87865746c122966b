// Runs before the first paint: says that there is script, and sets the theme that was chosen last. Dark is the default.
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  try {
    if (localStorage.getItem("theme") === "light") root.dataset.theme = "light";
  } catch {
    // storage is switched off: the default stays
  }
})();
