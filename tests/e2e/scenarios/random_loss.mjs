import { round, sleep } from '../lib/check.mjs';
import { publish } from '../lib/publishers.mjs';
import { picture, sound } from '../lib/reception.mjs';
import { Sampler } from '../lib/reports.mjs';
import { Wan, wanMesh } from '../lib/wan.mjs';

const FPS = 15;
const DELAY = '20ms';
/**
 * Percent lost each way, and the least share of the sent frames per second that must be decoded. The first one tells what
 * this machine can decode at all.
 */
const LOSSES = [
  [0, 95],
  [2, 95],
  [5, 90],
  [10, 80],
];
/** The short form, beside other things on a busy machine, only shows that pictures go on: this share of the limits. */
const SHORT_SHARE = 0.25;
/** What a change of the network may take to be dealt with. */
const SETTLE_MS = 1000;

async function watch(s, { receiver, wan }, from, [percent, fpsMin], ms) {
  const begun = Date.now();
  const before = await receiver.stats();
  await sleep(ms);
  const after = await receiver.stats();
  const { fps, ...seen } = picture(before, after, from);
  const fps_percent = round((100 * fps) / FPS);
  s.limits.atLeast(`${receiver.identity} at ${percent} % loss: frames decoded in %`, fps_percent, s.short ? fpsMin * SHORT_SHARE : fpsMin);
  const samples = wan.during('down', begun);
  const lost = samples.reduce((sum, one) => sum + one.lost, 0);
  const passed = samples.reduce((sum, one) => sum + one.packets, 0);
  return { loss_percent: round((100 * lost) / Math.max(1, lost + passed)), fps_percent, ...seen, ...sound(before, after, from) };
}

export default {
  name: 'random-loss',
  about: 'receivers that lose 2, 5 and 10 % of the packets in both directions',
  seconds: { long: 120, short: 32 },
  needs: ['root'],
  mesh: wanMesh(),
  async run(s) {
    const [page, native] = [s.also(await Wan.start(0)), s.also(await Wan.start(1))];
    await Promise.all([page, native].map((wan) => wan.set({ down: { delay: DELAY }, up: { delay: DELAY } })));
    const [from] = await publish(s, { prefix: 'talker-', sound: true, fps: FPS });
    const ends = [
      { receiver: await page.chromium(s, 'page', 'fra'), wan: page },
      { receiver: await native.native(s, 'native', 'fra'), wan: native },
    ];
    for (const { receiver } of ends) {
      await receiver.sees({ identity: from });
      await receiver.hears({ identity: from });
    }
    const sampler = new Sampler(s, 'fra', ['page', 'native']);
    const figures = { page: {}, native: {} };
    for (const [percent, fpsMin] of LOSSES) {
      s.progress(`${percent} %`);
      const change = { down: { loss: percent / 100 }, up: { loss: percent / 100 } };
      const since = Math.max(...(await Promise.all([page, native].map((wan) => wan.set(change)))));
      await sleep(SETTLE_MS);
      const ms = (s.seconds * 1000) / LOSSES.length - SETTLE_MS;
      const seen = await Promise.all(ends.map((end) => watch(s, end, from, [percent, fpsMin], ms)));
      for (const [index, { receiver }] of ends.entries()) {
        const last = sampler.during(receiver.identity, since).at(-1);
        const estimate_kbps = last?.estimate_bps ? round(last.estimate_bps / 1000, 0) : null;
        figures[receiver.identity][`${percent}%`] = { ...seen[index], estimate_kbps };
      }
    }
    return figures;
  },
};
