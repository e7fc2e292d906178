import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { Browser } from '../lib/browser.mjs';
import { check, round, sleep, until } from '../lib/check.mjs';
import { twoWay } from '../lib/two_way.mjs';
import { Wan, wanMesh } from '../lib/wan.mjs';

/** Where `antipode up` has an edge's listeners, counted from its HTTP port. */
const TURN_TLS = 9;
/** Validity of a token whose TURN credentials are watched as they end, seconds. */
const SHORT_S = 5;
/** How long two connections get to find each other where they must not. */
const MEET_MS = 6000;

function lacking() {
  if (process.getuid() !== 0) return 'needs root (network namespaces)';
  const missing = ['nft', 'certutil'].filter((tool) => spawnSync(tool, ['--version']).error);
  return missing.length > 0 ? `needs ${missing.join(' and ')} (Debian packages nftables, libnss3-tools)` : null;
}

/** What a client behind the firewall must not get: other people's credentials, or a relay to somewhere else. */
async function refuse(t, page, servers) {
  const refused = (reason) => t.mesh.metric(t.mesh.edge('fra'), 'antipode_edge_turn_refused_total', { reason });
  const good = await page.act('gather', { servers });
  check(good.candidates.length > 0, `no relay candidate with good credentials: ${JSON.stringify(good.errors)}`);
  const forged = servers.map((one) => ({ ...one, credential: 'guessed' }));
  const wrong = await page.act('gather', { servers: forged });
  check(wrong.candidates.length === 0, 'a wrong password was taken');
  check((await refused('wrong_credentials')) > 0, 'the wrong password was not counted');

  const { met, relayed } = await page.act('meet', { servers, timeout_ms: MEET_MS });
  check(relayed.length > 0, 'no relay candidate to misuse');
  check(!met, 'the relay reached an address that is not a media socket of the edge');
  check((await refused('forbidden_peer')) > 0, 'the foreign address was not counted');
  return { errors: wrong.errors.map((one) => one.code), forbidden: await refused('forbidden_peer') };
}

/** Credentials do not outlive the token that they came with. */
async function expire(t, wan) {
  const page = t.keep(await wan.browser.open('brief', 'fra', { log: t.log }));
  const token = t.mesh.token({ room: t.room, identity: 'brief', validForS: SHORT_S });
  await page.act('join', { url: wan.url(t.mesh.edge('fra')), token });
  const { servers } = await page.act('ice_servers');
  const [expires] = servers[0].username.split(':');
  const left = Number(expires) - Date.now() / 1000;
  check(left <= SHORT_S, `credentials are valid for ${left} s, the token for ${SHORT_S}`);
  await sleep(SHORT_S * 1000 + 500);
  const late = await page.act('gather', { servers });
  check(late.candidates.length === 0, 'credentials were taken after their end');
  const counted = () => t.mesh.metric(t.mesh.edge('fra'), 'antipode_edge_turn_refused_total', { reason: 'expired' });
  await until('expired credentials are counted', counted, { timeoutMs: 3000 });
}

// A client whose network lets out nothing but TLS: signalling by WSS, media by TURN over TLS. Its browser trusts the mesh's
// authority and verifies certificates as always.
export default {
  order: 70,
  fresh: true,
  lacking: lacking(),
  mesh: wanMesh({ extra: ['--tls'] }),
  async run(t) {
    const trust = join(t.mesh.dataDir, 'tls', 'clients-ca.pem');
    const edge = t.mesh.edge('fra');
    const http = Number(new URL(edge.url).port);
    const [wan, outside] = [await Wan.start(0), await Browser.start({ trust })];
    try {
      wan.browser = await Browser.start({ command: wan.command, host: wan.host, trust });
      wan.firewall([http, http + TURN_TLS, Number(new URL(wan.browser.origin).port)]);
      const inside = await wan.chromium(t, 'inside', 'fra');
      const { servers } = await inside.act('ice_servers');
      const bob = await t.join(t.keep(await outside.open('outside', 'fra', { log: t.log })));
      const began = Date.now();
      const call = await twoWay(t, inside, bob);
      const call_s = round((Date.now() - began) / 1000);
      const route = await inside.act('route', { identity: 'outside' });
      check(route.type === 'relay', `the selected pair is ${JSON.stringify(route)}`);
      check(route.relay === 'tls', `relayed by ${route.relay}`);
      const direct = await bob.act('route', { identity: 'inside' });
      check(direct.type !== 'relay', 'the client outside relays, too');
      const relayed = await t.mesh.metric(edge, 'antipode_edge_turn_relayed_bytes_total', { direction: 'out' });
      check(relayed > 0, 'the edge relayed nothing');
      const dropped = wan.dropped();
      check(dropped.udp > 0 && dropped.tcp > 0, `the firewall dropped ${JSON.stringify(dropped)}`);
      const slow = await t.mesh.metric(edge, 'antipode_edge_turn_dropped_packets_total');
      const refused = await refuse(t, inside, servers);
      await expire(t, wan);
      return { call_s, route, ...call, relayed_kb: round(relayed / 1000, 0), dropped, slow, refused };
    } finally {
      await t.close();
      await Promise.allSettled([wan.close(), outside.close()]);
    }
  },
};
