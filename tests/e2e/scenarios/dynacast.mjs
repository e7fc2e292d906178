import { CheckFailed, sleep, until } from '../lib/check.mjs';
import { Sampler } from '../lib/reports.mjs';

const VIDEO = { width: 1280, height: 720, fps: 15, simulcast: true, bitrate: 1_700_000 };
/** A layer that nobody watches is off within this (5 s of patience with a viewer who comes back, and the way). */
const OFF_MS_MAX = 6000;
/** Until a wanted layer is there again, without the way to the viewer and back. */
const ON_MS_MAX = 1000;
/**
 * The short form runs beside other things: three pages and an encoder of three layers on a busy machine take their time, but less
 * than the 3 s that a browser waits before it asks for another keyframe.
 */
const BUSY_MS = 2000;

const slack = ({ short }) => (short ? BUSY_MS : 0);

/** Bytes sent so far and activity of the publisher's layers, by rid. */
async function layers(from) {
  const { tracks } = await from.act('sent');
  const video = tracks.find((one) => one.kind === 'video');
  return Object.fromEntries(video.sent.map((one) => [one.rid, one]));
}

/** Waits until the top layer's bytes stand still for 700 ms; when that began. */
async function stands(from, timeoutMs) {
  let last = { bytes: -1, atMs: Date.now() };
  return until(
    'the top layer stands still',
    async () => {
      const { f } = await layers(from);
      if (f.bytes !== last.bytes) last = { bytes: f.bytes, atMs: Date.now() };
      return Date.now() - last.atMs >= 700 ? last.atMs : null;
    },
    { timeoutMs, everyMs: 40 },
  );
}

/** Waits until the top layer's bytes grow; when they did. */
async function flows(from, timeoutMs = 15_000) {
  const before = (await layers(from)).f.bytes;
  await until('the top layer flows', async () => (await layers(from)).f.bytes > before + 2000, { timeoutMs, everyMs: 15 });
  return Date.now();
}

async function becomes(viewer, from, width, timeoutMs = 15_000) {
  const wide = async () => (await viewer.track(from, 'video'))?.width === width;
  await until(`${viewer.identity} gets a picture ${width} wide`, wide, { timeoutMs, everyMs: 15 });
  return Date.now();
}

/** Round trip between two participants' edges, ms, by messages there and back. */
async function roundTrip(one, other) {
  const ways = [];
  for (let n = 0; n < 3; n += 1) ways.push((await one.tells([other])) + (await other.tells([one])));
  return Math.min(...ways);
}

async function cycle(s, from, far, small) {
  const asked = Date.now();
  await Promise.all(small.map((viewer) => viewer.act('settings', { identity: from.identity, width: 320, height: 180 })));
  const off_ms = (await stands(from, OFF_MS_MAX + 9000).catch((error) => {
    if (error instanceof CheckFailed) return Infinity;
    throw error;
  })) - asked;
  s.limits.atMost('ms until the top layer is off', off_ms, OFF_MS_MAX + slack(s));
  if (!Number.isFinite(off_ms)) return { off_ms: null, flows_ms: null, wide_ms: null };
  s.progress(`the top layer is off after ${off_ms} ms`);
  await sleep(s.short ? 500 : 3000);
  const { q } = await layers(from);
  const wanted = Date.now();
  const flowing = flows(from);
  const wide = becomes(far, from, VIDEO.width);
  await far.act('settings', { identity: from.identity, width: VIDEO.width, height: VIDEO.height });
  const [flows_ms, wide_ms] = (await Promise.all([flowing, wide])).map((at) => at - wanted);
  s.progress(`it flows again after ${flows_ms} ms, and is seen after ${wide_ms} ms`);
  s.limits.holds((await layers(from)).q.bytes > q.bytes, 'the low layer stands still though it is watched');
  return { off_ms, flows_ms, wide_ms };
}

// A publisher's top layer stops when nobody in the mesh watches it, and comes back when somebody far away does.
export default {
  name: 'dynacast',
  about: 'layers that nobody watches stop at the publisher, and come back for a viewer in another region',
  seconds: { long: 60, short: 8 },
  async run(s) {
    const from = await s.chromium('source', 'fra', { dynacast: true });
    const [iad, syd] = await Promise.all([s.chromium('iad', 'iad'), s.chromium('syd', 'syd')]);
    await from.act('publish_video', VIDEO);
    await becomes(syd, from, VIDEO.width, 30_000);
    s.progress('the far viewer has the top layer');
    const rtt_ms = await roundTrip(from, syd);
    // Its log tells a layer that does not come from one that does not fit.
    new Sampler(s, 'syd', [syd.identity]);
    const cycles = [];
    const until_ms = Date.now() + s.seconds * 1000;
    do {
      cycles.push(await cycle(s, from, syd, [iad, syd]));
    } while (Date.now() < until_ms && !s.short);
    const worst = (field) => Math.max(...cycles.map((one) => one[field] ?? Infinity));
    s.limits.atMost('ms until the top layer flows again', worst('flows_ms'), ON_MS_MAX + rtt_ms + slack(s));
    s.limits.atMost('ms until it is seen far away', worst('wide_ms'), ON_MS_MAX + rtt_ms + slack(s));
    return { rtt_ms, cycles };
  },
};
