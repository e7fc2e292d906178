import { createServer } from 'node:http';
import { check, until } from './check.mjs';

/** How long a webhook's token may be good for: whoever recorded a request can send it again until then. */
const SIGNED_S_MAX = 300;

/** A server that takes webhooks, and keeps what came with its signature for a receiver of an SDK to look at. */
export class Hooks {
  /** Listens on a free port. `refuse` requests are turned away first, as by an application that is just starting. */
  static async start({ refuse = 0 } = {}) {
    const hooks = new Hooks();
    Object.assign(hooks, { requests: [], refused: 0 });
    hooks.server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      if (hooks.refused < refuse) {
        hooks.refused += 1;
        response.writeHead(503).end();
        return;
      }
      const { authorization, 'content-type': type } = request.headers;
      hooks.requests.push({ body: Buffer.concat(chunks).toString('utf8'), authorization, type });
      response.writeHead(200).end();
    });
    await new Promise((resolve) => hooks.server.listen(0, '127.0.0.1', resolve));
    hooks.server.unref();
    hooks.url = `http://127.0.0.1:${hooks.server.address().port}/hook`;
    return hooks;
  }

  /** What came about a room, by its name, in the order in which it came. */
  about(room) {
    const bodies = this.requests.map((request) => ({ ...request, event: JSON.parse(request.body) }));
    return bodies.filter((one) => one.event.room?.name === room);
  }

  /**
   * Waits for a room's last event, has every request about it verified, and checks that ids are unique.
   *
   * @param {(body: string, authorization: string) => Promise<object>} verify the receiver of an SDK; throws at a bad signature
   * @returns names of the events with who and what they are about, in order
   */
  async verified(room, verify) {
    await until(`room_finished of ${room} arrives`, () => this.about(room).some((one) => one.event.event === 'room_finished'));
    const requests = this.about(room);
    const ids = new Set(requests.map((one) => one.event.id));
    check(ids.size === requests.length, `ids of events repeat: ${requests.length} events, ${ids.size} ids`);
    const told = [];
    for (const { body, authorization, type } of requests) {
      check(type === 'application/webhook+json', `content type ${type}`);
      const event = await verify(body, authorization);
      const subject = event.track ? ` ${event.participant.identity}/${event.track.sid}` : event.participant ? ` ${event.participant.identity}` : '';
      told.push(`${event.event}${subject}`);
    }
    let forged = false;
    try {
      await verify(requests[0].body.replace('room_started', 'room_finished'), requests[0].authorization);
    } catch {
      forged = true;
    }
    check(forged, 'the receiver took a body that the signature is not of');
    return told;
  }

  /** What a recorded request is good for: its token ends soon, and opens nothing of ours. Returns what was answered. */
  async replayed({ http, edges }, room) {
    const token = this.about(room)[0].authorization.replace(/^Bearer /, '');
    const { nbf, exp } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString('utf8'));
    check(exp - nbf <= SIGNED_S_MAX, `a webhook's token is good for ${exp - nbf} s`);
    const edge = edges[0].url.replace(/^ws/, 'http');
    const post = { method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: '{}' };
    const answers = {
      server_api: await fetch(new URL('/twirp/livekit.RoomService/ListRooms', http), post),
      gateway: await fetch(new URL(`/rtc/validate?access_token=${token}`, http)),
      edge: await fetch(new URL(`/rtc/validate?access_token=${token}`, edge)),
      whip: await fetch(new URL('/whip', edge), { ...post, headers: { ...post.headers, 'content-type': 'application/sdp' } }),
    };
    const statuses = Object.entries(answers).map(([name, { status }]) => [name, status]);
    for (const [name, status] of statuses) check([401, 403].includes(status), `${name} answers ${status} to a webhook's token`);
    return Object.fromEntries(statuses);
  }
}
