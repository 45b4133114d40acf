// How two pictures of one size differ, and how that looks magnified.

const MOST_PIXELS = 4_000_000;

function pixelsOf(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // as the service does with transparency
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/**
 * Compares two decoded images; the first is brought to the second's size.
 *
 * Returns width, height, `levels` (differences of -255 to 255, three a pixel), their mean and
 * largest size, and whether both were scaled down first because they are large.
 */
export function compare(before, after) {
  const area = after.naturalWidth * after.naturalHeight;
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / area));
  const width = Math.max(1, Math.round(after.naturalWidth * scale));
  const height = Math.max(1, Math.round(after.naturalHeight * scale));
  const [from, to] = [before, after].map((image) => pixelsOf(image, width, height));
  const levels = new Int16Array(width * height * 3);
  let sum = 0;
  let largest = 0;
  for (let source = 0, target = 0; source < from.length; source += 4) {
    for (let channel = 0; channel < 3; channel += 1, target += 1) {
      const level = to[source + channel] - from[source + channel];
      levels[target] = level;
      sum += Math.abs(level);
      largest = Math.max(largest, Math.abs(level));
    }
  }
  return { width, height, levels, mean: sum / levels.length, largest, isScaled: scale < 1 };
}

/** Draws a comparison: grey where nothing changed, `gain` levels for one level of difference. */
export function draw({ width, height, levels }, gain, canvas) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  for (let source = 0, target = 0; source < levels.length; target += 4) {
    for (let channel = 0; channel < 3; channel += 1, source += 1) {
      pixels.data[target + channel] = 128 + gain * levels[source]; // clamped by its type
    }
    pixels.data[target + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
