// A film for Chromium's fake camera whose pictures are hard to encode: with the built-in one an encoder stays far below
// the rate it may use.
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';

/** Raise it when the pictures change. */
const VERSION = 1;
const SECONDS = 6;

/** A luma texture twice as wide as the picture: smooth waves and grain. */
function texture(width, height) {
  const luma = Buffer.alloc(width * height);
  let grain = 1;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      grain = (Math.imul(grain, 1_103_515_245) + 12_345) >>> 0;
      const wave = 60 * Math.sin(x / 23) * Math.cos(y / 17) + 30 * Math.sin((x + 2 * y) / 7);
      luma[y * width + x] = 128 + wave + ((grain >>> 24) % 24) - 12;
    }
  }
  return luma;
}

/** The next frame: the texture moved by some pixels in both directions. */
function frame(luma, { width, height }, number) {
  const wide = width * 2;
  const [left, up] = [(number * 6) % width, (number * 2) % height];
  const rows = Array.from({ length: height }, (_, y) => {
    const start = ((y + up) % height) * wide + left;
    return luma.subarray(start, start + width);
  });
  return Buffer.concat([Buffer.from('FRAME\n'), ...rows, Buffer.alloc((width * height) / 2, 128)]);
}

/** Path of a Y4M file of a few seconds, made when it is not in the cache. */
export async function film({ width, height, fps }) {
  const folder = join(process.env.E2E_CACHE, `film-${VERSION}`);
  const path = join(folder, `${width}x${height}-${fps}.y4m`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const draft = `${path}.${process.pid}`;
  const file = await open(draft, 'w');
  try {
    await file.write(`YUV4MPEG2 W${width} H${height} F${fps}:1 Ip A1:1 C420\n`);
    const luma = texture(width * 2, height);
    for (let number = 0; number < SECONDS * fps; number += 1) await file.write(frame(luma, { width, height }, number));
  } finally {
    await file.close();
  }
  renameSync(draft, path);
  return path;
}
