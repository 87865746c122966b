// What pointers and the wheel do on the stage. Places and ways are shares of its size.
const SLOP = 3; // pixels: who moves less has clicked
const PAUSE = 300; // milliseconds: a wheel that scrolls the page goes on doing so until it rests

let scrolledAt = -PAUSE;

// Calls `drag(way, pans)`, `zoom(factor, at)`, which says whether it could, and `reset()`.
export function followPointers(stage, { drag, zoom, reset }) {
  const held = new Map(); // where each pointer that is down was last
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
    if (other) pinch(from, to, other);
    else drag(share(stage, difference(to, from)), event.shiftKey || Boolean(event.buttons & 4));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => {
      held.clear(); // the finger that stays after a pinch does nothing more
      stage.classList.remove("is-held");
    });
  }
  function pinch(from, to, other) {
    zoom(distance(to, other) / Math.max(distance(from, other), 1), share(stage, middle(from, other)));
    drag(share(stage, difference(middle(to, other), middle(from, other))), true);
  }

  stage.addEventListener("wheel", (event) => turn(event, zoom, share(stage, place(stage, event))), { passive: false });
  stage.addEventListener("dblclick", reset);
  stage.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault()); // no scrolling by itself
  stage.addEventListener("touchstart", (event) => event.touches.length > 1 && event.preventDefault(), { passive: false });
  addEventListener("scroll", noteScroll);
}

// The wheel zooms; where there is nothing left to zoom it scrolls the page, and what it began it goes on with.
function turn(event, zoom, at) {
  const pinched = event.ctrlKey; // so touchpads say it
  if (!pinched && event.timeStamp - scrolledAt < PAUSE) return;
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
