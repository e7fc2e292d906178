import { check, round } from '../lib/check.mjs';
import { playByWhep, refusals } from '../lib/whip.mjs';

/** What was shown is a picture of that width. */
async function shows(client, width) {
  await client.receives({ identity: 'whep' }, 'video', `shows ${width} pixels of`, (track) => track.width === width, 15_000);
}

// Plain WHEP players in Sydney watch livekit-client pages in Frankfurt, from before the first one publishes to after it has left.
export default {
  watches: 6,
  async run(t) {
    const statuses = await refusals(t, 'whep');
    const early = await t.whipPage('early', 'syd');
    const { post_ms: post } = await playByWhep(t, early);
    const wide = await t.chromium('wide', 'fra');
    const publishedAt = Date.now();
    await wide.publish({ video: { width: 640, height: 360 } });
    const attached = await early.event('first_frame', {}, { sinceMs: publishedAt });
    const { participants } = await wide.stats();
    check(participants.length === 0, `a player is shown to others: ${participants}`);

    const player = await t.whipPage('player', 'syd');
    const { sinceMs } = await playByWhep(t, player);
    const first = await player.event('first_frame', {}, { sinceMs });
    const shown = { identity: 'whep' };
    await player.sees(shown);
    await player.hears(shown);
    const seen = await player.watch(shown, t.seconds);
    check(seen.fps > 10, `the player shows ${JSON.stringify(seen)}`);

    const small = await t.chromium('small', 'fra');
    await small.publish({ video: { width: 320, height: 180 } });
    const named = await t.whipProcess('named', 'syd');
    await playByWhep(t, named, '?identity=small');
    await shows(named, 320);
    await wide.act('mute', { kind: 'video', muted: true });
    await shows(player, 320);
    await wide.act('mute', { kind: 'video', muted: false });
    await t.drop(small);
    await shows(player, 640);
    await player.hears(shown);
    const after = await player.watch(shown, t.seconds);
    check(after.fps > 10, `after two changes of publisher: ${JSON.stringify(after)}`);
    const { status } = await player.act('end');
    check(status === 200, `DELETE was answered ${status}`);
    return {
      statuses,
      post_ms: post,
      attach_ms: Math.round(attached.at_ms - publishedAt),
      first_frame_ms: Math.round(first.at_ms - sinceMs),
      fps: round(seen.fps),
      freezes: seen.freezes,
      fps_after_changes: round(after.fps),
      freezes_after_changes: after.freezes,
    };
  },
};
