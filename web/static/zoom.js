// Where the picture stands on its stage: the zoom, and the shift of its upper left corner as shares of the stage.
const MOST = 8;

export const WHOLE = { zoom: 1, x: 0, y: 0 };

// Zoomed by a factor; what lies at a place of the stage stays there.
export function zoomed(view, factor, at) {
  const zoom = clamp(view.zoom * factor, 1, MOST);
  const by = zoom / view.zoom;
  return { zoom, x: at.x - (at.x - view.x) * by, y: at.y - (at.y - view.y) * by };
}

export function moved(view, way) {
  return { x: view.x + way.x, y: view.y + way.y };
}

// The view with the picture in sight: it fills the stage where it is large enough, else it is in the middle.
export function inSight({ zoom, x, y }, stage, picture) {
  const shape = (picture.naturalWidth * stage.clientHeight) / (picture.naturalHeight * stage.clientWidth) || 1;
  return { x: held(x, zoom, Math.min(1, shape)), y: held(y, zoom, Math.min(1, 1 / shape)) };
}

// `filled` is the share of the stage that the picture fills at zoom 1.
function held(shift, zoom, filled) {
  const middle = (1 - zoom) / 2;
  const play = Math.max(0, (zoom * filled - 1) / 2);
  return clamp(shift, middle - play, middle + play);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
