import { check, round } from './check.mjs';

const SDP = 'application/sdp';

/** The endpoint of a region's edge. */
export function endpoint(t, region, protocol = 'whip') {
  return new URL(`/${protocol}`, t.mesh.edge(region).url.replace(/^ws/, 'http')).href;
}

/** An offer that can be answered, without a client behind it. */
function syntheticOffer({ setup = 'actpass', direction = 'sendonly' } = {}) {
  const fingerprint = Array(32).fill('AB').join(':');
  return [
    'v=0', 'o=- 1 1 IN IP4 127.0.0.1', 's=-', 't=0 0', 'a=group:BUNDLE 0',
    'm=audio 9 UDP/TLS/RTP/SAVPF 111', 'c=IN IP4 0.0.0.0', 'a=mid:0', 'a=ice-ufrag:abcd', `a=ice-pwd:${'p'.repeat(24)}`,
    `a=fingerprint:sha-256 ${fingerprint}`, `a=setup:${setup}`, 'a=rtcp-mux', `a=${direction}`, 'a=rtpmap:111 opus/48000/2', '',
  ].join('\r\n');
}

function send(url, { method = 'POST', token, type = SDP, body, headers = {} }) {
  const fields = { ...headers };
  if (token !== undefined) fields.authorization = `Bearer ${token}`;
  if (type) fields['content-type'] = type;
  return fetch(url, { method, headers: fields, body, signal: AbortSignal.timeout(20_000) });
}

/** Requests that must be turned away, with the status that each deserves. */
export async function refusals(t, protocol) {
  const url = endpoint(t, 'fra', protocol);
  const direction = protocol === 'whip' ? 'sendonly' : 'recvonly';
  const body = syntheticOffer({ direction });
  const grant = protocol === 'whip' ? { canPublish: false } : { canSubscribe: false };
  const token = t.mesh.token({ room: t.room, identity: 'mallory' });
  const tries = {
    no_token: [401, send(url, { body })],
    bad_token: [401, send(url, { body, token: 'a.b.c' })],
    expired: [401, send(url, { body, token: t.mesh.token({ room: t.room, identity: 'm', validForS: -3600 }) })],
    no_join: [403, send(url, { body, token: t.mesh.token({ room: t.room, identity: 'm', grants: { roomJoin: false } }) })],
    no_grant: [403, send(url, { body, token: t.mesh.token({ room: t.room, identity: 'm', grants: grant }) })],
    other_room: [403, send(`${url}/elsewhere`, { body, token })],
    garbage: [400, send(url, { body: 'hello', token })],
    wrong_way: [422, send(url, { body: syntheticOffer({ direction: direction === 'sendonly' ? 'inactive' : 'sendonly' }), token })],
    json: [415, send(url, { body: '{}', token, type: 'application/json' })],
    not_acceptable: [406, send(url, { body, token, headers: { accept: 'application/json' } })],
    oversize: [413, send(url, { body: 'a'.repeat(400_000), token })],
    get: [405, send(url, { method: 'GET', token, type: null })],
    put: [405, send(url, { method: 'PUT', token, body })],
    no_session: [404, send(`${url}/session/0123456789abcdef`, { method: 'DELETE', token, type: null })],
  };
  const statuses = {};
  for (const [name, [wanted, asked]] of Object.entries(tries)) {
    const answer = await asked;
    statuses[name] = answer.status;
    const text = await answer.text();
    check(answer.status === wanted, `${protocol} ${name}: answered ${answer.status}, not ${wanted}: ${text}`);
    check(wanted === 405 || JSON.parse(text).detail.length > 10, `${protocol} ${name}: no reason given`);
  }
  const preflight = await fetch(url, { method: 'OPTIONS', headers: { origin: 'http://x', 'access-control-request-method': 'POST' } });
  check(preflight.status === 204 && preflight.headers.get('accept-post') === SDP, 'OPTIONS names no accepted type');
  check(preflight.headers.get('access-control-expose-headers').includes('location'), 'pages cannot read Location');
  return statuses;
}

/** Publishes and waits until the viewer has picture and sound; returns times from the request on. */
export async function publishByWhip(t, client, viewer, options = {}) {
  const token = t.mesh.token({ room: t.room, identity: client.identity });
  const sinceMs = Date.now();
  const { post_ms: post } = await client.act('publish', { url: endpoint(t, 'fra'), token, ...options });
  const first = await viewer.event('first_frame', { identity: client.identity }, { sinceMs });
  await viewer.sees(client);
  await viewer.hears(client);
  return { post_ms: round(post), first_frame_ms: Math.round(first.at_ms - sinceMs) };
}

/** Starts playing; `query` chooses what. Returns when it was asked for and how long the answer took. */
export async function playByWhep(t, client, query = '') {
  const token = t.mesh.token({ room: t.room, identity: client.identity });
  const sinceMs = Date.now();
  const { post_ms: post } = await client.act('play', { url: `${endpoint(t, client.region, 'whep')}${query}`, token });
  return { sinceMs, post_ms: round(post) };
}
