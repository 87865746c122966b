// A small grid of numbers as a smooth surface: through every cell's centre, and never beyond its neighbours' values.

// A function from a place (0 to 1 across, 0 to 1 down) to the value there.
export function sampler(grid) {
  const [rows, columns] = [grid.length, grid[0].length];
  const cell = (row, column) => grid[clamp(row, 0, rows - 1)][clamp(column, 0, columns - 1)];
  return (x, y) => {
    const [column, across] = split(x * columns - 0.5);
    const [row, down] = split(y * rows - 0.5);
    const line = (offset) => curve([-1, 0, 1, 2].map((step) => cell(row + offset, column + step)), across);
    return curve([-1, 0, 1, 2].map(line), down);
  };
}

// Catmull-Rom between the two middle values, held between them.
function curve([before, from, to, after], t) {
  const value = from + 0.5 * t * (to - before + t * (2 * before - 5 * from + 4 * to - after + t * (3 * (from - to) + after - before)));
  return clamp(value, Math.min(from, to), Math.max(from, to));
}

function split(place) {
  const whole = Math.floor(place);
  return [whole, place - whole];
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
