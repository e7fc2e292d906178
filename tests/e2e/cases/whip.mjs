import { check, round, until } from '../lib/check.mjs';
import { publishByWhip, refusals } from '../lib/whip.mjs';

const SDP = 'application/sdp';
/** How long a participant may be visible after its session was deleted. */
const GONE_MS_MAX = 1000;

/** Preconditions of PATCH, and an ICE restart while media flows. */
async function restart(t, page, viewer) {
  const patch = async (options) => (await page.act('patch', options)).status;
  const statuses = {
    unconditional: await patch({}),
    stale: await patch({ if_match: '"stale"' }),
    trickle: await patch({ if_match: 'current' }),
    garbage: await patch({ if_match: 'current', body: 'nonsense' }),
    wrong_type: await patch({ if_match: 'current', type: SDP }),
  };
  const wanted = { unconditional: 428, stale: 412, trickle: 204, garbage: 400, wrong_type: 415 };
  check(JSON.stringify(statuses) === JSON.stringify(wanted), `PATCH was answered ${JSON.stringify(statuses)}`);
  const before = await page.act('path');
  const { changed } = await page.act('restart');
  check(changed, 'an ICE restart brought no new credentials');
  await until('the new ICE session carries media', async () => (await page.act('path')).ufrag !== before.ufrag);
  const seen = await viewer.watch(page, t.seconds);
  check(seen.fps > 8 && seen.freezes === 0, `after the restart: ${JSON.stringify(seen)}`);
  return { ...statuses, fps_after_restart: round(seen.fps) };
}

/** Deletes a session and waits until the others see the participant leave. */
async function end(client, viewer) {
  const sinceMs = Date.now();
  const { status } = await client.act('end');
  check(status === 200, `DELETE was answered ${status}`);
  const gone = await viewer.event('participant_disconnected', { identity: client.identity }, { sinceMs });
  check(gone.at_ms - sinceMs <= GONE_MS_MAX, `the participant was visible for ${gone.at_ms - sinceMs} ms after DELETE`);
  return Math.round(gone.at_ms - sinceMs);
}

// aiortc and a page publish by WHIP in Frankfurt; a page with livekit-client in Sydney sees and hears them.
export default {
  watches: 6,
  async run(t) {
    const statuses = await refusals(t, 'whip');
    const viewer = await t.chromium('viewer', 'syd');
    const camera = await t.whipProcess('aiortc', 'fra');
    const times = await publishByWhip(t, camera, viewer);
    const seen = await viewer.watch(camera, t.seconds);
    check(seen.fps > 10 && seen.width === 320 && seen.height === 240, `from aiortc: ${JSON.stringify(seen)}`);
    const gone = { aiortc_ms: await end(camera, viewer) };

    const page = await t.whipPage('page', 'fra');
    const pageTimes = await publishByWhip(t, page, viewer, { simulcast: true, width: 640, height: 480 });
    const patched = await restart(t, page, viewer);
    gone.page_ms = await end(page, viewer);

    const lost = await t.whipProcess('vanishing', 'fra');
    // As FFmpeg does, it waits for our ClientHello.
    await publishByWhip(t, lost, viewer, { setup: 'passive' });
    const sinceMs = Date.now();
    await lost.act('vanish');
    const left = await viewer.event('participant_disconnected', { identity: 'vanishing' }, { sinceMs, timeoutMs: 30_000 });
    gone.vanished_ms = Math.round(left.at_ms - sinceMs);
    return { statuses, aiortc: times, page: pageTimes, fps: round(seen.fps), patched, gone };
  },
};
