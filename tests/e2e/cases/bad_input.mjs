import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { check, round, sleep } from '../lib/check.mjs';
import { OPCODE, frame, openTcp, sendBadDatagrams, sendBadStreams, upgrade } from '../lib/hostile.mjs';
import { residentBytes } from '../lib/mesh.mjs';
import { listeningPorts } from '../lib/ports.mjs';
import { mintToken } from '../lib/token.mjs';
import { checkFluent, figures, twoWay } from '../lib/two_way.mjs';

const MIB = 1024 * 1024;
/** What an edge's memory may grow by under all of this. */
const RSS_GROWTH_MAX = 96 * MIB;
const HALF_OPEN = 1000;
const MESSAGE_LIMIT = 2 * MIB;

/** Every token that must be refused, and what is asked with a good one where there is no such path. */
async function refuseTokens(t, port) {
  const good = { room: t.room, identity: 'mallory' };
  const none = Buffer.from('{"alg":"none"}').toString('base64url');
  const [, payload] = t.mesh.token(good).split('.');
  const tokens = {
    none: '',
    noise: randomBytes(40).toString('base64url'),
    two_dots: '..',
    huge: 'a'.repeat(20_000),
    expired: t.mesh.token({ ...good, validForS: -3600 }),
    foreign_key: mintToken({ key: 'somebody', secret: t.mesh.credentials.secret }, good),
    foreign_secret: mintToken({ key: t.mesh.credentials.key, secret: 'guess' }, good),
    unsigned: `${none}.${payload}.`,
    no_room_join: t.mesh.token({ ...good, grants: { roomJoin: false } }),
    line_in_room: t.mesh.token({ ...good, room: `${t.room}\r\nSet-Cookie: a=b` }),
    nul_in_room: t.mesh.token({ ...good, room: `${t.room}\0` }),
    escape_in_identity: t.mesh.token({ ...good, identity: '\u001b[2Jmallory' }),
    not_yet: t.mesh.token({ ...good, claims: { nbf: Math.floor(Date.now() / 1000) + 7200 } }),
  };
  const statuses = {};
  for (const [name, token] of Object.entries(tokens)) {
    for (const path of ['/rtc', '/rtc/v1']) {
      const { socket, status } = await upgrade(port, `${path}?access_token=${token}`);
      socket.destroy();
      statuses[name] = status;
      const refused = status >= 400 && status < 500;
      check(refused || (name === 'huge' && status === 0), `${path} with the token '${name}' was answered ${status}`);
    }
  }
  return statuses;
}

/** Texts that would do harm as a part of a statement, a path or a template are names like others. */
async function keepTexts(t, port) {
  const texts = ["'; DROP TABLE rooms; --", "x' OR '1'='1", '../../etc/passwd', '${jndi:ldap://x/y}', '<script>alert(1)</script>', '%00%0d%0a', 'acme/other'];
  for (const text of texts) {
    const token = t.mesh.token({ room: text, identity: text, name: `${text}\r\nX-Evil: 1`, claims: { metadata: `${text}\0` } });
    const { socket, status } = await upgrade(port, `/rtc?access_token=${token}&protocol=16`);
    check(status === 101, `the room and identity ${text} were answered ${status}`);
    socket.destroy();
  }
  const authorization = `Bearer ${t.mesh.token({ room: t.room, identity: 'server', grants: { roomList: true, roomCreate: true, roomAdmin: true } })}`;
  const call = (method, request) =>
    fetch(new URL(`/twirp/livekit.RoomService/${method}`, t.mesh.http), {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/json' },
      body: JSON.stringify(request),
    });
  for (const text of texts) check((await call('CreateRoom', { name: `${text}!`, metadata: text })).ok, `no room could be called ${text}!`);
  const { rooms } = await (await call('ListRooms', {})).json();
  for (const text of texts) check(rooms.some((one) => one.name === `${text}!` && one.metadata === text), `${text}! is not listed as it is`);
  const refused = await call('CreateRoom', { name: 'two\r\nlines' });
  check(refused.status === 400, `a name of two lines was answered ${refused.status}`);
  return { taken: texts.length, two_lines: refused.status };
}

/** A body without an end, sent as fast as it is taken but not beyond 32 MiB; the answer's status, or how it ended. */
async function sendEndless(port, token) {
  const socket = await openTcp(port);
  socket.removeAllListeners('error').on('error', () => {});
  let answer;
  socket.on('data', (data) => (answer ??= Number(/^HTTP\/1\.1 (\d+)/.exec(data.toString('latin1'))?.[1] ?? 0)));
  let closed = false;
  socket.on('close', () => (closed = true));
  socket.write(`POST /whip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/sdp\r\nTransfer-Encoding: chunked\r\n\r\n`);
  const chunk = Buffer.concat([Buffer.from('10000\r\n'), Buffer.alloc(65_536, 97), Buffer.from('\r\n')]);
  for (let sent = 0; sent < 512 && !closed && answer === undefined; sent += 1) {
    if (socket.writableLength < MIB) socket.write(chunk);
    await sleep(10);
  }
  await sleep(300);
  socket.destroy();
  return answer ?? (closed ? 'closed' : 'open');
}

/** Bodies and query strings far beyond what anybody needs. */
async function sendHuge(t, port) {
  const token = t.mesh.token({ room: t.room, identity: 'mallory' });
  const whip = (body, headers = {}) =>
    fetch(`http://127.0.0.1:${port}/whip`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/sdp', ...headers },
      body,
      duplex: 'half',
      signal: AbortSignal.timeout(15_000),
    }).then((answer) => answer.status, () => 'closed');
  const bomb = gzipSync(Buffer.alloc(32 * MIB)).toString('base64url');
  const query = async (text) => {
    const { socket, status } = await upgrade(port, `/rtc/v1?access_token=${token}&join_request=${text}`);
    socket.destroy();
    return status;
  };
  const answers = {
    whip_huge: await whip(Buffer.alloc(8 * MIB, 97)),
    whip_endless: await sendEndless(port, token),
    whip_many_lines: await whip('v=0\r\n'.repeat(40_000)),
    query_huge: await query('a'.repeat(400_000)),
    query_bomb: await query(bomb),
  };
  for (const [name, status] of Object.entries(answers)) {
    check(['closed', 0].includes(status) || (status >= 400 && status < 500), `the edge answered ${name} with ${status}`);
  }
  return answers;
}

/** Who may not publish cannot, and who may not subscribe gets nothing. */
async function honourGrants(t, others) {
  const silent = await t.native('silent', 'fra', { grants: { canPublish: false } });
  const published = await silent.attempt('publish_video', { width: 160, height: 90, fps: 5 });
  check(!published.ok, 'a participant without canPublish has published');
  await silent.sees(others[0]);
  await t.drop(silent);

  const blind = await t.native('blind', 'fra', { grants: { canSubscribe: false } });
  await blind.publish({ video: null });
  await others[0].hears(blind);
  const { tracks } = await blind.stats();
  check(tracks.length === 0, `a participant without canSubscribe receives ${tracks.length} tracks`);
  await t.drop(blind);
  return { without_publish: published.error };
}

/** Sends frames that are no signal messages on joined WebSockets; each ends or ignores them, and nothing else happens. */
async function breakSockets(t, port) {
  const attacks = {
    noise: [frame(OPCODE.binary, randomBytes(5000))],
    bad_json: [frame(OPCODE.text, Buffer.from('{"offer":[1,2,{'))],
    bad_utf8: [frame(OPCODE.text, Buffer.from([0xc3, 0x28, 0xff]))],
    reserved: [frame(OPCODE.reserved, Buffer.from('x'))],
    long_ping: [frame(OPCODE.ping, randomBytes(1000))],
    wild_length: [frame(OPCODE.binary, Buffer.from('x'), { claimed: 0x7fff_ffff_ffff })],
    oversize: [frame(OPCODE.binary, Buffer.alloc(MESSAGE_LIMIT + 1024))],
    endless: Array.from({ length: 40 }, (_, at) => frame(at === 0 ? OPCODE.binary : 0, Buffer.alloc(MESSAGE_LIMIT / 16), { final: false })),
    unmasked: [Buffer.from('820161', 'hex')],
  };
  const closed = [];
  for (const [name, frames] of Object.entries(attacks)) {
    const token = t.mesh.token({ room: `${t.room}-${name}`, identity: `mallory-${name}` });
    const { socket, status } = await upgrade(port, `/rtc?access_token=${token}&auto_subscribe=1&protocol=16`);
    check(status === 101, `a good token was answered ${status}`);
    socket.removeAllListeners('error').on('error', () => {});
    let ended = false;
    socket.on('close', () => (ended = true));
    for (const bytes of frames) socket.write(bytes);
    await sleep(300);
    if (ended || socket.readableEnded) closed.push(name);
    socket.destroy();
  }
  for (const name of ['wild_length', 'oversize', 'endless']) {
    check(closed.includes(name), `the WebSocket stays open after '${name}'`);
  }
  return closed;
}

/** Opens many connections that never finish their request, or join and never speak again. */
async function holdOpen(t, port) {
  const sockets = [];
  let accepted = 0;
  for (let index = 0; index < HALF_OPEN; index += 1) {
    try {
      const socket = await openTcp(port);
      socket.removeAllListeners('error').on('error', () => {});
      sockets.push(socket);
      accepted += 1;
      if (index % 4 === 0) {
        const token = t.mesh.token({ room: `${t.room}-idle-${index % 8}`, identity: `idle-${index}` });
        socket.write(`GET /rtc?access_token=${token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n`);
        socket.write('Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n');
      } else {
        socket.write('GET /rtc HTTP/1.1\r\nUpgrade: webso');
      }
      socket.resume();
    } catch {
      // Refused: that is one way to bear it.
    }
  }
  await sleep(1000);
  return { accepted, release: () => sockets.forEach((socket) => socket.destroy()) };
}

/** Requests to the gateway that deserve a clear error. */
async function askGateway(t) {
  const post = (path, body, headers = {}) =>
    fetch(new URL(path, t.mesh.http), { method: 'POST', body, headers, signal: AbortSignal.timeout(5000) });
  const json = { 'content-type': 'application/json' };
  const answers = {
    token_no_json: (await post('/api/token', '{', json)).status,
    token_array: (await post('/api/token', '[]', json)).status,
    token_huge: await post('/api/token', Buffer.alloc(8 * MIB, 97), json).then((answer) => answer.status, () => 'closed'),
    no_such_path: (await fetch(new URL('/api/no/such', t.mesh.http))).status,
  };
  for (const [name, status] of Object.entries(answers)) {
    check(status === 'closed' || (status >= 400 && status < 500), `the gateway answered ${name} with ${status}`);
  }
  return answers;
}

// Wrong tokens, noise on every port, oversize messages and a thousand idle connections, while a call goes on.
export default {
  order: 35,
  fresh: true,
  async run(t) {
    const edge = t.mesh.edge('fra');
    const port = Number(new URL(edge.url).port);
    const people = [await t.native('ada', 'fra'), await t.native('bob', 'syd')];
    await twoWay(t, ...people);
    const rss = residentBytes(edge.pid);

    const statuses = await refuseTokens(t, port);
    const grants = await honourGrants(t, people);
    const gateway = await askGateway(t);
    const texts = await keepTexts(t, port);
    const huge = await sendHuge(t, port);
    const closed = await breakSockets(t, port);
    const { tcp, udp } = listeningPorts(edge.pid);
    const links = t.mesh.relays.flatMap((relay) => listeningPorts(relay.pid).udp);
    for (const one of tcp) await sendBadStreams(one);
    for (const one of [...udp, ...links]) await sendBadDatagrams(one, 50);
    const { accepted, release } = await holdOpen(t, port);
    const during = await people[1].watch(people[0], t.seconds);
    release();
    checkFluent(t, people[1], people[0], during);
    await people[0].tells([people[1]]);

    const grown = residentBytes(edge.pid) - rss;
    check(grown <= RSS_GROWTH_MAX, `the edge has grown by ${round(grown / MIB)} MiB`);
    const upset = people.flatMap((one) => one.events).filter((one) => ['disconnected', 'reconnecting'].includes(one.event));
    check(upset.length === 0, `the running call was disturbed: ${JSON.stringify(upset)}`);
    return { statuses, grants, gateway, texts, huge, closed, tcp: tcp.length, udp: udp.length + links.length, half_open: accepted, rss_growth_mib: round(grown / MIB), during: figures(during) };
  },
};
