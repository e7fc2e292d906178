import { check, until } from '../lib/check.mjs';

const VIDEO = { width: 640, height: 360, fps: 15, bitrate: 500_000, codec: 'vp9', backup: 'vp8' };
/** livekit.BackupCodecPolicy */
const SIMULCAST = 1;
const REGRESSION = 2;

const sees = (to, from, codec) =>
  until(
    `${to.identity} decodes ${codec} of ${from.identity}`,
    async () => {
      const track = await to.track(from, 'video');
      return track?.codec === codec && track.frames > 10 && track;
    },
    { timeoutMs: 25_000, everyMs: 100 },
  );

/** A publisher, one who decodes everything and two, here and far, who cannot decode VP9. */
async function scene(t, name, policy) {
  const room = `${t.room}-${name}`;
  const from = await t.chromium(`${name}-source`, 'fra', { room, dynacast: true });
  const able = await t.chromium(`${name}-able`, 'fra', { room });
  await from.act('publish_video', { ...VIDEO, policy });
  await sees(able, from, 'vp9');
  const since = Date.now();
  const old = await t.chromium(`${name}-old`, 'fra', { room, refuse: ['vp9', 'av1'] });
  await sees(old, from, 'vp8');
  const near_ms = Date.now() - since;
  const far = await t.chromium(`${name}-far`, 'syd', { room, refuse: ['vp9', 'av1'] });
  await sees(far, from, 'vp8');
  return { from, able, old, far, near_ms };
}

// Whoever cannot decode VP9 gets the publisher's VP8, here and across a link; with a regression everybody does.
export default {
  order: 13,
  watches: 12,
  async run(t) {
    const both = await scene(t, 'both', SIMULCAST);
    const able = await both.able.track(both.from, 'video');
    check(able.codec === 'vp9', `who decodes VP9 was moved to ${able.codec}`);
    const [sent] = (await both.from.act('sent')).tracks;
    check(Object.keys(sent.backups).join() === 'vp8', `the publisher's second codec: ${Object.keys(sent.backups)}`);
    for (const one of [both.able, both.old, both.far]) {
      check(!one.events.some((event) => event.event === 'subscription_failed'), `${one.identity} was refused`);
    }
    await Promise.all([both.from, both.able, both.old, both.far].map((one) => t.drop(one)));

    const one = await scene(t, 'one', REGRESSION);
    const since = Date.now();
    await sees(one.able, one.from, 'vp8');
    const moved_ms = Date.now() - since;
    const before = await one.able.track(one.from, 'video');
    await until('the moved picture goes on', async () => (await one.able.track(one.from, 'video')).frames > before.frames + 15);
    return { near_ms: both.near_ms, regression_ms: one.near_ms, moved_ms };
  },
};
