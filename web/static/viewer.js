// One X-ray: window and level, zoom, pan and inversion of its picture, by buttons, sliders, keys and gestures.
import { clamp, startMap } from "./map.js";

const LOOK = { brightness: 0, contrast: 0, inverted: false };
const WHOLE = { zoom: 1, x: 0, y: 0 }; // x and y: the shift of the upper left corner, as shares of the stage
const HABITS = { opacity: 60, shown: true, ask: false, wide: false }; // of the map, and of the page
const FULL_SECONDS = 120; // for a full picture to arrive
const STEP = 5; // of brightness and contrast, for one press of a key
const ACROSS = 200; // of brightness and contrast, for a drag from edge to edge
const MIDDLE = { x: 0.5, y: 0.5 };
const MOST_ZOOM = 8;
const WHITE = 255; // of the preview, which has 8 bits
const DOUBLING = 50; // this much more contrast halves the width of the window
const LOADING = "Loading the full picture …";
const SLOP = 3; // pixels: a shorter movement is a click, not a drag
const WHEEL_PAUSE = 300; // milliseconds: a wheel that scrolls the page keeps scrolling it until it has rested

let habits = HABITS; // what the reader chose last, in this browser
let state = fresh(); // kept while the page refreshes itself
let pictured; // the address of the preview that the state belongs to
let full = {}; // the full picture of it, once it was asked for: its address, or what is said instead
let scrolledAt = -WHEEL_PAUSE;

// What a key does. A button with `data-press` does the same.
export const KEYS = {
  h: () => showMap(state.opacity ? 0 : habits.opacity),
  H: () => choose({ ask: !habits.ask }),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : byId("full-screen")?.checkVisibility() && byId("xray").requestFullscreen()),
  v: () => choose({ wide: !habits.wide }),
  z: () => actualSize(),
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
  w: () => pan({ x: 0, y: 0.1 }),
  a: () => pan({ x: 0.1, y: 0 }),
  s: () => pan({ x: 0, y: -0.1 }),
  d: () => pan({ x: -0.1, y: 0 }),
  p: () => set({ dragging: state.dragging === "pan" ? "window" : "pan" }),
  "?": () => byId("keys")?.togglePopover(),
};

export function startViewer() {
  const preview = byId("preview");
  if (!preview) return forget();
  const address = (preview.dataset.address ??= preview.src);
  if (address !== pictured) {
    forget();
    habits = remembered();
    [pictured, state] = [address, fresh()];
  }
  startMap(preview);
  if (full.address) preview.src = full.address;
  if (byId("full-screen")) byId("full-screen").hidden = !document.fullscreenEnabled;
  for (const button of document.querySelectorAll("[data-press]")) button.onclick = KEYS[button.dataset.press];
  onSlide("brightness", (brightness) => set({ brightness }));
  onSlide("contrast", (contrast) => set({ contrast }));
  onSlide("map-opacity", showMap);
  followPointers(byId("stage"));
  new ResizeObserver(show).observe(byId("stage")); // also shows the picture for the first time
  show();
}

// The full picture of an X-ray that is shown no more need not stay in memory.
function forget() {
  if (full.address) URL.revokeObjectURL(full.address);
  [pictured, full] = [undefined, {}];
}

// The reader's habits

function fresh() {
  return { ...LOOK, ...WHOLE, opacity: habits.shown && !habits.ask ? habits.opacity : 0, dragging: "window" };
}

function remembered() {
  try {
    return { ...HABITS, ...JSON.parse(localStorage.getItem("viewer")) };
  } catch {
    return habits; // storage is switched off, or holds something else: they last as long as the page
  }
}

function choose(part) {
  habits = { ...habits, ...part };
  try {
    localStorage.setItem("viewer", JSON.stringify(habits));
  } catch {
    // Storage is switched off.
  }
  show();
}

function showMap(opacity) {
  set({ opacity });
  choose({ shown: opacity > 0, opacity: opacity || habits.opacity });
}

// The full picture

// Shows one pixel of the image as one of the screen; a second time, the whole picture.
async function actualSize() {
  if (!byId("actual")) return;
  if (!full.address) await fetchFull();
  if (!full.address) return;
  const zoom = actualZoom();
  if (Math.abs(state.zoom / zoom - 1) < 0.001) return set(WHOLE);
  set({ zoom, x: (1 - zoom) / 2, y: (1 - zoom) / 2 });
}

async function fetchFull() {
  if (full.said === LOADING) return;
  const asked = (full = { said: LOADING });
  show();
  try {
    const signal = AbortSignal.timeout(1000 * FULL_SECONDS);
    const answer = await fetch(byId("actual").dataset.address, { headers: { Accept: "application/json" }, signal });
    const found = answer.ok ? await answer.blob() : await answer.json();
    if (full !== asked) return; // another X-ray is shown by now
    if (answer.ok) asked.address = URL.createObjectURL(found);
    asked.said = answer.ok ? "" : found.error;
  } catch {
    asked.said = "No full picture: the page does not answer.";
  }
  if (full !== asked) return;
  const preview = byId("preview");
  if (asked.address) preview.src = asked.address;
  await preview.decode().catch(() => {});
  show();
}

// Returns how many pixels of the screen show one pixel of the image.
function scaleOf(zoom) {
  const picture = byId("preview");
  const fit = Math.min(picture.clientWidth / picture.naturalWidth, picture.clientHeight / picture.naturalHeight);
  return fit * zoom * devicePixelRatio;
}

const actualZoom = () => 1 / scaleOf(1);

// Changes of the state

// As in other X-ray viewers: dragging to the right widens the window, dragging up brightens the picture.
function drag(way, pans) {
  if (pans || state.dragging === "pan") pan(way);
  else adjust(-way.y * ACROSS, -way.x * ACROSS);
}

function pan(way) {
  set({ x: state.x + way.x, y: state.y + way.y });
}

// Zooms around a point of the stage, which stays in place; returns whether the zoom changed.
function zoom(factor, at) {
  const before = state.zoom;
  const [least, most] = full.address ? [Math.min(1, actualZoom()), Math.max(MOST_ZOOM, 2 * actualZoom())] : [1, MOST_ZOOM];
  const after = clamp(before * factor, least, most);
  const by = after / before;
  set({ zoom: after, x: at.x - (at.x - state.x) * by, y: at.y - (at.y - state.y) * by });
  return after !== before;
}

function adjust(brightness, contrast) {
  const limited = (value) => clamp(value, -100, 100);
  set({ brightness: limited(state.brightness + brightness), contrast: limited(state.contrast + contrast) });
}

function set(part) {
  state = { ...state, ...part };
  show();
}

// What the page shows of the state

function show() {
  const [stage, preview] = [byId("stage"), byId("preview")];
  if (!preview) return;
  state = { ...state, ...inSight(state, stage, preview) };
  const { x, y, zoom, opacity, brightness, contrast, inverted, dragging } = state;
  stage.dataset.dragging = dragging;
  stage.classList.toggle("is-zoomed", zoom > 1);
  byId("sheet").style.transform = `translate(${x * 100}%, ${y * 100}%) scale(${zoom})`;
  preview.style.filter = filterOf(state);
  byId("zoom-now").textContent = full.address ? percent(zoom) : times(zoom);
  byId("xray").classList.toggle("is-wide", habits.wide);
  press("wide", habits.wide);
  if (byId("actual")) press("actual", Boolean(full.address) && Math.abs(scaleOf(zoom) - 1) < 0.001);
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
  press("map-ask", habits.ask);
}

// What differs from the picture as it came.
function reading() {
  const { width, level } = windowOf(state);
  const parts = [
    (state.brightness || state.contrast) && `W ${Math.round(width)} L ${Math.round(level)}`,
    state.inverted && "inverted",
    state.zoom > 1 && !full.address && times(state.zoom),
    full.said,
    full.address && (percent(state.zoom) === "100 %" ? "100 %: 1 image pixel = 1 screen pixel" : `full picture, ${percent(state.zoom)}`),
  ];
  return parts.filter(Boolean).join(" · ");
}

const percent = (zoom) => `${Math.round(100 * scaleOf(zoom))} %`;
const times = (zoom) => `${zoom.toFixed(1).replace(".0", "")}×`;
const byId = (id) => document.getElementById(id);
const press = (id, pressed) => byId(id).setAttribute("aria-pressed", String(pressed));
const slide = (id, value) => (byId(id).value = value);

function onSlide(id, act) {
  const slider = byId(id);
  if (slider) slider.oninput = () => act(Number(slider.value));
}

// Returns width and level of the window for the two sliders (-100 to 100).
function windowOf({ brightness, contrast }) {
  return { width: WHITE * 2 ** (-contrast / DOUBLING), level: (WHITE / 2) * (1 - brightness / 100) };
}

// Returns the CSS filter that shows exactly this window; the graphics card applies it.
function filterOf(look) {
  const { width, level } = windowOf(look);
  // Each filter of the chain clips at white. Dimming never clips, so a low level is shown through the negative.
  const negative = level < WHITE / 2;
  const high = (negative ? WHITE - level : level) / WHITE;
  const steps = [`brightness(${0.5 / high})`, `contrast(${(2 * high * WHITE) / width})`];
  if (negative) steps.unshift("invert(1)");
  if (negative !== look.inverted) steps.push("invert(1)");
  return look.brightness || look.contrast ? steps.join(" ") : look.inverted ? "invert(1)" : "none";
}

// Returns the shift that keeps the picture in sight: it fills the stage where it is large enough, else it is centred.
function inSight({ zoom, x, y }, stage, picture) {
  const shape = (picture.naturalWidth * stage.clientHeight) / (picture.naturalHeight * stage.clientWidth) || 1;
  return { x: limited(x, zoom, Math.min(1, shape)), y: limited(y, zoom, Math.min(1, 1 / shape)) };
}

// `filled` is the share of the stage that the picture fills at zoom 1.
function limited(shift, zoom, filled) {
  const middle = (1 - zoom) / 2;
  const play = Math.max(0, (zoom * filled - 1) / 2);
  return clamp(shift, middle - play, middle + play);
}

// Pointers and the wheel on the stage; places and movements are shares of its size

function followPointers(stage) {
  const held = new Map(); // the last place of each pointer that is down
  let moving = false;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    stage.setPointerCapture(event.pointerId);
    held.set(event.pointerId, place(stage, event));
    moving = held.size > 1;
    stage.classList.add("is-held");
  });
  stage.addEventListener("pointermove", (event) => {
    const [from, to] = [held.get(event.pointerId), place(stage, event)];
    moving ||= Boolean(from) && distance(from, to) >= SLOP;
    if (!from || !moving) return;
    held.set(event.pointerId, to);
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    if (other) pinch(stage, from, to, other);
    else drag(share(stage, difference(to, from)), event.shiftKey || Boolean(event.buttons & 4));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => {
      held.clear(); // the finger that stays down after a pinch does nothing more
      stage.classList.remove("is-held");
    });
  }
  stage.addEventListener("wheel", (event) => turn(event, share(stage, place(stage, event))), { passive: false });
  stage.addEventListener("dblclick", KEYS.r);
  stage.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault()); // no auto-scroll
  stage.addEventListener("touchstart", (event) => event.touches.length > 1 && event.preventDefault(), { passive: false });
  addEventListener("scroll", noteScroll);
}

function pinch(stage, from, to, other) {
  zoom(distance(to, other) / Math.max(distance(from, other), 1), share(stage, middle(from, other)));
  drag(share(stage, difference(middle(to, other), middle(from, other))), true);
}

// The wheel zooms. Once there is nothing left to zoom it scrolls the page, and keeps doing so until it has rested.
function turn(event, at) {
  const pinched = event.ctrlKey; // how touchpads report a pinch
  if (!pinched && event.timeStamp - scrolledAt < WHEEL_PAUSE) return;
  const pixels = event.deltaY * (event.deltaMode ? 30 : 1);
  if (zoom(Math.exp(-pixels * (pinched ? 0.01 : 0.002)), at) || pinched) event.preventDefault();
}

function noteScroll({ timeStamp }) {
  scrolledAt = timeStamp;
}

function place(stage, { clientX, clientY }) {
  const box = stage.getBoundingClientRect();
  return { x: clientX - box.left, y: clientY - box.top };
}

const share = (stage, { x, y }) => ({ x: x / stage.clientWidth, y: y / stage.clientHeight });
const difference = (a, b) => ({ x: a.x - b.x, y: a.y - b.y });
const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
