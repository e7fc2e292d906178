import { percentile, round } from '../lib/check.mjs';
import { playByWhep, publishByWhip } from '../lib/whip.mjs';

/** What a person would call immediate, and what a request to an edge 80 ms away may cost; ms. */
const POST_MS_MAX = 500;
const FIRST_FRAME_MS_MAX = 3000;
const FPS = 15;
const FPS_MIN = 0.9 * FPS;
const SHOWN = { identity: 'whep' };

/** Sessions that start one after another, for the percentiles. */
const starts = (s) => (s.short ? 3 : 20);

/** Publishes again and again by plain RTCPeerConnection in Frankfurt, seen in Sydney. */
async function publishOften(s, viewer) {
  const posts = [];
  const frames = [];
  for (let index = 0; index < starts(s); index += 1) {
    const page = await s.whipPage(`camera-${index}`, 'fra');
    const { post_ms: post, first_frame_ms: first } = await publishByWhip(s, page, viewer, { width: 640, height: 360, fps: FPS });
    posts.push(post);
    frames.push(first);
    await s.drop(page);
  }
  return { posts, frames };
}

/** Starts playing again and again. */
async function playOften(s, region) {
  const posts = [];
  const frames = [];
  for (let index = 0; index < starts(s); index += 1) {
    const page = await s.whipPage(`player-${region}-${index}`, region);
    const { post_ms: post, sinceMs } = await playByWhep(s, page);
    const first = await page.event('first_frame', {}, { sinceMs });
    posts.push(post);
    frames.push(Math.round(first.at_ms - sinceMs));
    await s.drop(page);
  }
  return { posts, frames };
}

function judge(s, what, { posts, frames }) {
  const figures = {
    [`${what}_post_ms_p50`]: percentile(posts, 50),
    [`${what}_post_ms_max`]: percentile(posts, 100),
    [`${what}_first_frame_ms_p50`]: percentile(frames, 50),
    [`${what}_first_frame_ms_max`]: percentile(frames, 100),
  };
  s.limits.atMost(`${what}: time to 201, ms`, figures[`${what}_post_ms_max`], POST_MS_MAX);
  s.limits.atMost(`${what}: time to the first frame, ms`, figures[`${what}_first_frame_ms_max`], FIRST_FRAME_MS_MAX);
  return figures;
}

export default {
  name: 'whip-whep',
  about: 'publishers by WHIP and players by WHEP, in one region and across two: times to start, and steady media',
  seconds: { long: 120, short: 6 },
  async run(s) {
    const viewer = await s.chromium('viewer', 'syd');
    s.progress('publishing by WHIP in Frankfurt, one after another');
    const whip = judge(s, 'whip', await publishOften(s, viewer));

    const camera = await s.whipPage('camera', 'fra');
    await publishByWhip(s, camera, viewer, { width: 640, height: 360, fps: FPS, simulcast: true });
    s.progress('playing by WHEP in Frankfurt and Sydney, one after another');
    const near = judge(s, 'whep_near', await playOften(s, 'fra'));
    const far = judge(s, 'whep_far', await playOften(s, 'syd'));

    const players = [await s.whipPage('near', 'fra'), await s.whipPage('far', 'syd')];
    for (const player of players) {
      await playByWhep(s, player);
      await player.sees(SHOWN);
      await player.hears(SHOWN);
    }
    s.progress(`watching for ${s.seconds} s`);
    const watched = await Promise.all([
      viewer.watch(camera, s.seconds),
      ...players.map((player) => player.watch(SHOWN, s.seconds)),
    ]);
    const steady = {};
    for (const [index, name] of ['whip_far', 'whep_near', 'whep_far'].entries()) {
      const seen = watched[index];
      s.limits.atLeast(`${name}: frames per second`, seen.fps, FPS_MIN);
      s.limits.holds(seen.energy > 0, `${name}: there is no sound`);
      Object.assign(steady, { [`${name}_fps`]: round(seen.fps), [`${name}_freezes`]: seen.freezes });
    }
    return { starts: starts(s), ...whip, ...near, ...far, ...steady };
  },
};
