// One X-ray: what a person has set of its picture, and the controls and keys that set it.
import { followPointers } from "./gestures.js";
import { startMap } from "./map.js";
import { filterOf, windowOf } from "./window.js";
import { WHOLE, inSight, moved, zoomed } from "./zoom.js";

const LOOK = { brightness: 0, contrast: 0, inverted: false };
const FRESH = { ...LOOK, ...WHOLE, opacity: 60, before: 60, dragging: "window" };
const STEP = 5; // of brightness and contrast, for one press of a key
const ACROSS = 200; // of brightness and contrast: a drag from edge to edge
const MIDDLE = { x: 0.5, y: 0.5 };

let state = FRESH; // kept while the page refreshes itself
let pictured; // the preview that it is of

// What a key does. A button with `data-press` does the same.
export const KEYS = {
  h: () => set(state.opacity ? { opacity: 0, before: state.opacity } : { opacity: state.before }),
  b: () => adjust(STEP, 0),
  B: () => adjust(-STEP, 0),
  c: () => adjust(0, STEP),
  C: () => adjust(0, -STEP),
  i: () => set({ inverted: !state.inverted }),
  r: () => set({ ...LOOK, ...WHOLE }),
  "+": () => zoom(1.25, MIDDLE),
  "=": () => zoom(1.25, MIDDLE), // plus without the shift key
  "-": () => zoom(0.8, MIDDLE),
  0: () => set(WHOLE),
  w: () => set(moved(state, { x: 0, y: 0.1 })),
  a: () => set(moved(state, { x: 0.1, y: 0 })),
  s: () => set(moved(state, { x: 0, y: -0.1 })),
  d: () => set(moved(state, { x: -0.1, y: 0 })),
  p: () => set({ dragging: state.dragging === "pan" ? "window" : "pan" }),
  "?": () => byId("keys")?.togglePopover(),
};

export function startViewer() {
  const preview = byId("preview");
  if (!preview) return;
  if (preview.src !== pictured) [pictured, state] = [preview.src, FRESH];
  startMap(preview);
  for (const button of document.querySelectorAll("[data-press]")) button.onclick = KEYS[button.dataset.press];
  onSlide("brightness", (brightness) => set({ brightness }));
  onSlide("contrast", (contrast) => set({ contrast }));
  onSlide("map-opacity", (opacity) => set({ opacity, before: FRESH.opacity }));
  followPointers(byId("stage"), { drag, zoom, reset: KEYS.r });
  new ResizeObserver(show).observe(byId("stage")); // shows it for the first time too
  show();
}

// As in other viewers of X-rays: to the right the window grows wider, upwards the picture brighter.
function drag(way, pans) {
  if (pans || state.dragging === "pan") set(moved(state, way));
  else adjust(-way.y * ACROSS, -way.x * ACROSS);
}

function zoom(factor, at) {
  const before = state.zoom;
  set(zoomed(state, factor, at));
  return state.zoom !== before;
}

function adjust(brightness, contrast) {
  const held = (value) => Math.min(Math.max(value, -100), 100);
  set({ brightness: held(state.brightness + brightness), contrast: held(state.contrast + contrast) });
}

function set(part) {
  state = { ...state, ...part };
  show();
}

function show() {
  const [stage, preview] = [byId("stage"), byId("preview")];
  if (!preview) return;
  state = { ...state, ...inSight(state, stage, preview) };
  const { x, y, zoom, opacity, brightness, contrast, inverted, dragging } = state;
  stage.dataset.dragging = dragging;
  stage.classList.toggle("is-zoomed", zoom > 1);
  byId("sheet").style.transform = `translate(${x * 100}%, ${y * 100}%) scale(${zoom})`;
  preview.style.filter = filterOf(state);
  byId("zoom-now").textContent = times(zoom);
  byId("reading").textContent = reading();
  slide("brightness", brightness);
  slide("contrast", contrast);
  press("invert", inverted);
  press("drag-window", dragging === "window");
  press("drag-pan", dragging === "pan");
  if (!byId("map")) return;
  byId("map").style.opacity = opacity / 100;
  slide("map-opacity", opacity);
  press("map-toggle", opacity > 0);
}

// What differs from the picture as it came.
function reading() {
  const { width, level } = windowOf(state);
  const parts = [
    (state.brightness || state.contrast) && `W ${Math.round(width)} L ${Math.round(level)}`,
    state.inverted && "inverted",
    state.zoom > 1 && times(state.zoom),
  ];
  return parts.filter(Boolean).join(" · ");
}

const times = (zoom) => `${zoom.toFixed(1).replace(".0", "")}×`;
const byId = (id) => document.getElementById(id);
const press = (id, pressed) => byId(id).setAttribute("aria-pressed", String(pressed));
const slide = (id, value) => (byId(id).value = value);

function onSlide(id, act) {
  const slider = byId(id);
  if (slider) slider.oninput = () => act(Number(slider.value));
}
