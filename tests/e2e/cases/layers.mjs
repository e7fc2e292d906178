import { check, sleep, until } from '../lib/check.mjs';
import { edgeForwarded, linkPackets } from '../lib/metrics.mjs';

/** Three layers: 240×135, 480×270 and 960×540 (the client library makes three of them from 960 pixels on). */
const VIDEO = { width: 960, height: 540, fps: 15, simulcast: true, bitrate: 900_000 };
const HIDDEN_S = 3;
/** What may still pass while a video is hidden: reports and link upkeep, not its 15 frames a second. */
const HIDDEN_PACKETS_PER_S_MAX = 15;

async function reaches(to, from, width, sinceMs) {
  await until(
    `${to.identity} gets a picture ${width} wide`,
    async () => (await to.track(from, 'video'))?.width === width,
    { timeoutMs: 20_000, everyMs: 50 },
  );
  return Date.now() - sinceMs;
}

/** Walks one receiver through the layers; returns how long each change took. */
async function walk(to, from) {
  const steps = [
    ['low', { quality: 'low' }, 240],
    ['high', { quality: 'high' }, 960],
    ['medium', { quality: 'medium' }, 480],
    ['high_again', { quality: 'high' }, 960],
  ];
  const took = {};
  for (const [name, settings, width] of steps) {
    const since = Date.now();
    await to.act('settings', { identity: from.identity, ...settings });
    took[`${name}_ms`] = await reaches(to, from, width, since);
  }
  return took;
}

/** While a video is hidden by its only receiver, neither edge nor link may carry it. */
async function hide(t, to, from) {
  const count = async () => ({
    edge: await edgeForwarded(t.mesh.edge(to.region).admin),
    link: await linkPackets(t.mesh.edge(to.region).admin),
  });
  await to.act('settings', { identity: from.identity, enabled: false });
  await sleep(1500);
  const before = await count();
  await sleep(HIDDEN_S * 1000);
  const after = await count();
  const rates = { edge: (after.edge - before.edge) / HIDDEN_S, link: (after.link - before.link) / HIDDEN_S };
  check(rates.edge <= HIDDEN_PACKETS_PER_S_MAX, `the edge still forwards ${rates.edge} packets/s of a hidden video`);
  check(rates.link <= HIDDEN_PACKETS_PER_S_MAX, `the link still carries ${rates.link} packets/s of a hidden video`);
  const { frames } = await to.track(from, 'video');
  const since = Date.now();
  await to.act('settings', { identity: from.identity, enabled: true });
  await until('the video returns', async () => (await to.track(from, 'video')).frames > frames + 5);
  return { hidden_edge_pps: rates.edge, hidden_link_pps: rates.link, shown_ms: Date.now() - since };
}

// Receivers choose simulcast layers by quality and by size, at the same edge and across a link, and hide a video.
export default {
  order: 11,
  watches: 8,
  async run(t) {
    const from = await t.chromium('source', 'fra');
    const near = await t.chromium('near', 'fra');
    const far = await t.chromium('far', 'syd');
    await from.act('publish_video', VIDEO);
    await Promise.all([near.sees(from), far.sees(from)]);
    const near_steps = await walk(near, from);
    const far_steps = await walk(far, from);
    await near.act('settings', { identity: from.identity, width: 240, height: 135 });
    const by_size_ms = await reaches(near, from, 240, Date.now());
    const hidden = await hide(t, far, from);
    return { near: near_steps, far: far_steps, by_size_ms, ...hidden };
  },
};
