import { round, sleep } from '../lib/check.mjs';
import { publish } from '../lib/publishers.mjs';
import { picture } from '../lib/reception.mjs';
import { Wan, wanMesh } from '../lib/wan.mjs';

const DELAY = '20ms';
const FAST = { down: { rate: '5M', delay: DELAY }, up: { delay: DELAY } };
const SLOW = { down: { rate: '200k', delay: DELAY }, up: { delay: DELAY } };
/** Of what the fast one gets alone, in percent. */
const FPS_MIN = 95;
/** The same beside other things on a busy machine, where a freeze may happen anyway. */
const FPS_MIN_BUSY = 60;
const FREEZES_BUSY = 3;
/** The slow one must see something move. */
const SLOW_FPS_MIN = 3;
const SETTLE_MS = 4000;

async function watch(receivers, from, ms) {
  const before = await Promise.all(receivers.map((one) => one.stats()));
  await sleep(ms);
  const after = await Promise.all(receivers.map((one) => one.stats()));
  return receivers.map((_, index) => {
    const { fps, width, freezes, freeze_s, kbps, plis } = picture(before[index], after[index], from);
    return { fps, width, freezes, freeze_s, kbps, plis };
  });
}

/** The fast receiver beside a slow one in some region, against what it gets alone. */
async function beside(s, { fast, wan, from, alone, ms }, region) {
  s.progress(`a slow neighbour in ${region}`);
  const slow = await wan.native(s, `slow-${region}`, region);
  await slow.sees({ identity: from }, { timeoutMs: 40_000 });
  await sleep(SETTLE_MS);
  const [of_fast, of_slow] = await watch([fast, slow], from, ms);
  await s.drop(slow);
  const at = `beside a slow one in ${region}:`;
  s.limits.atLeast(`${at} frames in % of those alone`, round((100 * of_fast.fps) / alone.fps), s.short ? FPS_MIN_BUSY : FPS_MIN);
  s.limits.atLeast(`${at} width`, of_fast.width, alone.width);
  s.limits.atMost(`${at} freezes`, of_fast.freezes, alone.freezes + (s.short ? FREEZES_BUSY : 0));
  s.limits.atLeast(`${at} frames per second of the slow one`, of_slow.fps, SLOW_FPS_MIN);
  s.limits.atMost(`${at} width at the slow one`, of_slow.width, alone.width - 1);
  return { fast: of_fast, slow: of_slow };
}

export default {
  name: 'slow-neighbour',
  about: 'a receiver with 5 Mbit/s beside one with 200 kbit/s, in the same region and in another',
  seconds: { long: 90, short: 24 },
  needs: ['root'],
  mesh: wanMesh({ regions: ['fra', 'iad'], wan: true }),
  async run(s) {
    const [wide, narrow] = [s.also(await Wan.start(0)), s.also(await Wan.start(1))];
    await Promise.all([wide.set(FAST), narrow.set(SLOW)]);
    const [from] = await publish(s, { prefix: 'talker-' });
    const fast = await wide.chromium(s, 'fast', 'fra');
    const top = await fast.receives({ identity: from }, 'video', 'gets the top layer of', (one) => one.width >= 1280, 20_000);
    s.progress(`alone, ${top.width} wide`);
    const ms = (s.seconds * 1000) / 3;
    await sleep(SETTLE_MS);
    const [alone] = await watch([fast], from, ms);
    const setting = { fast, wan: narrow, from, alone, ms };
    return { alone, same_region: await beside(s, setting, 'fra'), other_region: await beside(s, setting, 'iad') };
  },
};
