import { Browser } from './browser.mjs';
import { fileURLToPath } from 'node:url';
import { NativeParticipant } from './native.mjs';

const WHIP_SCRIPT = fileURLToPath(new URL('../whip_client.py', import.meta.url));

/** What a case gets: the mesh, and participants that are cleaned up when it ends. */
export class Case {
  /**
   * @param {{name: string, mesh: import('./mesh.mjs').Mesh, seconds: number, environment: object, log: Function}} options
   *   `seconds` is how long steady media is watched.
   */
  constructor({ name, mesh, seconds, environment, log }) {
    Object.assign(this, { name, mesh, seconds, environment, log });
    this.room = `${name}-${Math.random().toString(36).slice(2, 8)}`;
    this.open = [];
  }

  /** A page in Chromium, not yet in a room. */
  async page(identity, region) {
    this.environment.browser ??= await Browser.start();
    return this.keep(await this.environment.browser.open(identity, region, { log: this.log }));
  }

  /** A page with a plain RTCPeerConnection that speaks WHIP and WHEP. */
  async whipPage(identity, region) {
    this.environment.browser ??= await Browser.start();
    return this.keep(await this.environment.browser.open(identity, region, { log: this.log, path: '/whip.html' }));
  }

  /** A client of WHIP and WHEP in a process of its own. */
  async whipProcess(identity, region) {
    return this.keep(await NativeParticipant.start(identity, region, this.environment, WHIP_SCRIPT));
  }

  /** A page of the mesh's own gateway, for example the call page. */
  async visit(path, size = { width: 1280, height: 720 }) {
    this.environment.browser ??= await Browser.start();
    return this.keep(await this.environment.browser.visit(new URL(path, this.mesh.http).href, size));
  }

  /** A native client, not yet in a room. */
  async process(identity, region) {
    return this.keep(await NativeParticipant.start(identity, region, this.environment));
  }

  /** Joins the case's room at the region's edge; `options` go to the client, `grants` into the token. */
  async join(participant, { room = this.room, grants, url, ...options } = {}) {
    const token = this.mesh.token({ room, identity: participant.identity, grants });
    const answer = await participant.act('join', {
      url: url ?? this.mesh.edge(participant.region).url,
      token,
      ...options,
    });
    participant.sid = answer.sid;
    return participant;
  }

  /** A page in Chromium that has joined. */
  async chromium(identity, region, options) {
    return this.join(await this.page(identity, region), options);
  }

  /** A native client that has joined. */
  async native(identity, region, options) {
    return this.join(await this.process(identity, region), options);
  }

  keep(participant) {
    this.open.push(participant);
    return participant;
  }

  /** Closes one participant before the case ends. */
  async drop(participant) {
    this.open = this.open.filter((one) => one !== participant);
    await participant.close();
  }

  async close() {
    await Promise.allSettled(this.open.map((one) => one.close()));
    this.open = [];
  }
}
