import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { sleep } from './check.mjs';

const HTTP2_PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
/** How long a slow client is watched: what is still open then has no limit. */
const WATCHED_MS = 45_000;
const DRIP_MS = 500;
/** A part of a TLS record: the head of a ClientHello of 508 bytes. */
const CLIENT_HELLO = Buffer.from('1603010200010001fc0303', 'hex');
/** The head of a TURN Allocate request whose attributes never come. */
const ALLOCATE = Buffer.from('000300082112a442', 'hex');

function opened(port, { tls, from }) {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, localAddress: from, rejectUnauthorized: false };
    const socket = tls ? connectTls(options, () => resolve(socket)) : connect(options, () => resolve(socket));
    socket.once('error', reject);
  });
}

/** What a client sends at once, and what it goes on with, byte by byte. */
function behaviours({ kind, tls, token }) {
  const head = (method, path, fields = '') => Buffer.from(`${method} ${path} HTTP/1.1\r\nHost: x\r\n${fields}`);
  const body = (path, type) =>
    head('POST', path, `Authorization: Bearer ${token}\r\nContent-Type: ${type}\r\nContent-Length: 1000\r\n\r\n`);
  const http = { header: [head('GET', '/', 'x: '), 'a'], idle: [head('GET', '/', '\r\n'), ''] };
  const of = {
    gateway: { ...http, body: [body('/api/token', 'application/json'), ' '], twirp: [body('/twirp/livekit.RoomService/ListRooms', 'application/json'), ' '] },
    edge: { ...http, body: [body('/whip', 'application/sdp'), 'a'] },
    admin: http,
    grpc: { preface: [HTTP2_PREFACE.subarray(0, 8), ''], unanswered: [Buffer.concat([HTTP2_PREFACE, Buffer.alloc(9, 0).fill(4, 3, 4)]), ''] },
    ice: { frame: [Buffer.from([0, 255]), 'a'] },
    turn: { message: [ALLOCATE, 'a'] },
  }[kind];
  const handshake = tls ? { no_handshake: [Buffer.alloc(0), '', false], slow_handshake: [CLIENT_HELLO, '\0', false] } : {};
  return { silent: [Buffer.alloc(0), ''], ...handshake, ...of };
}

/** One slow client: milliseconds until it is cut off, or undefined when it is not. */
async function dawdle(listener, [first, drip, tls = listener.tls], from) {
  const socket = await opened(listener.port, { tls, from });
  socket.removeAllListeners('error').on('error', () => {});
  const began = Date.now();
  let over;
  const ended = new Promise((resolve) => {
    const end = () => resolve((over ??= Date.now() - began));
    socket.once('end', end).once('close', end);
  });
  socket.resume();
  socket.write(first);
  const dripping = drip && setInterval(() => socket.writable && socket.write(drip), DRIP_MS);
  await Promise.race([ended, sleep(WATCHED_MS)]);
  clearInterval(dripping);
  socket.destroy();
  return over;
}

/**
 * Many slow clients of every kind on every listener at once.
 *
 * @param {{name: string, kind: string, port: number, tls?: boolean}[]} listeners
 * @param {{each: number, from: string, token: string}} options how many of each kind, from which address
 * @returns {Promise<Record<string, number|undefined>>} by listener and kind the longest time to the end, in ms
 */
export async function dawdleEverywhere(listeners, { each, from, token }) {
  const longest = {};
  const attacks = listeners.flatMap((listener) =>
    Object.entries(behaviours({ ...listener, token })).flatMap(([name, behaviour]) =>
      Array.from({ length: each }, async () => {
        const key = `${listener.name} ${name}`;
        let took;
        try {
          took = await dawdle(listener, behaviour, from);
        } catch {
          took = 0; // refused at once
        }
        if (!(key in longest)) longest[key] = took;
        else if (longest[key] !== undefined) longest[key] = took === undefined ? undefined : Math.max(longest[key], took);
      }),
    ),
  );
  await Promise.all(attacks);
  return longest;
}

/** Asks for something large again and again and reads none of it; ms until it is cut off, or undefined. */
export async function readNothing(port, path, { tls, from }) {
  const socket = await opened(port, { tls, from });
  socket.removeAllListeners('error').on('error', () => {});
  socket.pause();
  const began = Date.now();
  let over;
  socket.once('close', () => (over = Date.now() - began));
  // Far more answers than the systems' buffers hold. The socket learns of its end by writing.
  const request = `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  for (let index = 0; index < 400; index += 1) socket.write(request);
  const asking = setInterval(() => socket.writable && socket.write(request), DRIP_MS);
  for (let waited = 0; waited < WATCHED_MS && over === undefined; waited += DRIP_MS) await sleep(DRIP_MS);
  clearInterval(asking);
  socket.destroy();
  return over;
}
