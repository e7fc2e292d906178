import { percentile } from '../lib/check.mjs';

const JOINS = 20;

/** Times from the call of join to the first frame on the screen, in ms. */
async function joinTimes(t, region, from) {
  const page = await t.page(`joiner-${region}`, region);
  const connected = [];
  const seen = [];
  for (let join = 0; join < JOINS; join += 1) {
    const since = Date.now();
    await t.join(page);
    connected.push(Date.now() - since);
    const first = await page.event('first_frame', { identity: from.identity }, { sinceMs: since });
    seen.push(first.at_ms - since);
    await page.act('leave');
  }
  await t.drop(page);
  return {
    connect_ms_p50: percentile(connected, 50),
    connect_ms_p95: percentile(connected, 95),
    first_frame_ms_p50: percentile(seen, 50),
    first_frame_ms_p95: percentile(seen, 95),
  };
}

// How long it takes to join a call and see the other, in its region and from another.
export default {
  order: 13,
  async run(t) {
    const from = await t.native('source', 'fra');
    await from.publish({ video: { width: 320, height: 180, fps: 30, bitrate: 300_000 } });
    return { joins: JOINS, same_region: await joinTimes(t, 'fra', from), across: await joinTimes(t, 'syd', from) };
  },
};
