// The heat map: draws the activation map over the preview, on the area of the image that the network saw.
const DRAWN = 256; // pixels of the longer side of the coloured map, before it is fitted to the image
const LARGEST = 1280; // pixels of the map's longer side, also over a larger picture
const LEAST_SCALE = 4; // logits: a map whose values are all smaller is drawn faint, not stretched to full colour
// Cool colours are evidence against pneumonia, warm colours evidence for it. Orange and blue can be told apart
// with every kind of colour vision.
const WARM = [[255, 214, 120], [255, 150, 50], [232, 62, 28]];
const COOL = [[150, 226, 255], [66, 150, 245], [54, 84, 214]];
const QUIET = 0.07; // share of the scale: smaller values are not drawn
const FULL = 0.85; // share of the scale: from here on the colour is as opaque as the slider allows

// Draws the map of the page as soon as its preview has loaded, and its scale.
export function startMap(preview) {
  const data = document.getElementById("map-data");
  if (!data) return;
  const map = JSON.parse(data.textContent);
  const scale = Math.max(LEAST_SCALE, ...map.grid.flat().map(Math.abs));
  drawScale(scale);
  const canvas = document.getElementById("map"); // of this preview, which another may replace before it has loaded
  const draw = () => drawMap(canvas, preview, map, scale);
  if (preview.complete && preview.naturalWidth) draw();
  else preview.addEventListener("load", draw, { once: true });
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function drawMap(canvas, preview, { grid, box }, scale) {
  const [left, top, right, bottom] = box;
  const share = Math.min(1, LARGEST / Math.max(preview.naturalWidth, preview.naturalHeight));
  canvas.width = Math.round(preview.naturalWidth * share);
  canvas.height = Math.round(preview.naturalHeight * share);
  const area = [left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(coloured(grid, scale, area[2] / area[3]), ...area);
  if (left > 0.005 || top > 0.005 || right < 0.995 || bottom < 0.995) outline(context, area);
}

// Marks the area that the network saw, where it is not the whole image.
function outline(context, area) {
  const unit = context.canvas.width / 500;
  context.strokeStyle = "rgba(255, 255, 255, 0.55)";
  context.lineWidth = unit;
  context.setLineDash([4 * unit, 4 * unit]);
  context.strokeRect(...area);
}

function coloured(grid, scale, ratio) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(2, Math.round(ratio >= 1 ? DRAWN : DRAWN * ratio));
  canvas.height = Math.max(2, Math.round(ratio >= 1 ? DRAWN / ratio : DRAWN));
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const at = sampler(grid);
  for (let y = 0, i = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1, i += 4) {
      pixels.data.set(colour(at((x + 0.5) / canvas.width, (y + 0.5) / canvas.height) / scale), i);
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function drawScale(scale) {
  const canvas = document.getElementById("map-scale");
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    const [red, green, blue, cover] = colour((2 * (x + 0.5)) / canvas.width - 1);
    context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${cover / 255})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
  document.getElementById("map-low").textContent = `−${scale.toFixed(1)}`;
  document.getElementById("map-high").textContent = `+${scale.toFixed(1)} logits`;
}

// Colours

// Returns red, green, blue and opacity (0 to 255) for a value from -1 to 1.
function colour(value) {
  const size = Math.min(Math.abs(value), 1);
  const steps = value < 0 ? COOL : WARM;
  const place = size * (steps.length - 1);
  const index = Math.min(Math.floor(place), steps.length - 2);
  const mix = (channel) => steps[index][channel] + (steps[index + 1][channel] - steps[index][channel]) * (place - index);
  const cover = smooth((size - QUIET) / (FULL - QUIET));
  return [mix(0), mix(1), mix(2), 255 * cover];
}

function smooth(x) {
  const t = clamp(x, 0, 1);
  return t * t * (3 - 2 * t);
}

// The grid as a smooth surface: through the centre of every cell, and never beyond the values of its neighbours

// Returns a function from a place (0 to 1 across, 0 to 1 down) to the value there.
function sampler(grid) {
  const [rows, columns] = [grid.length, grid[0].length];
  const cell = (row, column) => grid[clamp(row, 0, rows - 1)][clamp(column, 0, columns - 1)];
  return (x, y) => {
    const [column, across] = split(x * columns - 0.5);
    const [row, down] = split(y * rows - 0.5);
    const line = (offset) => curve([-1, 0, 1, 2].map((step) => cell(row + offset, column + step)), across);
    return curve([-1, 0, 1, 2].map(line), down);
  };
}

// Catmull-Rom between the two middle values, clamped to them.
function curve([before, from, to, after], t) {
  const value = from + 0.5 * t * (to - before + t * (2 * before - 5 * from + 4 * to - after + t * (3 * (from - to) + after - before)));
  return clamp(value, Math.min(from, to), Math.max(from, to));
}

function split(place) {
  const whole = Math.floor(place);
  return [whole, place - whole];
}
