// What receivers got, from their own statistics.
import { round } from './check.mjs';

/** Differences of two statistics of a participant, per identity and kind. */
export function grown(before, after, identity, kind) {
  const pick = (stats) => stats.tracks.find((one) => one.identity === identity && one.kind === kind) ?? {};
  const [then, now] = [pick(before), pick(after)];
  const field = (name) => (now[name] ?? 0) - (then[name] ?? 0);
  const seconds = (after.at_ms - before.at_ms) / 1000;
  return { field, seconds, now };
}

/** Sound of one publisher: share of packets lost for good and of samples made up, in percent. */
export function sound(before, after, identity) {
  const { field } = grown(before, after, identity, 'audio');
  return {
    audio_lost_percent: round((100 * field('lost')) / Math.max(1, field('lost') + field('packets')), 2),
    concealed_percent: field('samples') > 0 ? round((100 * field('concealed')) / field('samples'), 2) : null,
  };
}

/** Picture of one publisher. */
export function picture(before, after, identity) {
  const { field, seconds, now } = grown(before, after, identity, 'video');
  // The native client's `frames` are those that reached its application.
  const frames = now.decoded === undefined ? field('frames') : field('decoded');
  return {
    fps: round(frames / seconds),
    width: now.width ?? 0,
    freezes: field('freezes'),
    freeze_s: round(field('freeze_s'), 2),
    kbps: round((field('bytes') * 8) / seconds / 1000, 0),
    packets: field('packets'),
    lost: field('lost'),
    nacks: field('nacks'),
    rtx: field('rtx'),
    plis: field('plis'),
  };
}
