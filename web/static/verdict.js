// Copy and download of the whole verdict.
export function startVerdict() {
  const text = document.getElementById("json-text");
  if (!text) return;
  document.getElementById("json-copy").onclick = ({ target }) => copy(text, target);
  document.getElementById("json-download").onclick = ({ target }) => download(text.textContent, target.dataset.name);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text); // no clipboard outside a secure context: ready for Ctrl-C
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
