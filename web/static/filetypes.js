// Says before anything is sent why a file cannot be taken: its size, or content that clearly is something else.
// Unknown content passes: DICOM files exist without their mark, and whoever judges looks closely.
const HEAD = 512; // bytes
const DICOM = { at: 128, mark: "DICM" };
const EXPORT = "Export the X-ray as DICOM, PNG or JPEG and upload that.";
const UNPACK = "Unpack it and upload the X-rays in it.";
const CHOOSE = "Choose the X-ray itself.";

const OTHERS = [
  { at: 0, marks: ["%PDF"], what: "a PDF", advice: EXPORT },
  { at: 0, marks: ["PK\x03\x04", "PK\x05\x06"], what: "a ZIP archive or an Office document", advice: UNPACK },
  { at: 0, marks: ["\x1f\x8b", "7z\xbc\xaf", "Rar!", "\xfd7zXZ", "BZh"], what: "an archive", advice: UNPACK },
  { at: 0, marks: ["\xd0\xcf\x11\xe0"], what: "an Office document", advice: EXPORT },
  { at: 4, marks: ["ftyp", "moov", "mdat", "wide"], what: "a video or a HEIC photo", advice: EXPORT },
  { at: 0, marks: ["\x1aE\xdf\xa3"], what: "a video", advice: EXPORT },
  { at: 8, marks: ["AVI ", "WAVE"], what: "a video or a sound", advice: EXPORT },
  { at: 4, marks: ["jP  "], what: "a JPEG 2000 image, which cannot be read here", advice: EXPORT },
  { at: 0, marks: ["MZ", "\x7fELF", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe"], what: "a program", advice: CHOOSE },
];

// The sentence against a file, or null.
export async function refusal(file, limit) {
  if (!file) return "The file or folder cannot be read. Choose it again, or upload a copy.";
  if (file.size > limit) return `The file is larger than ${Math.round(limit / 1e6)} MB. Export it as a JPEG or PNG.`;
  try {
    const head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
    if (!head.length) return "The file is empty. Export the X-ray again and upload that.";
    const other = otherType(head);
    return other && `This is ${other.what}. ${other.advice}`;
  } catch {
    return refusal(null, limit); // it is gone, or may not be read
  }
}

function otherType(head) {
  const bytes = String.fromCharCode(...head);
  if (bytes.startsWith(DICOM.mark, DICOM.at)) return null; // what comes before it may look like anything
  const known = OTHERS.find(({ at, marks }) => marks.some((mark) => bytes.startsWith(mark, at)));
  if (known) return known;
  const text = textOf(head);
  if (text === null) return null;
  return { what: /^\s*</.test(text) ? "HTML, XML or SVG" : "plain text", advice: EXPORT };
}

// The bytes as text, or null: control characters and what is no UTF-8 stand in no text.
function textOf(head) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true }); // its end may be cut
    return /[\0-\x08\x0e-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}
