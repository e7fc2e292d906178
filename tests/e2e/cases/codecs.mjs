import { check } from '../lib/check.mjs';

const VIDEO_CODECS = ['vp8', 'h264', 'vp9', 'av1'];
const VIDEO = { width: 320, height: 180, fps: 15, bitrate: 300_000 };

/** One codec from one sender to both others, then taken back. */
async function tryVideo(from, others, codec) {
  await from.act('publish_video', { ...VIDEO, codec });
  for (const to of others) {
    const track = await to.sees(from);
    check(track.codec === codec, `${to.identity} decodes ${track.codec} of ${from.identity}, not ${codec}`);
  }
  await from.act('unpublish', { kind: 'video' });
  const gone = async (to) => to.event('track_unsubscribed', { identity: from.identity });
  await Promise.all(others.map(gone));
  for (const to of others) to.events = to.events.filter((one) => one.event !== 'track_unsubscribed');
}

async function tryAudio(from, others, red) {
  await from.act('publish_audio', { red });
  await Promise.all(others.map((to) => to.hears(from)));
  const sent = (await from.attempt('sent')).tracks?.find((one) => one.kind === 'audio');
  check(!sent || sent.codec === (red ? 'red' : 'opus'), `${from.identity} sends ${sent?.codec}`);
  await from.act('unpublish', { kind: 'audio' });
  await Promise.all(others.map((to) => to.event('track_unsubscribed', { identity: from.identity })));
  for (const to of others) to.events = to.events.filter((one) => one.event !== 'track_unsubscribed');
}

// Every codec in both directions between a page and a native client, and across a link to a third.
export default {
  order: 6,
  watches: 10,
  async run(t) {
    const page = await t.chromium('page', 'fra');
    const native = await t.native('native', 'fra');
    const far = await t.native('far', 'iad');
    const done = [];
    const failed = [];
    for (const [from, others] of [[page, [native, far]], [native, [page, far]]]) {
      const tries = [
        ...VIDEO_CODECS.map((codec) => [codec, () => tryVideo(from, others, codec)]),
        ['opus', () => tryAudio(from, others, false)],
        ['red', () => tryAudio(from, others, true)],
      ];
      for (const [codec, attempt] of tries) {
        try {
          await attempt();
          done.push(`${from.identity} ${codec}`);
        } catch (error) {
          failed.push(`${from.identity} ${codec}: ${error.message}`);
          await from.attempt('unpublish', { kind: VIDEO_CODECS.includes(codec) ? 'video' : 'audio' });
        }
      }
    }
    check(failed.length === 0, failed.join('; '));
    return { done };
  },
};
