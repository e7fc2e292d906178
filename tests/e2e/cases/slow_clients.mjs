import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { check, round, sleep } from '../lib/check.mjs';
import { scrape, sum } from '../lib/metrics.mjs';
import { dawdleEverywhere, readNothing } from '../lib/slow_clients.mjs';
import { checkFluent, figures, twoWay } from '../lib/two_way.mjs';

/** Slow clients of each kind on each listener; with 25 kinds that is a thousand connections. */
const EACH = 40;
/** What each of them may take: the limits are 10 s, and 30 s without a byte taken. */
const CUT_OFF_MS_MAX = 15_000;
/** The attackers' address: this machine too, but not the one that others come from. */
const STRANGER = '127.0.0.9';
const REFUSED = /_refused(_connections)?_total$/;

/** An address of a node's configuration file, as `up` wrote it. */
function configured(t, name, key) {
  const text = readFileSync(join(t.mesh.dataDir, `${name}.toml`), 'utf8');
  const found = new RegExp(`^${key} = "[^"]*:(\\d+)"`, 'm').exec(text);
  check(found, `${name}.toml has no ${key}`);
  return Number(found[1]);
}

function listeners(t) {
  const edge = t.mesh.edge('fra');
  const [control] = t.mesh.control;
  const port = (url) => Number(new URL(url).port);
  return [
    { name: 'gateway', kind: 'gateway', port: port(t.mesh.http), tls: true },
    { name: 'grpc', kind: 'grpc', port: port(control.grpc) },
    { name: 'control_admin', kind: 'admin', port: port(control.admin) },
    { name: 'edge', kind: 'edge', port: port(edge.url), tls: true },
    { name: 'edge_admin', kind: 'admin', port: port(edge.admin) },
    { name: 'ice_tcp', kind: 'ice', port: configured(t, edge.node, 'rtc_tcp') },
    { name: 'turn_tcp', kind: 'turn', port: configured(t, edge.node, 'tcp') },
    { name: 'turn_tls', kind: 'turn', port: configured(t, edge.node, 'tls'), tls: true },
  ];
}

async function refusedCounts(t) {
  const samples = [...(await scrape(t.mesh.control[0].admin)), ...(await scrape(t.mesh.edge('fra').admin))];
  const counts = {};
  for (const { name, labels, value } of samples.filter((one) => REFUSED.test(one.name) && one.value > 0)) {
    counts[`${name.replace(/^antipode_/, '').replace(/_total$/, '')} ${labels.reason}`] = value;
  }
  return counts;
}

// Clients that dawdle on every TCP listener at once, a thousand of them, while a call goes on and others come in.
export default {
  order: 37,
  fresh: true,
  mesh: { regions: ['fra', 'iad'], relays: [], extra: ['--tls'] },
  watches: 20,
  async run(t) {
    // The mesh's own authority: for this process, and for native clients, which look where this says.
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
    process.env.SSL_CERT_FILE = join(t.mesh.dataDir, 'tls', 'clients-ca.pem');
    try {
      return await attack(t);
    } finally {
      delete process.env.NODE_TLS_REJECT_UNAUTHORIZED;
      delete process.env.SSL_CERT_FILE;
    }
  },
};

async function attack(t) {
  const people = [await t.native('ada', 'fra'), await t.native('bob', 'iad')];
  const before = await twoWay(t, ...people);
  const token = t.mesh.token({ room: t.room, identity: 'mallory', grants: { roomList: true } });
  const began = Date.now();
  const attacking = dawdleEverywhere(listeners(t), { each: EACH, from: STRANGER, token });
  const edge = t.mesh.edge('fra');
  // What an edge answers most to, by the same server as its other answers.
  const reading = readNothing(Number(new URL(edge.admin).port), '/metrics', { from: '127.0.0.8' });
  await sleep(2000);
  const seen = await people[1].watch(people[0], t.seconds);
  const back = await people[0].watch(people[1], t.seconds);
  checkFluent(t, people[1], people[0], seen);
  checkFluent(t, people[0], people[1], back);
  const asked = Date.now();
  const answer = await fetch(new URL('/settings/regions', t.mesh.http), { signal: AbortSignal.timeout(5000) });
  const answered_ms = Date.now() - asked;
  check(answer.ok && answered_ms < 1000, `the gateway took ${answered_ms} ms meanwhile`);
  const late = await t.native('late', 'fra');
  await late.sees(people[0]);
  const joined_after_ms = Date.now() - began;

  const ends = await attacking;
  for (const [what, ms] of Object.entries(ends)) {
    check(ms !== undefined, `${what}: never cut off`);
    check(ms <= CUT_OFF_MS_MAX, `${what}: cut off after ${ms} ms`);
  }
  const stalled = await reading;
  check(stalled !== undefined, 'who reads nothing is never cut off');
  const refused = await refusedCounts(t);
  const upset = people.flatMap((one) => one.events).filter((one) => ['disconnected', 'reconnecting'].includes(one.event));
  check(upset.length === 0, `the running call was disturbed: ${JSON.stringify(upset)}`);
  const fds = sum(await scrape(edge.admin), 'process_open_fds');
  return {
    before: before.to_bob, during: figures(seen), back: round(back.fps), answered_ms, joined_after_ms, reads_nothing_ms: stalled, edge_fds_after: fds,
    connections: Object.keys(ends).length * EACH, cut_off_ms: ends, refused,
  };
}
