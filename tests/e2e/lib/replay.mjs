import { spawn } from 'node:child_process';
import { createWriteStream, existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { until } from './check.mjs';

const STOP_TIMEOUT_MS = 5000;

/** Light publishers and listeners of `lab`'s binary `replay`, in one process. */
export class Replay {
  /**
   * Starts the process; its clients join in the background (see `ready`).
   *
   * @param {import('./case.mjs').Case} t
   * @param {object} options `regions` whose edges the clients of a room are spread over; `pictures` and `voice` as
   *   `material.mjs` makes them; the others are options of `replay` by its own names
   */
  static start(t, { regions = [t.mesh.edges[0].region], pictures, room = t.room, ...options }) {
    const binary = join(process.env.E2E_LAB, 'replay');
    if (!existsSync(binary)) throw new Error(`${binary} is missing: cargo build --release --package lab`);
    const args = ['--room', room, ...regions.flatMap((region) => ['--url', t.mesh.edge(region).url])];
    for (const file of pictures?.files ?? []) args.push('--video', file);
    if (pictures) args.push('--temporal-layers', String(pictures.temporalLayers));
    for (const [name, value] of Object.entries(options)) {
      if (value === true) args.push(`--${name}`);
      else if (value !== undefined && value !== false) args.push(`--${name}`, String(value));
    }
    const replay = new Replay();
    replay.events = [];
    const { key, secret } = t.mesh.credentials;
    const env = { ...process.env, ANTIPODE_API_KEY: key, ANTIPODE_API_SECRET: secret };
    replay.child = spawn(binary, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
    replay.child.stdin.on('error', () => {});
    replay.child.stderr.on('data', (text) => (replay.words = `${replay.words ?? ''}${text}`.slice(-2000)));
    const log = createWriteStream(join(t.environment.logs, `replay-${t.name}.jsonl`), { flags: 'a' });
    createInterface({ input: replay.child.stdout }).on('line', (line) => {
      log.write(`${line}\n`);
      replay.events.push(JSON.parse(line));
    });
    replay.exited = new Promise((resolve) => {
      replay.child.once('exit', (code, signal) => resolve((replay.ended = signal ?? code)));
      replay.child.once('error', (error) => resolve((replay.ended = error.message)));
    });
    return replay;
  }

  /** Waits for an event; fails at once when the process has ended without it. */
  async event(name, { matches = () => true, timeoutMs = 30_000 } = {}) {
    const find = () => this.events.find((one) => one.event === name && matches(one));
    const found = await until(`replay says ${name}`, () => find() ?? (this.ended === undefined ? null : 'ended'), { timeoutMs });
    if (found !== 'ended') return found;
    await new Promise((resolve) => setImmediate(resolve));
    if (find()) return find();
    throw new Error(`replay ended (${this.ended}) without saying ${name}: ${this.words ?? ''}`);
  }

  /** All of a name. */
  all(name) {
    return this.events.filter((one) => one.event === name);
  }

  /** Everybody has joined. */
  ready(options) {
    return this.event('ready', options);
  }

  /** Lets everybody leave. */
  async close() {
    this.child.stdin.end();
    const force = setTimeout(() => this.child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await this.exited;
    clearTimeout(force);
  }
}
