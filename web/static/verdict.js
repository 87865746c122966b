// Copies the verdict and its hashes, downloads the verdict.
export function startVerdict() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.onclick = () => copy(document.getElementById(button.dataset.copies), button.firstElementChild);
  }
  const button = document.getElementById("json-download");
  if (button) button.onclick = () => download(document.getElementById("json-text").textContent, button.dataset.name);
}

async function copy(text, word) {
  try {
    await navigator.clipboard.writeText(text.textContent);
    word.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text); // no clipboard outside a secure context: ready for Ctrl-C
    word.textContent = "Selected";
  }
  setTimeout(() => (word.textContent = "Copy"), 2000);
}

function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
