import { check } from './check.mjs';
import { twoWay } from './two_way.mjs';

/** One way between Frankfurt and Sydney takes light in glass 80 ms; a call that is faster did not leave this machine. */
const DELAY_MS_MIN = 80;
/** Beyond this delay people talk over each other. */
const DELAY_MS_MAX = 600;

/** A page in Frankfurt and a native client in Sydney talk; a second native client in Frankfurt sends stamped frames. */
export async function acrossRegions(t) {
  const [fra, syd] = [await t.chromium('fra-page', 'fra'), await t.native('syd-native', 'syd')];
  const both = await twoWay(t, fra, syd);

  const stamped = await t.native('fra-native', 'fra');
  await stamped.publish({ video: { width: 320, height: 180, fps: 15 }, audio: null });
  await syd.sees(stamped);
  await syd.track(stamped, 'video'); // starts a new window of delays
  const seen = await syd.watch(stamped, t.seconds);
  const delay = seen.delay_ms_p50;
  check(delay !== null, 'no stamp in the frames of fra-native could be read');
  check(delay >= DELAY_MS_MIN && delay <= DELAY_MS_MAX, `frames take ${delay} ms from Frankfurt to Sydney`);

  await syd.act('rpc_serve', { method: 'shout' });
  const called = Date.now();
  const { answer } = await fra.act('rpc_call', { to: syd.identity, method: 'shout', payload: 'hello' });
  check(answer === 'HELLO', `the call across regions answered ${answer}`);
  return { frame_delay_ms_p50: delay, rpc_ms: Date.now() - called, ...both };
}
