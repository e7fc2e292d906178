import { check, round } from './check.mjs';

/** Below this, a call between two on an idle machine is not fluent (the sources run at 15 frames/s or more). */
const FPS_MIN = 8;
/** Chromium's fake microphone beeps once a second; a tone carries far more. */
const ENERGY_PER_S_MIN = 0.0002;

/** Video, sound and data between two participants who have joined; returns figures of each direction. */
export async function twoWay(t, a, b, publish = {}) {
  await a.publish(publish);
  await b.publish(publish);
  const directions = [[a, b], [b, a]];
  await Promise.all(directions.map(([to, from]) => to.sees(from)));
  await Promise.all(directions.map(([to, from]) => to.hears(from, { energy: ENERGY_PER_S_MIN })));
  const data_ms = [await a.tells([b]), await b.tells([a]), await a.tells([b], { reliable: false })];
  const [toA, toB] = await Promise.all(directions.map(([to, from]) => to.watch(from, t.seconds)));
  checkFluent(t, a, b, toA);
  checkFluent(t, b, a, toB);
  return { data_ms, [`to_${a.identity}`]: figures(toA), [`to_${b.identity}`]: figures(toB) };
}

/** Checks what `to` received of `from` while it was watched. */
export function checkFluent(t, to, from, seen, { fpsMin = FPS_MIN } = {}) {
  check(seen.fps >= fpsMin, `${to.identity} got only ${round(seen.fps)} frames/s of ${from.identity}`);
  check(
    seen.energy >= ENERGY_PER_S_MIN * t.seconds * 0.5,
    `${to.identity} heard too little of ${from.identity}: energy ${seen.energy} in ${t.seconds} s`,
  );
}

/** The figures worth printing of what `watch` returns. */
export function figures(seen) {
  return {
    fps: round(seen.fps),
    size: `${seen.width}x${seen.height}`,
    codec: seen.codec,
    freezes: seen.freezes,
    lost: seen.video_lost + seen.audio_lost,
    ...(seen.delay_ms_p50 !== null && { delay_ms_p50: seen.delay_ms_p50 }),
    energy: round(seen.energy, 4),
  };
}
