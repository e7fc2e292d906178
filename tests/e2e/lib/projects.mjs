import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { mintToken } from './token.mjs';

const run = promisify(execFile);

/** A project with one key, made by the command line as an operator would. */
export class Project {
  static async create(t, id) {
    const project = new Project();
    Object.assign(project, { id, mesh: t.mesh, binary: t.environment.binary });
    await project.cli('project', 'create', id);
    const { key, secret } = JSON.parse(await project.cli('key', 'create', '--project', id, '--json'));
    project.credentials = { key, secret };
    return project;
  }

  /** Runs `antipode …` against the mesh's control plane; returns what it prints. */
  async cli(...args) {
    const { stdout } = await run(this.binary, [...args, '--url', this.mesh.control[0].grpc]);
    return stdout;
  }

  revoke() {
    return this.cli('key', 'revoke', this.credentials.key, '--project', this.id);
  }

  token(options) {
    return mintToken(this.credentials, options);
  }

  /** The room's token that a server of the application would have. */
  serverToken(room) {
    const grants = { roomCreate: true, roomList: true, roomAdmin: true, destinationRoom: `${room}-2` };
    return this.token({ room, identity: 'server', grants });
  }

  /** One method of `livekit.RoomService`: status and answer. */
  async call(method, request) {
    const response = await fetch(new URL(`/twirp/livekit.RoomService/${method}`, this.mesh.http), {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${this.serverToken(request.room ?? 'none')}` },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(10_000),
    });
    return { status: response.status, ...(await response.json()) };
  }

  /** Has a participant join with this project's key. */
  async join(t, participant, room) {
    const token = this.token({ room, identity: participant.identity });
    const answer = await participant.act('join', { url: this.mesh.edge(participant.region).url, token });
    participant.sid = answer.sid;
    return participant;
  }
}
