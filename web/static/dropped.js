// Takes files that are dropped anywhere on the page, those in dropped folders included, each with its path.
export function acceptDrops(take) {
  let depth = 0; // dragenter and dragleave come for every element on the way
  const hover = (by) => {
    depth = by ? depth + by : 0;
    document.body.classList.toggle("is-dragging", depth > 0);
  };
  const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
  addEventListener("dragenter", (event) => carriesFiles(event) && hover(1));
  addEventListener("dragleave", (event) => carriesFiles(event) && hover(-1));
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    hover(0);
    take(await filesOf(event.dataTransfer));
  });
}

async function filesOf(transfer) {
  // Entries must be asked for before the first await: the browser empties the transfer then.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

// What cannot be read has no file: it is said, not left out.
async function walk(entry) {
  const path = entry.fullPath.slice(1);
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    return [{ file, path }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve(null)));
    if (!some) return [...found, { file: null, path }];
    if (!some.length) return found; // a reader gives a hundred at a time
    for (const child of some) found.push(...(await walk(child)));
  }
}
