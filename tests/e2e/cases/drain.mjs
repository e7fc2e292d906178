import { execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { check, percentile, round, sleep, until } from '../lib/check.mjs';
import { isAlive } from '../lib/mesh.mjs';

const run = promisify(execFile);
/** Small: twenty clients decode everybody's on the machine that they are tested on. */
const VIDEO = { width: 160, height: 90, fps: 10, bitrate: 100_000 };
/** The long form is asked for by a longer time to watch. */
const LONG_S = 20;
/** Clients of the drained edge that publish; the others only look. */
const PUBLISHERS = 2;
/** A full reconnect, its first pause (up to 500 ms in the SDK) not counted: the media goes on until it begins. */
const GAP_MS_MAX = 5000;

/** How long `one` saw nothing of the anchor, from its last frame before the move to the first one after. */
function gapOf(one, anchor, sinceMs) {
  const of = (event) => one.events.filter((e) => e.event === event && e.identity === anchor.identity && e.at_ms >= sinceMs);
  const first = of('first_frame').at(-1);
  const ended = of('track_unsubscribed').find((e) => e.last_ms) ?? one.events.find((e) => e.event === 'reconnecting' && e.at_ms >= sinceMs);
  check(first && ended, `${one.identity} saw no end and beginning: ${JSON.stringify(one.events.slice(-12))}`);
  return first.at_ms - (ended.last_ms ?? ended.at_ms);
}

const spread = (gaps) => ({ p50: round(percentile(gaps, 50), 0), p95: round(percentile(gaps, 95), 0), max: round(Math.max(...gaps), 0) });

async function admin(t, ...args) {
  const { stdout } = await run(t.environment.binary, [...args, '--url', t.mesh.control[0].grpc], { timeout: 120_000 });
  return stdout;
}

async function nodes(t) {
  return JSON.parse(await admin(t, 'node', 'list', '--json'));
}

/** Half of the clients know only the edge's URL, the other half only the gateway's. */
async function people(t, count) {
  const gateway = t.mesh.http.replace(/^http/, 'ws');
  const direct = await Promise.all(Array.from({ length: count / 2 - 1 }, (_, n) => t.native(`direct-${n}`, 'fra', { v: n % 2 })));
  direct.push(await t.chromium('page', 'fra', { v: 1 }));
  const through = await Promise.all(Array.from({ length: count / 2 }, (_, n) => t.native(`gateway-${n}`, 'fra', { url: gateway, v: n % 2 })));
  const everybody = direct.flatMap((one, n) => [one, through[n]]);
  await Promise.all(everybody.slice(0, PUBLISHERS).map((one) => one.publish({ video: VIDEO, audio: null })));
  return { direct, everybody };
}

/** Everybody is told to go, and comes back at the other edge. */
async function move(t, { anchor, everybody }, deadlineS) {
  const edge = t.mesh.edge('fra');
  const since = Date.now();
  const draining = admin(t, 'node', 'drain', 'edge-fra-0', '--deadline', `${deadlineS}s`);
  // Looked at below, unless something fails before.
  draining.catch(() => {});
  await until('the edge is shown as draining', async () => (await nodes(t)).find((one) => one.node === 'edge-fra-0')?.state === 'draining');
  const ready = (await fetch(new URL('/readyz', edge.admin))).status;
  check(ready === 503, `/readyz of a draining edge says ${ready}`);
  await Promise.all(everybody.map((one) => one.event('reconnected', {}, { sinceMs: since, timeoutMs: deadlineS * 1000 })));
  const moved_ms = Date.now() - since;
  await Promise.all(everybody.map((one) => one.event('first_frame', { identity: anchor.identity }, { sinceMs: since, timeoutMs: 20_000 })));
  const publishers = everybody.slice(0, PUBLISHERS);
  await Promise.all(publishers.map((one) => anchor.event('first_frame', { identity: one.identity }, { sinceMs: since, timeoutMs: 20_000 })));
  const gaps = everybody.map((one) => gapOf(one, anchor, since));
  const at_anchor = publishers.map((one) => gapOf(anchor, one, since));
  return { since, draining, moved_ms, gaps, at_anchor };
}

/** The same edge anew, as after an upgrade. */
async function startAgain(t) {
  const child = spawn(t.environment.binary, ['edge', '--config', join(t.mesh.dataDir, 'edge-fra-0.toml'), '--exit-with-parent'], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  await until('the edge is ready again', async () => (await nodes(t)).find((one) => one.node === 'edge-fra-0')?.state === 'ready');
  return { close: () => child.kill('SIGINT') };
}

// An edge is drained in the middle of a call: everybody goes on at the other one, and the process ends. Then it starts anew, and
// those who know no other URL find their sessions through it.
export default {
  order: 47,
  fresh: true,
  watches: 12,
  mesh: { regions: ['fra', 'iad'], relays: [] },
  async run(t) {
    const count = t.seconds >= LONG_S ? 20 : 6;
    const deadlineS = t.seconds >= LONG_S ? 30 : 15;
    const edge = t.mesh.edge('fra');
    const anchor = await t.native('anchor', 'iad');
    await anchor.publish({ video: VIDEO, audio: null });
    const { direct, everybody } = await people(t, count);
    await Promise.all(everybody.map((one) => one.sees(anchor, { timeoutMs: 40_000 })));
    await Promise.all(everybody.slice(0, PUBLISHERS).map((one) => anchor.sees(one, { timeoutMs: 40_000 })));
    const here = await t.mesh.metric(edge, 'antipode_edge_participants');
    check(here === count, `${here} of ${count} clients are at the edge that is to be drained`);

    const { since, draining, moved_ms, gaps, at_anchor } = await move(t, { anchor, everybody }, deadlineS);
    const log = await admin(t, 'audit', 'list', '--json');
    check(log.includes('node.drain'), 'the drain is not in the audit log');
    const progress = await draining;
    await until('the process is gone', () => !isAlive(edge.pid), { timeoutMs: deadlineS * 1000 });
    const gone_ms = Date.now() - since;
    check(gone_ms <= deadlineS * 1000, `the process was gone after ${gone_ms} ms`);
    check(/left/.test(progress), `the command said ${progress}`);

    await anchor.stats(); // starts a new window of gaps
    const again = await startAgain(t);
    const ended = Date.now();
    try {
      await Promise.all(direct.map((one) => one.event('reconnected', {}, { sinceMs: since + gone_ms - 1000, timeoutMs: 40_000 })));
      const back_ms = Date.now() - ended;
      await sleep(t.seconds * 500);
      const watched = await Promise.all(everybody.map((one) => one.watch(anchor, 2)));
      const slow = watched.filter((seen) => seen.fps < VIDEO.fps / 2);
      check(slow.length === 0, `${slow.length} clients see nothing fluent of the anchor: ${JSON.stringify(slow)}`);
      await Promise.all(everybody.map((one) => one.refresh()));
      const lost = everybody.filter((one) => one.events.some((e) => e.event === 'disconnected'));
      check(lost.length === 0, `${lost.map((one) => one.identity)} were disconnected`);
      const gap = spread(gaps);
      check(gap.max <= GAP_MS_MAX, `somebody saw nothing for ${gap.max} ms`);
      return { clients: count, deadline_s: deadlineS, moved_ms, gap_ms: gap, gap_of_publishers_ms: spread(at_anchor), gone_ms, back_ms };
    } finally {
      again.close();
    }
  },
};
