import { check, sleep, until } from '../lib/check.mjs';

/** Three layers, as in `layers`. */
const VIDEO = { width: 960, height: 540, fps: 15, simulcast: true, bitrate: 900_000 };
/** A layer that nobody wants is given up after 5 s; the rest is time for the browser. */
const PAUSED_MS_MAX = 9000;
const STILL_S = 2;

const layers = async (from) => {
  const { tracks } = await from.act('sent');
  return new Map(tracks.find((one) => one.kind === 'video').sent.map((one) => [one.rid, one]));
};

/** Waits until exactly these encodings are on. */
async function sends(from, rids, timeoutMs) {
  const started = Date.now();
  await until(
    `${from.identity} sends ${rids.join(', ') || 'nothing'}`,
    async () => {
      const active = [...(await layers(from)).values()].filter((one) => one.active);
      return active.map((one) => one.rid).sort().join() === [...rids].sort().join();
    },
    { timeoutMs, everyMs: 50 },
  );
  return Date.now() - started;
}

/** What these encodings still send while they should be off, in bytes. */
async function leaks(from, rids) {
  const before = await layers(from);
  await sleep(STILL_S * 1000);
  const after = await layers(from);
  return rids.reduce((sum, rid) => sum + after.get(rid).bytes - before.get(rid).bytes, 0);
}

// A publisher pauses the layers that nobody wants, here and across a link, and sends them again at once when somebody does.
export default {
  order: 12,
  watches: 12,
  async run(t) {
    const from = await t.chromium('source', 'fra', { dynacast: true });
    const near = await t.chromium('near', 'fra');
    const far = await t.chromium('far', 'syd');
    await from.act('publish_video', VIDEO);
    await Promise.all([near.sees(from), far.sees(from)]);
    const wish = (to, settings) => to.act('settings', { identity: from.identity, ...settings });
    await wish(near, { quality: 'low' });
    await wish(far, { quality: 'low' });
    const low_ms = await sends(from, ['q'], PAUSED_MS_MAX);
    const leaked = await leaks(from, ['h', 'f']);
    check(leaked === 0, `${leaked} bytes of paused layers`);
    await wish(far, { quality: 'high' });
    const high_ms = await sends(from, ['q', 'h', 'f'], 3000);
    await until('the far picture is 960 wide', async () => (await far.track(from, 'video')).width === 960);
    await wish(near, { enabled: false });
    await wish(far, { enabled: false });
    const off_ms = await sends(from, [], PAUSED_MS_MAX);
    await wish(near, { enabled: true, quality: 'medium' });
    const { frames } = await near.track(from, 'video');
    const on_ms = await sends(from, ['q', 'h'], 3000);
    const since = Date.now();
    await until('the near picture returns', async () => (await near.track(from, 'video')).frames > frames + 5);
    return { low_ms, high_ms, off_ms, on_ms, shown_ms: Date.now() - since };
  },
};
