import { Browser } from '../lib/browser.mjs';
import { percentile, round, sleep } from '../lib/check.mjs';
import { film } from '../lib/film.mjs';
import { publish } from '../lib/publishers.mjs';
import { picture, sound } from '../lib/reception.mjs';
import { Sampler, layers } from '../lib/reports.mjs';
import { Wan, wanMesh } from '../lib/wan.mjs';

const QUEUE = '300ms';
const DELAY = '20ms';
/** Mbit/s, one after the other. */
const STEPS = { vp8: [3, 0.6, 0.2, 3], 'vp9-svc': [0.9, 0.4, 0.2, 0.9], av1: [0.9, 0.4, 0.2, 0.9] };
/** From here on a step counts as steady, as a share of its length. */
const STEADY_FROM = 0.5;
/** After a step the queue may be full for as long as it takes to notice. */
const NOTICE_MS = 2000;
/** Queues from here on are logged one by one. */
const LONG_QUEUE_MS = 150;
const LIMITS = { estimateMin: 75, estimateMax: 105, recoveryS: 10, queueMs: 250, audioLost: 1 };
/** The short form's steps are too short to become steady in, and its machine is busy: it shows that the sender follows. */
const LIMITS_SHORT = { estimateMin: 40, estimateMax: 115, recoveryS: 10, queueMs: 310, audioLost: 6 };
/** Recovered is this share of the last step's capacity; in the short form the other one. */
const RECOVERED = 0.9;
const RECOVERED_SHORT = 0.5;

/** Three simulcast publishers, one with sound: 5 Mbit/s at most. */
async function replayed(s) {
  const [talker] = await publish(s, { prefix: 'talker-', sound: true });
  const others = await publish(s, { prefix: 'other-', publishers: 2 });
  return { videos: [talker, ...others], sound: talker };
}

/** One publisher in Chromium whose one stream has all layers. */
async function encoded(s, codec) {
  const browser = s.also(await Browser.start({ camera: await film({ width: 640, height: 360, fps: 15 }) }));
  const from = s.keep(await browser.open('talker-0', 'fra', { log: s.log }));
  await s.join(from);
  await from.act('publish_video', { width: 640, height: 360, fps: 15, codec, bitrate: 1_200_000 });
  await from.act('publish_audio', { red: false });
  return { videos: ['talker-0'], sound: 'talker-0' };
}

/** Figures of one receiver during one step. */
function judgeStep(s, { receiver, wan, sampler }, { mbps, up, from, to }) {
  const limits = s.short ? LIMITS_SHORT : LIMITS;
  const steady = from + (to - from) * STEADY_FROM;
  const reports = sampler.during(receiver.identity, steady, to);
  const estimate = percentile(reports.map((one) => one.estimate_bps).filter(Number.isFinite), 50);
  const queues = wan.during('down', from + NOTICE_MS, to).map((one) => one.queue_ms_max);
  for (const one of wan.during('down', from, to).filter((sample) => sample.queue_ms_max > LONG_QUEUE_MS)) {
    s.log(`${round((one.at_ms - s.started) / 1000)} s  to ${receiver.identity}: queue on the path ${one.queue_ms_max} ms, ${round(one.rate_bps / 1000, 0)} kbit/s`);
  }
  const delivered = wan.during('down', steady, to).map((one) => one.rate_bps);
  const figures = {
    kbps: mbps * 1000,
    estimate_percent: estimate === null ? null : round(estimate / mbps / 1e4, 0),
    delivered_percent: round(delivered.reduce((sum, one) => sum + one, 0) / Math.max(1, delivered.length) / mbps / 1e4, 0),
    queue_ms_max: queues.length > 0 ? Math.max(...queues) : null,
    layers: [...new Set(reports.map(layers))].slice(-4),
  };
  const at = `${receiver.identity} at ${mbps} Mbit/s:`;
  // On a step up the time of recovery is the limit.
  if (!up) s.limits.atLeast(`${at} estimate in % of capacity`, figures.estimate_percent, limits.estimateMin);
  s.limits.atMost(`${at} estimate in % of capacity`, figures.estimate_percent, limits.estimateMax);
  s.limits.atMost(`${at} queue in ms, ${NOTICE_MS} ms after the step`, figures.queue_ms_max, limits.queueMs);
  return figures;
}

function recovery(s, { receiver, sampler }, { mbps, from, to }) {
  const share = s.short ? RECOVERED_SHORT : RECOVERED;
  const enough = (one) => one.estimate_bps >= share * mbps * 1e6;
  const at = sampler.during(receiver.identity, from, to).find(enough)?.at_ms;
  const seconds = at === undefined ? null : round((at - from) / 1000);
  s.limits.atMost(`${receiver.identity}: recovery in s`, seconds, Math.min(LIMITS.recoveryS, (to - from) / 1000));
  return seconds;
}

async function judge(s, end, sent, steps) {
  const after = await end.receiver.stats();
  const heard = sound(end.before, after, sent.sound);
  s.limits.atMost(`${end.receiver.identity}: sound lost in %`, heard.audio_lost_percent, (s.short ? LIMITS_SHORT : LIMITS).audioLost);
  const pictures = sent.videos.map((identity) => picture(end.before, after, identity));
  return {
    steps: steps.map((step) => judgeStep(s, end, step)),
    recovery_s: recovery(s, end, steps.at(-1)),
    ...heard,
    fps: pictures.map((one) => one.fps),
    freeze_s: pictures.map((one) => one.freeze_s),
    plis: pictures.map((one) => one.plis),
  };
}

export default {
  name: 'capacity-steps',
  about: 'a receiver whose capacity steps 3 -> 0.6 -> 0.2 -> 3 Mbit/s (--codec vp8|vp9-svc|av1)',
  seconds: { long: 120, short: 40 },
  options: { codec: { type: 'string', default: 'vp8' } },
  needs: ['root'],
  mesh: wanMesh(),
  async run(s) {
    const { codec } = s.options;
    const [page, native] = [s.also(await Wan.start(0)), s.also(await Wan.start(1))];
    const paths = [page, native];
    await Promise.all(paths.map((wan) => wan.set({ down: { delay: DELAY, queue: QUEUE }, up: { delay: DELAY } })));
    const sent = codec === 'vp8' ? await replayed(s) : await encoded(s, codec.replace('-svc', ''));
    s.progress(`${sent.videos.length} publishers of ${codec}`);
    const ends = [
      { receiver: await page.chromium(s, 'page', 'fra'), wan: page },
      { receiver: await native.native(s, 'native', 'fra'), wan: native },
    ];
    for (const { receiver } of ends) {
      for (const identity of sent.videos) await receiver.sees({ identity });
      await receiver.hears({ identity: sent.sound });
    }
    const sampler = new Sampler(s, 'fra', ['page', 'native']);
    const steps = [];
    for (const end of ends) Object.assign(end, { sampler, before: await end.receiver.stats() });
    for (const mbps of STEPS[codec]) {
      s.progress(`${mbps} Mbit/s`);
      const from = Math.max(...(await Promise.all(paths.map((wan) => wan.set({ down: { rate: mbps * 1e6 } })))));
      await sleep((s.seconds * 1000) / STEPS[codec].length);
      steps.push({ mbps, up: mbps > (steps.at(-1)?.mbps ?? Infinity), from, to: Date.now() });
    }
    const [of_page, of_native] = [await judge(s, ends[0], sent, steps), await judge(s, ends[1], sent, steps)];
    return { page: of_page, native: of_native };
  },
};
