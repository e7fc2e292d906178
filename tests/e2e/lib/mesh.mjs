import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { scrape, sum } from './metrics.mjs';
import { Services } from './services.mjs';
import { mintToken } from './token.mjs';
import { sleep } from './check.mjs';

const READY_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 10_000;

/**
 * Options of a mesh that a case does not set. `extra` are further flags of `antipode up`; several `replicas` of the control plane
 * share a PostgreSQL, Redis and Consul of their own.
 */
const DEFAULTS = { regions: ['fra', 'iad', 'syd'], relays: ['sin'], wan: true, replicas: 1, extra: [] };

/** One text per distinct mesh: cases with the same one share a mesh. */
export function meshKey(options = {}) {
  return JSON.stringify({ ...DEFAULTS, ...options });
}

/** True while the process exists (a zombie does not). */
export function isAlive(pid) {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Resident memory of a process in bytes, 0 when it is gone. */
export function residentBytes(pid) {
  try {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;
  } catch {
    return 0;
  }
}

/** A mesh of real processes on this machine, as `antipode up` starts it. */
export class Mesh {
  /** Starts a mesh on free ports and waits for its ready line. It ends when this process does, however that ends. */
  static async start(options, { binary, logs, name }) {
    const { regions, relays, wan, replicas, extra } = { ...DEFAULTS, ...options };
    const mesh = new Mesh();
    mesh.options = { regions, relays, wan, replicas, extra };
    mesh.binary = binary;
    mesh.dataDir = mkdtempSync(join(tmpdir(), 'antipode-e2e-mesh-'));
    mkdirSync(logs, { recursive: true });
    const args = ['up', '--base-port', '0', '--data-dir', mesh.dataDir, '--regions', regions.join(',')];
    args.push('--relays', relays.join(','), '--wan', wan ? 'on' : 'off', '--exit-with-parent', ...extra);
    if (replicas > 1) {
      mesh.services = await Services.start();
      args.push('--replicas', String(replicas), ...mesh.services.flags());
    }
    mesh.logFile = join(logs, `${name}.log`);
    mesh.child = spawn(binary, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    mesh.child.stdin.on('error', () => {});
    mesh.child.stderr.pipe(createWriteStream(mesh.logFile));
    mesh.exited = new Promise((resolve) => {
      mesh.child.once('exit', (code, signal) => resolve(signal ?? code));
      mesh.child.once('error', (error) => resolve(error.message));
    });
    try {
      Object.assign(mesh, await mesh.readReady());
    } catch (error) {
      await mesh.stop();
      throw new Error(`${error.message}; its last words:\n${mesh.lastWords()}`);
    }
    return mesh;
  }

  /** The first JSON line with `"ready":true` on stdout, as fields of this object. */
  async readReady() {
    const lines = createInterface({ input: this.child.stdout });
    const ready = new Promise((resolve) => {
      lines.on('line', (line) => {
        try {
          const message = JSON.parse(line);
          if (message.ready === true && message.edges) resolve(message);
        } catch {
          // Anything else than JSON on stdout is not the ready line.
        }
      });
    });
    const failed = this.exited.then((how) => {
      throw new Error(`antipode up ended (${how}) before it was ready`);
    });
    const late = sleep(READY_TIMEOUT_MS).then(() => {
      throw new Error(`antipode up was not ready within ${READY_TIMEOUT_MS} ms`);
    });
    late.catch(() => {});
    failed.catch(() => {});
    const { http, api_key: key, api_secret: secret, control, edges, relays } = await Promise.race([ready, failed, late]);
    return { http, credentials: { key, secret }, control, edges, relays };
  }

  /** Starts a control replica that was killed, as its supervisor would; needs `--restart off`. Waits until it serves. */
  async startControl(control) {
    const config = join(this.dataDir, `${control.node}.toml`);
    const args = ['control', '--config', config, '--exit-with-parent'];
    const child = spawn(this.binary, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    child.stdin.on('error', () => {});
    child.stderr.pipe(createWriteStream(this.logFile, { flags: 'a' }));
    (this.started ??= []).push(child);
    const serves = new Promise((resolve, reject) => {
      child.once('exit', (code, signal) => reject(new Error(`${control.node} ended (${signal ?? code})`)));
      createInterface({ input: child.stdout }).on('line', (line) => line.includes('"ready":true') && resolve());
    });
    await serves;
    control.pid = child.pid;
  }

  /** The last lines of the mesh's log. */
  lastWords(lines = 25) {
    try {
      return readFileSync(this.logFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
    } catch {
      return '(no log)';
    }
  }

  /** The edge of a region. */
  edge(region) {
    const found = this.edges.find((one) => one.region === region);
    if (!found) throw new Error(`the mesh has no edge in ${region}`);
    return found;
  }

  token(options) {
    return mintToken(this.credentials, options);
  }

  /** Sum of a metric over the samples of one node (as listed in the ready line). */
  async metric(node, name, labels) {
    return sum(await scrape(node.admin), name, labels);
  }

  /** All pids that the ready line names. */
  pids() {
    return [...(this.control ?? []), ...(this.edges ?? []), ...(this.relays ?? [])].map((one) => one.pid);
  }

  /** Stops the mesh as Ctrl-C does; returns what was left alive afterwards (must be nothing). */
  async stop() {
    for (const child of this.started ?? []) child.kill('SIGTERM');
    this.child.kill('SIGINT');
    const stopped = await Promise.race([this.exited.then(() => true), sleep(STOP_TIMEOUT_MS)]);
    if (!stopped) this.child.kill('SIGKILL');
    await this.exited;
    await sleep(200);
    const left = this.pids().filter(isAlive);
    for (const pid of left) process.kill(pid, 'SIGKILL');
    await this.services?.stop();
    rmSync(this.dataDir, { recursive: true, force: true });
    return { clean: stopped === true && left.length === 0, left };
  }
}
