// The files of a drop, those in dropped folders included, each with its path.
export async function filesOf(transfer) {
  // Entries must be asked for before the first await: the browser empties the transfer then.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    return file ? [{ file, path: entry.fullPath.slice(1) }] : [];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return found; // a reader gives a hundred at a time
    for (const child of some) found.push(...(await walk(child)));
  }
}
