// Pictures and sound that scenarios replay, encoded once with ffmpeg and kept in the cache.
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
/** Raise it when anything below changes what the files hold. */
const VERSION = 2;
/** Keyframes are this many frames apart: a multiple of the temporal pattern's length. */
const KEY_EVERY = 60;
const LAYERS = [
  { width: 320, height: 180, kbps: 150 },
  { width: 640, height: 360, kbps: 500 },
  { width: 1280, height: 720, kbps: 1700 },
];
const SAMPLE_RATE = 48_000;
const PACKET_SAMPLES = SAMPLE_RATE / 50;

function folder() {
  const path = join(process.env.E2E_CACHE, `material-${VERSION}`);
  mkdirSync(path, { recursive: true });
  return path;
}

/** Makes a file by `make(path)` unless it is there; a half-made one never gets the name. */
async function once(name, make) {
  const path = join(folder(), name);
  if (existsSync(path)) return path;
  const extension = name.slice(name.lastIndexOf('.'));
  const draft = `${path}.${process.pid}${extension}`;
  await make(draft);
  renameSync(draft, path);
  return path;
}

async function ffmpeg(args) {
  try {
    await run('ffmpeg', ['-v', 'error', '-y', ...args]);
  } catch (error) {
    if (error.code === 'ENOENT') throw new Error('ffmpeg is missing (Debian package ffmpeg)');
    throw error;
  }
}

/**
 * A moving test picture as VP8 in three sizes of about 150, 500 and 1,700 kbit/s, with three temporal layers (0 2 1 2) and
 * a keyframe every 60 frames at the same places: encoders in calls make one only when somebody asks.
 *
 * @returns {Promise<{files: string[], temporalLayers: number, fps: number, layers: object[]}>} files smallest first
 */
export async function pictures({ fps = 15, seconds = 16 } = {}) {
  const frames = Math.round((fps * seconds) / KEY_EVERY) * KEY_EVERY;
  const files = [];
  for (const { width, height, kbps } of LAYERS) {
    // Each temporal layer's rate includes those below.
    const rates = [0.4, 0.6, 1].map((share) => Math.round(kbps * share)).join(',');
    const pattern = `ts_number_layers=3:ts_target_bitrate=${rates}:ts_rate_decimator=4,2,1:ts_periodicity=4:ts_layer_id=0,2,1,2:ts_layering_mode=3`;
    files.push(
      await once(`vp8-${height}p${fps}.ivf`, (path) =>
        ffmpeg([
          ...['-f', 'lavfi', '-i', `testsrc2=size=${width}x${height}:rate=${fps},noise=alls=6:allf=t`, '-frames:v', frames],
          ...['-c:v', 'libvpx', '-b:v', `${kbps}k`, '-maxrate', `${kbps}k`, '-bufsize', `${kbps}k`, '-max-intra-rate', 450],
          ...['-g', KEY_EVERY, '-keyint_min', KEY_EVERY, '-deadline', 'realtime', '-cpu-used', 10, '-lag-in-frames', 0],
          ...['-auto-alt-ref', 0, '-error-resilient', 'default', '-ts-parameters', pattern, path],
        ].map(String)),
      ),
    );
  }
  return { files, temporalLayers: 3, fps, layers: LAYERS };
}

/** Numbers in 0..1 that are the same every time (mulberry32). */
export function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Samples of a voice-like sound: a second of background, then syllables of a buzz with three resonances. */
function speak(seconds) {
  const next = random(7);
  const samples = new Float32Array(seconds * SAMPLE_RATE);
  for (let at = 0; at < samples.length; at += 1) samples[at] = (next() - 0.5) * 0.0015;
  let at = SAMPLE_RATE;
  while (at < samples.length) {
    const length = Math.round((0.14 + next() * 0.12) * SAMPLE_RATE);
    const [pitch, loud, first] = [95 + next() * 50, 0.12 + next() * 0.2, 400 + next() * 400];
    for (let n = 0; n < length && at < samples.length; n += 1, at += 1) {
      const t = n / SAMPLE_RATE;
      // Between syllables the voice gets quiet but does not stop.
      const shape = 0.08 + 0.92 * Math.sin((Math.PI * n) / length) ** 0.6;
      let sound = 0;
      for (let harmonic = 1; harmonic <= 24; harmonic += 1) {
        const frequency = harmonic * pitch;
        const near = (centre) => Math.exp(-(((frequency - centre) / 180) ** 2));
        sound += (near(first) + 0.6 * near(1400) + 0.4 * near(2500) + 0.05) * Math.sin(2 * Math.PI * frequency * t);
      }
      samples[at] += loud * shape * sound * 0.35;
    }
  }
  return samples;
}

/** −dBov of each 20 ms (RFC 6464: relative to a full-scale square wave), 0 to 127. */
function levels(samples) {
  const bytes = Buffer.alloc(Math.ceil(samples.length / PACKET_SAMPLES));
  for (let packet = 0; packet < bytes.length; packet += 1) {
    const part = samples.subarray(packet * PACKET_SAMPLES, (packet + 1) * PACKET_SAMPLES);
    const power = part.reduce((sum, sample) => sum + sample * sample, 0) / Math.max(1, part.length);
    bytes[packet] = Math.min(127, Math.max(0, Math.round(-10 * Math.log10(power + 1e-13))));
  }
  return bytes;
}

/** A voice as Opus in Ogg, mono, 20 ms, 32 kbit/s, with the level of each packet beside it (`.levels`). */
export async function voice({ seconds = 13 } = {}) {
  await once('voice.levels', (path) => writeFileSync(path, levels(speak(seconds))));
  return once('voice.ogg', async (path) => {
    const samples = speak(seconds);
    const pcm = `${path}.f32`;
    writeFileSync(pcm, Buffer.from(samples.buffer));
    const input = ['-f', 'f32le', '-ar', SAMPLE_RATE, '-ac', 1, '-i', pcm];
    const encoder = ['-c:a', 'libopus', '-b:a', '32k', '-vbr', 'on', '-frame_duration', 20, '-application', 'voip'];
    await ffmpeg([...input, ...encoder, path].map(String));
    await run('rm', [pcm]);
  });
}
