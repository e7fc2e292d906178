import { check, round, until } from '../lib/check.mjs';

const SDP = 'application/sdp';
/** How long a participant may be visible after its session was deleted. */
const GONE_MS_MAX = 1000;

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
async function refusals(t, protocol) {
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

/** Preconditions of PATCH, and an ICE restart while media flows. */
async function restart(t, page, viewer) {
  const patch = async (options) => (await page.act('patch', options)).status;
  const statuses = {
    unconditional: await patch({}),
    stale: await patch({ if_match: '"stale"' }),
    trickle: await patch({ if_match: 'current' }),
    garbage: await patch({ if_match: 'current', body: 'nonsense' }),
    wrong_type: await patch({ if_match: 'current', type: SDP }),
  };
  const wanted = { unconditional: 428, stale: 412, trickle: 204, garbage: 400, wrong_type: 415 };
  check(JSON.stringify(statuses) === JSON.stringify(wanted), `PATCH was answered ${JSON.stringify(statuses)}`);
  const before = await page.act('path');
  const { changed } = await page.act('restart');
  check(changed, 'an ICE restart brought no new credentials');
  await until('the new ICE session carries media', async () => (await page.act('path')).ufrag !== before.ufrag);
  const seen = await viewer.watch(page, t.seconds);
  check(seen.fps > 8 && seen.freezes === 0, `after the restart: ${JSON.stringify(seen)}`);
  return { ...statuses, fps_after_restart: round(seen.fps) };
}

/** Deletes a session and waits until the others see the participant leave. */
async function end(client, viewer) {
  const sinceMs = Date.now();
  const { status } = await client.act('end');
  check(status === 200, `DELETE was answered ${status}`);
  const gone = await viewer.event('participant_disconnected', { identity: client.identity }, { sinceMs });
  check(gone.at_ms - sinceMs <= GONE_MS_MAX, `the participant was visible for ${gone.at_ms - sinceMs} ms after DELETE`);
  return Math.round(gone.at_ms - sinceMs);
}

/** Publishes and waits until the viewer has picture and sound; returns times from the request on. */
async function publish(t, client, viewer, options = {}) {
  const token = t.mesh.token({ room: t.room, identity: client.identity });
  const sinceMs = Date.now();
  const { post_ms: post } = await client.act('publish', { url: endpoint(t, 'fra'), token, ...options });
  const first = await viewer.event('first_frame', { identity: client.identity }, { sinceMs });
  await viewer.sees(client);
  await viewer.hears(client);
  return { post_ms: round(post), first_frame_ms: Math.round(first.at_ms - sinceMs) };
}

// aiortc and a page publish by WHIP in Frankfurt; a page with livekit-client in Sydney sees and hears them.
export default {
  watches: 6,
  async run(t) {
    const statuses = await refusals(t, 'whip');
    const viewer = await t.chromium('viewer', 'syd');
    const camera = await t.whipProcess('aiortc', 'fra');
    const times = await publish(t, camera, viewer);
    const seen = await viewer.watch(camera, t.seconds);
    check(seen.fps > 10 && seen.width === 320 && seen.height === 240, `from aiortc: ${JSON.stringify(seen)}`);
    const gone = { aiortc_ms: await end(camera, viewer) };

    const page = await t.whipPage('page', 'fra');
    const pageTimes = await publish(t, page, viewer, { simulcast: true, width: 640, height: 480 });
    const patched = await restart(t, page, viewer);
    gone.page_ms = await end(page, viewer);

    const lost = await t.whipProcess('vanishing', 'fra');
    await publish(t, lost, viewer);
    const sinceMs = Date.now();
    await lost.act('vanish');
    const left = await viewer.event('participant_disconnected', { identity: 'vanishing' }, { sinceMs, timeoutMs: 30_000 });
    gone.vanished_ms = Math.round(left.at_ms - sinceMs);
    return { statuses, aiortc: times, page: pageTimes, fps: round(seen.fps), patched, gone };
  },
};

export { refusals };
