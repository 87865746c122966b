// The grey values that are shown: width and level of the window, from what the two sliders say (-100 to 100).
const WHITE = 255; // of the preview, which has 8 bits
const DOUBLING = 50; // so much more contrast halves the width

export function windowOf({ brightness, contrast }) {
  return { width: WHITE * 2 ** (-contrast / DOUBLING), level: (WHITE / 2) * (1 - brightness / 100) };
}

// The CSS filter that shows the window and nothing else: exact, on the graphics card.
export function filterOf(look) {
  const { width, level } = windowOf(look);
  // A filter in the chain cuts off at white. Dimming never does; so a low level is shown by its negative.
  const negative = level < WHITE / 2;
  const high = (negative ? WHITE - level : level) / WHITE;
  const steps = [`brightness(${0.5 / high})`, `contrast(${(2 * high * WHITE) / width})`];
  if (negative) steps.unshift("invert(1)");
  if (negative !== look.inverted) steps.push("invert(1)");
  return look.brightness || look.contrast ? steps.join(" ") : look.inverted ? "invert(1)" : "none";
}
