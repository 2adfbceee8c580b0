// Bilinear resizing to the bit as OpenCV's INTER_LINEAR does it on 8-bit pictures, so that boxes here are those of the runtime.

const ONE = 2048; // OpenCV's weights are integers of 11 bits

// Rounds halves to even, as the processor does for OpenCV.
function round(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

// For each of `count` target pixels along one side: its two source pixels and their weights. Beyond the border OpenCV takes the
// outermost pixel: across as the only one, down as both, which rounds differently.
function taps(from, count, across) {
  const step = 1 / (count / from); // not from / count: OpenCV divides twice
  const first = new Int32Array(count);
  const second = new Int32Array(count);
  const weight0 = new Int32Array(count);
  const weight1 = new Int32Array(count);
  const inside = (index) => Math.min(Math.max(index, 0), from - 1);
  for (let i = 0; i < count; i++) {
    const place = Math.fround((i + 0.5) * step - 0.5);
    const index = Math.floor(place);
    let rest = Math.fround(place - index);
    if (across && (index < 0 || index >= from - 1)) rest = 0;
    first[i] = inside(index);
    second[i] = inside(index + 1);
    weight0[i] = round(Math.fround(1 - rest) * ONE);
    weight1[i] = round(rest * ONE);
  }
  return { first, second, weight0, weight1 };
}

/**
 * Resize a picture into the model's input.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} picture RGBA, as ImageData holds it.
 * @param {number} width Of the result, in pixels.
 * @param {number} height Of the result, in pixels.
 * @returns {Float32Array} Red, then green, then blue, each height x width, 0 to 255.
 */
export function resizeToPlanes(picture, width, height) {
  const planes = new Float32Array(3 * width * height);
  if (picture.width === 2 * width && picture.height === 2 * height) {
    halve(picture, width, height, planes);
    return planes;
  }
  const { data } = picture;
  const across = taps(picture.width, width, true);
  const down = taps(picture.height, height, false);
  const size = width * height;
  // One resized line of the source each, kept while the next target line uses it too.
  let upper = new Int32Array(3 * width);
  let lower = new Int32Array(3 * width);
  let upperLine = -1;
  let lowerLine = -1;
  const fill = (line, into) => {
    const start = 4 * line * picture.width;
    for (let x = 0; x < width; x++) {
      const a = start + 4 * across.first[x];
      const b = start + 4 * across.second[x];
      const wa = across.weight0[x];
      const wb = across.weight1[x];
      into[3 * x] = data[a] * wa + data[b] * wb;
      into[3 * x + 1] = data[a + 1] * wa + data[b + 1] * wb;
      into[3 * x + 2] = data[a + 2] * wa + data[b + 2] * wb;
    }
  };
  for (let y = 0; y < height; y++) {
    const a = down.first[y];
    const b = down.second[y];
    if (a === lowerLine) {
      [upper, lower] = [lower, upper];
      [upperLine, lowerLine] = [lowerLine, upperLine];
    }
    if (a !== upperLine) {
      fill(a, upper);
      upperLine = a;
    }
    if (b !== lowerLine) {
      fill(b, lower);
      lowerLine = b;
    }
    const wa = down.weight0[y];
    const wb = down.weight1[y];
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      for (let channel = 0; channel < 3; channel++) {
        const i = 3 * x + channel;
        const sum = ((wa * (upper[i] >> 4)) >> 16) + ((wb * (lower[i] >> 4)) >> 16);
        planes[channel * size + at] = (sum + 2) >> 2;
      }
    }
  }
  return planes;
}

// OpenCV takes the mean of four pixels where both sides are halved exactly.
function halve(picture, width, height, planes) {
  const { data } = picture;
  const line = 4 * picture.width;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const a = 2 * y * line + 8 * x;
      for (let channel = 0; channel < 3; channel++) {
        const i = a + channel;
        const sum = data[i] + data[i + 4] + data[i + line] + data[i + line + 4];
        planes[(channel * height + y) * width + x] = (sum + 2) >> 2;
      }
    }
  }
}

/**
 * Width and height of the model's input for a picture, by the rule of MMDetection's Resize.
 * @throws {Error} If a side becomes smaller than the network takes.
 */
export function inputSize(width, height, about) {
  const [a, b] = about.resize.scale;
  let size = [a, b];
  if (about.resize.keep_ratio) {
    const factor = Math.min(Math.max(a, b) / Math.max(width, height), Math.min(a, b) / Math.min(width, height));
    size = [Math.floor(width * factor + 0.5), Math.floor(height * factor + 0.5)];
  }
  if (Math.min(...size) < 32) {
    throw new Error(`The picture of ${width} × ${height} pixels is too narrow: crop it to a less narrow one.`);
  }
  if (about.size && (about.size[0] !== size[1] || about.size[1] !== size[0])) {
    throw new Error(
      `This model takes ${about.size[1]} × ${about.size[0]} pixels only, and the picture becomes ${size[0]} × ${size[1]}.`,
    );
  }
  return size;
}
