import { check, percentile, round, sleep } from '../lib/check.mjs';

const PLACES = ['fra', 'fra', 'iad', 'iad', 'syd', 'syd'];
/** A change must be seen within a second plus the longest way through the mesh. */
const SEEN_MS_MAX = 1000 + 300;
const VIDEO = { width: 320, height: 180, fps: 10, bitrate: 150_000 };

/** Longest time until all `others` were told `event` of `who`. */
async function seenBy(others, event, fields, sinceMs) {
  const told = await Promise.all(others.map((one) => one.event(event, fields, { sinceMs, timeoutMs: 10_000 })));
  return Math.round(Math.max(...told.map((one) => one.at_ms - sinceMs)));
}

async function allSeeAll(people) {
  const pairs = people.flatMap((to) => people.filter((from) => from !== to).map((from) => [to, from]));
  await Promise.all(pairs.map(([to, from]) => to.sees(from, { timeoutMs: 40_000 })));
}

/** Each hears each by its own pitch. */
async function checkTones(people) {
  for (const to of people) {
    const { tracks } = await to.stats();
    for (const [index, from] of people.entries()) {
      if (from === to) continue;
      const heard = tracks.find((one) => one.identity === from.identity && one.kind === 'audio');
      check(heard && Math.abs(heard.hz - tone(index)) < 15, `${to.identity} hears ${heard?.hz} Hz of ${from.identity}, not ${tone(index)}`);
    }
  }
}

const tone = (index) => 300 + 100 * index;

/** Mute, unmute, leave and return of one person, as everyone else is told of it. */
async function comingsAndGoings(t, people) {
  const [who, ...others] = people;
  const seen = {};
  let since = Date.now();
  await who.act('mute', { kind: 'video', muted: true });
  seen.mute_ms = await seenBy(others, 'track_muted', { identity: who.identity, kind: 'video' }, since);
  since = Date.now();
  await who.act('mute', { kind: 'video', muted: false });
  seen.unmute_ms = await seenBy(others, 'track_unmuted', { identity: who.identity, kind: 'video' }, since);
  since = Date.now();
  await who.act('leave');
  seen.leave_ms = await seenBy(others, 'participant_disconnected', { identity: who.identity }, since);
  since = Date.now();
  await t.join(who);
  seen.rejoin_ms = await seenBy(others, 'participant_connected', { identity: who.identity }, since);
  await who.publish({ video: VIDEO, audio: { hz: tone(0) } });
  await allSeeAll(people);
  seen.rejoin_media_ms = await seenBy(others, 'first_frame', { identity: who.identity }, since);
  return seen;
}

// Six native clients, two in each of three regions.
export default {
  order: 12,
  watches: 8,
  async run(t) {
    const people = await Promise.all(PLACES.map((region, index) => t.native(`${region}-${index}`, region)));
    await Promise.all(people.map((one, index) => one.publish({ video: VIDEO, audio: { hz: tone(index) } })));
    await allSeeAll(people);
    await sleep(1500);
    await checkTones(people);
    const changes = await comingsAndGoings(t, people);
    for (const change of ['mute_ms', 'unmute_ms', 'leave_ms']) {
      check(changes[change] <= SEEN_MS_MAX, `${change} took ${changes[change]} ms to be seen everywhere`);
    }
    const watched = await Promise.all(
      people.map((to) => to.watchAll(people.filter((from) => from !== to), t.seconds)),
    );
    const rates = watched.flat().map((one) => one.fps);
    check(Math.min(...rates) > VIDEO.fps / 2, `the slowest of ${rates.length} streams has ${round(Math.min(...rates))} frames/s`);
    return { ...changes, streams: rates.length, fps_min: round(Math.min(...rates)), fps_p50: round(percentile(rates, 50)) };
  },
};
