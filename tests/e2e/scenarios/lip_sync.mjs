import { percentile, round } from '../lib/check.mjs';

/** How far picture and sound may be apart, 95th percentile. */
const OFFSET_MS_MAX = 40;
/**
 * The same before a browser has brought them together: it moves the playout of one by a few milliseconds per second, and
 * starts with whatever its buffers hold. A clock that is mapped wrongly shows as hundreds of milliseconds.
 */
const OFFSET_MS_MAX_EARLY = 150;
/** How long that takes. */
const SETTLE_S = 25;
/** Share of the flashes that must have been seen and heard. */
const SEEN_MIN = 0.7;
const FLASHES_PER_S = 2;

function figures(values) {
  return { p50: round(percentile(values, 50)), p95: round(percentile(values.map(Math.abs), 95)), n: values.length };
}

// A page in Frankfurt flashes and beeps at the same instants; a page in Sydney says how far apart it sees and hears them.
export default {
  name: 'lip-sync',
  about: 'how far apart picture and sound are for a viewer in another region',
  seconds: { long: 60, short: 6 },
  async run(s) {
    const to = await s.page('to', 'syd');
    // A browser leaves up to 30 ms between the two uncorrected: what it does of itself is for comparison.
    const loop = await to.act('loop_flashes', { settle: s.short ? 1 : SETTLE_S, seconds: s.short ? 3 : 20 });
    s.progress(`without a server ${JSON.stringify(figures(loop.offsets_ms))}`);
    const from = await s.chromium('from', 'fra');
    await s.join(to);
    await from.act('publish_flashes');
    // Pages behind another one are not rendered.
    await to.page.bringToFront();
    await to.sees(from);
    await to.hears(from);
    const seen = await to.act('watch_flashes', { identity: from.identity, settle: s.short ? 3 : SETTLE_S, seconds: s.seconds });
    const limit = s.short ? OFFSET_MS_MAX_EARLY : OFFSET_MS_MAX;
    const result = figures(seen.offsets_ms);
    s.progress(`across the mesh ${JSON.stringify(result)}`);
    s.limits.atLeast('flashes that were seen and heard', result.n, s.seconds * FLASHES_PER_S * SEEN_MIN);
    s.limits.atMost('ms between picture and sound (p95)', result.p95, limit);
    const playout = seen.playout_ms.map(Math.abs);
    s.limits.atMost('ms between playout times (median)', percentile(playout, 50), limit);
    return {
      flashes: seen.flashes,
      beeps: seen.beeps,
      offset_ms: result,
      loop_ms: figures(loop.offsets_ms),
      playout_ms: figures(seen.playout_ms),
      loop_playout_ms: figures(loop.playout_ms),
    };
  },
};
