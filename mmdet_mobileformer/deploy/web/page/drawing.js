// Boxes and their names over a picture, legible at whatever size the canvas is shown.

const COLOURS = ["#e63946", "#1d78d8", "#faa307", "#209e54", "#9449c9", "#00b4c4", "#f062b7", "#8c5630", "#96c814", "#5a64c8"];

/** The colour of a class: ten that stay apart, further ones by steps around the colour circle. */
export function colourOf(label) {
  if (label < COLOURS.length) return COLOURS[label];
  return `hsl(${(label * 222.5) % 360} 75% ${label % 2 ? 38 : 55}%)`;
}

/**
 * Draw the picture and the boxes.
 * @param {HTMLCanvasElement} canvas Gets the picture's size, or for small pictures a multiple of it.
 * @param {OffscreenCanvas} picture What lies below.
 * @param {Array<{box: number[], score: number, label: number, name: string}>} found The strongest first.
 */
export function draw(canvas, picture, found) {
  const zoom = Math.max(1, Math.min(760 / picture.width, 560 / picture.height));
  const width = Math.round(picture.width * zoom);
  const height = Math.round(picture.height * zoom);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const shown = found.map((one) => ({ ...one, box: one.box.map((value) => value * zoom) }));
  // Pixels of the canvas per pixel of the screen.
  const scale = canvas.width / (canvas.clientWidth || canvas.width);
  const line = Math.max(2.5 * scale, 1);
  const font = 14 * scale;
  context.font = `600 ${font}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const taken = [];
  for (const { box, label } of [...shown].reverse()) {
    const [x1, y1, x2, y2] = box;
    context.lineWidth = line + 2 * scale;
    context.strokeStyle = "rgb(0 0 0 / 55%)";
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.lineWidth = line;
    context.strokeStyle = colourOf(label);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  // The strongest choose their places first.
  for (const { box, score, label, name } of shown) {
    const text = `${name} ${score.toFixed(2)}`;
    const wide = context.measureText(text).width + 8 * scale;
    const high = font * 1.35;
    const place = placeOf(box, wide, high, canvas, taken);
    taken.push(place);
    context.fillStyle = colourOf(label);
    context.fillRect(place.x, place.y, wide, high);
    context.fillStyle = isLight(context.fillStyle) ? "#111" : "#fff";
    context.fillText(text, place.x + 4 * scale, place.y + high / 2);
  }
}

// Above the box if that is free, else where the name covers other names least.
function placeOf([x1, y1, x2, y2], width, height, canvas, taken) {
  const spots = [[x1, y1 - height], [x1, y1], [x2 - width, y1 - height], [x1, y2], [x2 - width, y2], [x2 - width, y1]];
  let best = null;
  let least = Infinity;
  spots.forEach(([left, top], rank) => {
    const x = Math.min(Math.max(left, 0), Math.max(canvas.width - width, 0));
    const y = Math.min(Math.max(top, 0), Math.max(canvas.height - height, 0));
    const spot = { x, y, width, height };
    const covered = taken.reduce((sum, other) => sum + overlap(spot, other), 0);
    const cost = covered / (width * height) + 0.05 * rank;
    if (cost < least) {
      least = cost;
      best = spot;
    }
  });
  return best;
}

function overlap(a, b) {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  return width > 0 && height > 0 ? width * height : 0;
}

// The canvas gives its fill style back as #rrggbb.
function isLight(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}
