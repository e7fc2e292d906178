import { random } from './material.mjs';

/**
 * Who speaks when: people take turns with short pauses, some begin before the other has ended, others throw in a word, and
 * now and then several speak at once.
 *
 * @param {{seconds: number, talkers: number, atOnceMax?: number, seed?: number}} options never more than `atOnceMax` at once
 * @returns {{turns: {talker: number, from_ms: number, to_ms: number}[]}} by start
 */
export function conversation({ seconds, talkers, atOnceMax = 5, seed = 1 }) {
  const next = random(seed);
  const between = (low, high) => Math.round(low + next() * (high - low));
  const turns = [];
  const end = seconds * 1000;
  const speaking = (from, to) => turns.filter((turn) => turn.from_ms < to && from < turn.to_ms);
  const take = (from, length) => {
    const to = Math.min(end, from + length);
    // Nobody speaks twice within a second of their own turn.
    const busy = new Set(speaking(from - 1000, to + 1000).map((turn) => turn.talker));
    const free = [...Array(talkers).keys()].filter((one) => !busy.has(one));
    if (to - from < 300 || speaking(from, to).length >= atOnceMax || free.length === 0) return;
    turns.push({ talker: free[between(0, free.length - 1)], from_ms: from, to_ms: to });
  };
  for (let now = 300; now < end - 800; ) {
    const length = between(700, 2500);
    take(now, length);
    const kind = next();
    if (kind < 0.3) take(now + between(200, length - 200), between(300, 700));
    if (kind > 0.75) for (let n = 0; n < 3; n += 1) take(now + between(100, 800), between(600, 1500));
    // From shortly before the end to shortly after it.
    now += length + between(-600, 400);
  }
  return { turns: turns.sort((a, b) => a.from_ms - b.from_ms) };
}
