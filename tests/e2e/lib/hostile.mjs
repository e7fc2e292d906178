import { createSocket } from 'node:dgram';
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { sleep } from './check.mjs';

const HOST = '127.0.0.1';
const ANSWER_TIMEOUT_MS = 5000;
export const OPCODE = { text: 1, binary: 2, ping: 9, reserved: 11 };

/** Opens a TCP connection; errors on it are expected and swallowed. */
export function openTcp(port) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, HOST, () => resolve(socket));
    socket.on('error', reject);
  });
}

/** The head of a WebSocket upgrade (RFC 6455, 4.1). */
export function upgradeHead(path) {
  const key = randomBytes(16).toString('base64');
  return `GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`;
}

/** Asks for an upgrade and returns the socket and the status (0 when the server just closed). */
export async function upgrade(port, path) {
  const socket = await openTcp(port);
  socket.write(upgradeHead(path));
  const status = await new Promise((resolve) => {
    const timer = setTimeout(() => resolve(0), ANSWER_TIMEOUT_MS);
    const done = (value) => {
      clearTimeout(timer);
      resolve(value);
    };
    socket.once('data', (data) => done(Number(/^HTTP\/1\.1 (\d+)/.exec(data.toString('latin1'))?.[1] ?? 0)));
    socket.once('close', () => done(0));
  });
  socket.resume();
  return { socket, status };
}

/** One masked frame (RFC 6455, 5.2). `claimed` is the length its head states, if not the true one. */
export function frame(opcode, payload, { final = true, claimed = payload.length } = {}) {
  const mask = randomBytes(4);
  const head = Buffer.alloc(claimed < 126 ? 2 : claimed < 65536 ? 4 : 10);
  head[0] = (final ? 0x80 : 0) | opcode;
  if (head.length === 2) head[1] = 0x80 | claimed;
  else if (head.length === 4) {
    head[1] = 0x80 | 126;
    head.writeUInt16BE(claimed, 2);
  } else {
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(claimed), 2);
  }
  const masked = Buffer.from(payload.map((byte, index) => byte ^ mask[index % 4]));
  return Buffer.concat([head, mask, masked]);
}

/** Datagrams that look like what an edge expects, and are not: STUN, DTLS, RTP, RTCP, QUIC, and noise of each size. */
export function badDatagrams() {
  const stun = Buffer.concat([Buffer.from('000100582112a442', 'hex'), randomBytes(12), randomBytes(88)]);
  const stunLong = Buffer.concat([Buffer.from('0001ffff2112a442', 'hex'), randomBytes(20)]);
  const dtls = Buffer.concat([Buffer.from('16fefd0000000000000000ffff', 'hex'), randomBytes(300)]);
  const rtp = Buffer.concat([Buffer.from('bfe0', 'hex'), randomBytes(1000)]);
  const rtcp = Buffer.concat([Buffer.from('9fcdffff', 'hex'), randomBytes(60)]);
  const quic = Buffer.concat([Buffer.from('c00000000114', 'hex'), randomBytes(1200)]);
  const noise = [0, 1, 2, 11, 12, 13, 20, 100, 1500, 9000].map((size) => randomBytes(size));
  return [stun, stunLong, dtls, rtp, rtcp, quic, ...noise];
}

/** Sends each kind of bad datagram `times` times to a port, unhurriedly enough that most arrive. */
export async function sendBadDatagrams(port, times) {
  const socket = createSocket('udp4');
  socket.on('error', () => {});
  let sent = 0;
  for (let round = 0; round < times; round += 1) {
    for (const datagram of badDatagrams()) {
      socket.send(datagram, port, HOST);
      sent += 1;
    }
    await sleep(2);
  }
  await sleep(50);
  socket.close();
  return sent;
}

/** Bytes that are not the protocol of a TCP port: noise, half a request, a huge head, an ICE-TCP frame of a wild length. */
export async function sendBadStreams(port) {
  const messages = [
    randomBytes(4096),
    Buffer.from('GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n'),
    Buffer.from('POST /api/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n'),
    Buffer.from(`GET /${'a'.repeat(100_000)} HTTP/1.1\r\n\r\n`),
    Buffer.from(`GET / HTTP/1.1\r\n${'x: y\r\n'.repeat(20_000)}\r\n`),
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all'),
    Buffer.concat([Buffer.from('ffff', 'hex'), randomBytes(70_000)]),
    Buffer.from('0000000000000000', 'hex'),
  ];
  for (const message of messages) {
    const socket = await openTcp(port);
    socket.removeAllListeners('error').on('error', () => {});
    socket.write(message);
    socket.resume();
    await sleep(30);
    socket.destroy();
  }
  return messages.length;
}
