// The map's colours: cool against pneumonia, warm for it, nothing near zero. Orange and blue differ for every eye.
const WARM = [[255, 214, 120], [255, 150, 50], [232, 62, 28]];
const COOL = [[150, 226, 255], [66, 150, 245], [54, 84, 214]];
const QUIET = 0.07; // of the scale: less than this is not drawn
const FULL = 0.85; // from here on the colour covers all that the slider allows

// Red, green, blue and cover (0 to 255) of a value from -1 to 1.
export function colour(value) {
  const size = Math.min(Math.abs(value), 1);
  const steps = value < 0 ? COOL : WARM;
  const place = size * (steps.length - 1);
  const index = Math.min(Math.floor(place), steps.length - 2);
  const mix = (channel) => steps[index][channel] + (steps[index + 1][channel] - steps[index][channel]) * (place - index);
  const cover = smooth((size - QUIET) / (FULL - QUIET));
  return [mix(0), mix(1), mix(2), 255 * cover];
}

function smooth(x) {
  const t = Math.min(Math.max(x, 0), 1);
  return t * t * (3 - 2 * t);
}
