// Draws the activation map over the preview, on the area of the image that it covers.
import { colour } from "./colours.js";
import { sampler } from "./grid.js";

const DRAWN = 256; // pixels of the longer side of the coloured map, before it is fitted to the image
const LEAST_SCALE = 4; // logits: a map with less than this is drawn faint, not stretched to full colour

// Draws the map of the page, once its preview is there, and its scale.
export function startMap(preview) {
  const data = document.getElementById("map-data");
  if (!data) return;
  const map = JSON.parse(data.textContent);
  const scale = Math.max(LEAST_SCALE, ...map.grid.flat().map(Math.abs));
  drawScale(scale);
  const draw = () => drawMap(document.getElementById("map"), preview, map, scale);
  if (preview.complete && preview.naturalWidth) draw();
  else preview.addEventListener("load", draw, { once: true });
}

function drawMap(canvas, preview, { grid, box }, scale) {
  const [left, top, right, bottom] = box;
  canvas.width = preview.naturalWidth;
  canvas.height = preview.naturalHeight;
  const area = [left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(coloured(grid, scale, area[2] / area[3]), ...area);
  if (left > 0.005 || top > 0.005 || right < 0.995 || bottom < 0.995) outline(context, area);
}

// What lies outside the frame was not looked at.
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
