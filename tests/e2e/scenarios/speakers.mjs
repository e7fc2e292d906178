import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { percentile, round, sleep } from '../lib/check.mjs';
import { conversation } from '../lib/conversation.mjs';
import { voice } from '../lib/material.mjs';
import { scrape } from '../lib/metrics.mjs';
import { Replay } from '../lib/replay.mjs';

const REGIONS = ['fra', 'iad', 'syd'];
const TALKERS = 60;
/** Audio streams that an edge forwards and a link carries, per room (the default). */
const STREAMS = 10;
/** A window of 200 ms may hold a packet more of each stream, and a stream that takes another's place. */
const RATE_MAX = STREAMS * 1.15;
/**
 * By the senders' clocks one that takes a near one's place from afar adds the difference of their delays, 140 ms: 7 packets of 100, and
 * two may do so within a window.
 */
const RATE_MAX_SENT = RATE_MAX + STREAMS * 0.14;
/** Sixty talkers and three listeners in one process on a busy machine send in bursts; one turn may end unheard. */
const RATE_MAX_BUSY = STREAMS * 1.6;
const MISSED_BUSY = 1;
const SWAPS_MAX = 3;
const PACKETS_PER_S = 50;
/** From the start of a sentence, without the way to the receiver. */
const HEARD_MS_MAX = 300;
const CUT_MS_MAX = 200;
/** One way between the farthest regions, and what the machine adds. */
const NETWORK_MS = 250;

/** Packets sent so far over each link of the edges, with the time of reading, by `edge>peer`. */
async function linkCounts(mesh) {
  const counts = {};
  for (const edge of mesh.edges) {
    const samples = await scrape(edge.admin);
    const at = Date.now();
    for (const { name, labels, value } of samples) {
      if (name === 'antipode_link_packets_sent_total') counts[`${edge.region}>${labels.peer}`] = { at, value };
    }
  }
  return counts;
}

/** Streams on each link, averaged over a time. */
async function watchLinks(mesh, seconds) {
  const before = await linkCounts(mesh);
  await sleep(seconds * 1000);
  const after = await linkCounts(mesh);
  const streams = (link) => ((after[link].value - before[link].value) * 1000) / (after[link].at - before[link].at) / PACKETS_PER_S;
  return Object.fromEntries(Object.keys(before).map((link) => [link, round(streams(link))]));
}

/** How long after the start of a turn the page was told that its talker speaks; turns after silence only. */
function toldDelays(events, turns, startMs) {
  const delays = [];
  for (const turn of turns) {
    const silent = turns.every((other) => other.talker !== turn.talker || other.from_ms >= turn.from_ms || other.to_ms + 4000 <= turn.from_ms);
    if (!silent || turn.to_ms - turn.from_ms < 800) continue;
    const from = startMs + turn.from_ms;
    const told = events.find((one) => one.event === 'speakers' && one.at_ms >= from && one.identities.includes(`talker-${turn.talker}`));
    delays.push(told && told.at_ms < startMs + turn.to_ms + 1000 ? told.at_ms - from : Infinity);
  }
  return delays;
}

function judge(s, heard, links, page) {
  const worst = (field) => Math.max(...heard.map((one) => one[field]));
  for (const one of heard) {
    s.limits.atMost(`${one.identity}: streams within 200 ms`, one.streams_max, STREAMS + SWAPS_MAX);
    s.limits.atMost(`${one.identity}: packets within 200 ms, as streams`, one.rate_max, s.short ? RATE_MAX_BUSY : RATE_MAX_SENT);
    s.limits.atMost(`${one.identity}: turns missed`, one.missed, s.short ? MISSED_BUSY : 0);
    s.limits.atMost(`${one.identity}: ms of a sentence before it is forwarded`, one.admitted_max, HEARD_MS_MAX);
    s.limits.atMost(`${one.identity}: ms until a sentence is heard`, one.heard_max, HEARD_MS_MAX + NETWORK_MS);
    s.limits.atMost(`${one.identity}: longest cut in a sentence`, one.cut_max, CUT_MS_MAX);
    s.limits.atMost(`${one.identity}: speakers not told`, one.untold, 0);
    s.limits.atMost(`${one.identity}: ms until a speaker is told (median)`, one.told_p50, HEARD_MS_MAX + NETWORK_MS);
  }
  for (const [link, streams] of Object.entries(links)) s.limits.atMost(`streams on ${link}`, streams, s.short ? RATE_MAX_BUSY : RATE_MAX);
  s.limits.atMost('page: ms until a speaker is told (median)', page.told_ms_p50, HEARD_MS_MAX + NETWORK_MS);
  s.limits.atMost('page: streams', page.streams, RATE_MAX);
  return {
    turns: heard[0].turns,
    streams_max: worst('streams_max'),
    rate_max: round(worst('rate_max')),
    missed: worst('missed'),
    admitted_ms_p50: worst('admitted_p50'),
    admitted_ms_max: worst('admitted_max'),
    heard_ms_p50: worst('heard_p50'),
    heard_ms_max: worst('heard_max'),
    cut_ms_max: worst('cut_max'),
    cut_turns: worst('cut_turns'),
    told_ms_p50: worst('told_p50'),
    told_ms_max: worst('told_max'),
    untold: worst('untold'),
    links,
    page,
  };
}

// Sixty people in three regions talk by a script, and send all the time; light listeners and a page hear it.
export default {
  name: 'speakers',
  about: 'sixty microphones in three regions: who is heard, how soon, and how many streams that takes',
  seconds: { long: 60, short: 9 },
  async run(s) {
    const { turns } = conversation({ seconds: s.seconds, talkers: TALKERS });
    const script = join(s.environment.logs, 'speakers-script.json');
    writeFileSync(script, JSON.stringify({ turns }));
    const page = await s.chromium('page', 'syd');
    s.progress('the page has joined');
    const replay = s.also(
      Replay.start(s, {
        regions: REGIONS,
        publishers: TALKERS,
        prefix: 'talker-',
        voice: await voice(),
        script,
        listeners: REGIONS.length,
      }),
    );
    const { starts_ms: startMs } = await replay.event('script', { timeoutMs: 60_000 });
    s.progress('sixty talkers and three listeners have joined');
    await sleep(startMs + 500 - Date.now());
    const audio = async () => {
      const { tracks, at_ms } = await page.stats();
      return { at_ms, packets: tracks.filter((one) => one.kind === 'audio').reduce((sum, one) => sum + one.packets, 0) };
    };
    const before = await audio();
    const ended = replay.event('heard', { matches: (one) => one.identity === 'listener-2', timeoutMs: (s.seconds + 20) * 1000 });
    const [links, after] = await Promise.all([watchLinks(s.mesh, s.seconds - 1), sleep((s.seconds - 1) * 1000).then(audio)]);
    await ended;
    await page.refresh();
    const told = toldDelays(page.events, turns, startMs);
    return judge(s, replay.all('heard'), links, {
      streams: round(((after.packets - before.packets) * 1000) / (after.at_ms - before.at_ms) / PACKETS_PER_S),
      told_ms_p50: percentile(told, 50),
      told_ms_p95: percentile(told, 95),
    });
  },
};
