// Networks that misbehave: a network namespace behind the WAN emulator (`wan` of lab), and clients in it.
import { execFileSync, spawn } from 'node:child_process';
import { networkInterfaces } from 'node:os';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { Browser } from './browser.mjs';
import { NativeParticipant } from './native.mjs';
import { CheckFailed, sleep } from './check.mjs';

/** Networks are 10.77.N.0/30 with N from 1 to this; tests of lab take the numbers above. */
const NETWORK_MAX = 120;
/** Emulated paths that one scenario may have. */
const PATHS_MAX = 3;
const START_TIMEOUT_MS = 10_000;
const SET_TIMEOUT_MS = 5_000;
/** Time between two samples of the emulator. */
const SAMPLE_MS = 250;

/** Numbers that no device uses, from a random one on, so that runs side by side seldom meet. */
function freeNetworks(count) {
  const taken = new Set(
    Object.values(networkInterfaces())
      .flat()
      .map((one) => one.address.split('.'))
      .filter(([a, b]) => a === '10' && b === '77')
      .map((parts) => Number(parts[2])),
  );
  const first = Math.floor(Math.random() * NETWORK_MAX);
  const all = Array.from({ length: NETWORK_MAX }, (_, index) => ((first + index) % NETWORK_MAX) + 1);
  return all.filter((number) => !taken.has(number)).slice(0, count);
}

const NETWORKS = freeNetworks(PATHS_MAX);

/** Options of a mesh whose edges are reached from this machine and through all emulated paths. */
export function wanMesh(options = {}) {
  const addresses = ['127.0.0.1', ...NETWORKS.map((number) => `10.77.${number}.1`)];
  return {
    regions: ['fra'],
    relays: [],
    wan: false,
    ...options,
    extra: [...(options.extra ?? []), '--bind', '0.0.0.0', '--advertise', addresses.join(',')],
  };
}

/** A namespace behind an emulated path, which starts perfect. */
export class Wan {
  /** @param {number} index which of the networks, from 0 */
  static async start(index = 0) {
    const wan = new Wan();
    wan.network = NETWORKS[index];
    wan.samples = [];
    const binary = join(process.env.E2E_LAB, 'wan');
    const args = ['--network', String(wan.network), '--report-ms', String(SAMPLE_MS)];
    wan.child = spawn(binary, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    wan.child.stdin.on('error', () => {});
    wan.exited = new Promise((resolve) => {
      wan.child.once('exit', (code, signal) => resolve(signal ?? code));
      wan.child.once('error', (error) => resolve(error.message));
    });
    wan.answers = [];
    createInterface({ input: wan.child.stdout }).on('line', (line) => wan.handleLine(JSON.parse(line)));
    const { here, namespace } = await wan.answer(START_TIMEOUT_MS);
    Object.assign(wan, { host: here, namespace });
    return wan;
  }

  handleLine(line) {
    if (line.direction) this.samples.push(line);
    else this.answers.shift()?.(line);
  }

  /** The next line that is no sample. */
  async answer(timeoutMs) {
    const line = new Promise((resolve) => this.answers.push(resolve));
    const gone = this.exited.then((how) => ({ error: `it ended (${how})` }));
    const late = sleep(timeoutMs).then(() => ({ error: `no answer within ${timeoutMs} ms` }));
    const answer = await Promise.race([line, gone, late]);
    if (answer.error) throw new CheckFailed(`WAN emulator: ${answer.error}`);
    return answer;
  }

  /** Changes both directions, for example `{down: {rate: '600k', loss: 0.05}}`; what is not named stays. */
  async set(change) {
    this.child.stdin.write(`${JSON.stringify(change)}\n`);
    await this.answer(SET_TIMEOUT_MS);
    return Date.now();
  }

  /** Samples of a direction within a span of Unix time in ms. */
  during(direction, fromMs, toMs = Infinity) {
    return this.samples.filter((one) => one.direction === direction && one.at_ms > fromMs && one.at_ms <= toMs);
  }

  /** What starts a command inside. */
  get command() {
    return ['ip', 'netns', 'exec', this.namespace];
  }

  /** The edge's URL as it is reached from inside. */
  url(edge) {
    const url = new URL(edge.url);
    url.hostname = this.host;
    return url.href.replace(/\/$/, '');
  }

  /**
   * A firewall inside: TCP goes out to these ports, and nothing else goes out. What is dropped is counted by `dropped`.
   *
   * @param {number[]} ports
   */
  firewall(ports) {
    const rules = `table inet firewall {
      chain out {
        type filter hook output priority 0; policy drop;
        oif lo accept
        tcp dport { ${ports.join(', ')} } accept
        meta l4proto udp counter comment "udp"
        meta l4proto tcp counter comment "tcp"
      }
    }`;
    execFileSync('ip', ['netns', 'exec', this.namespace, 'nft', '-f', '-'], { input: rules });
  }

  /** Packets that the firewall has dropped, `{udp, tcp}`. */
  dropped() {
    const listed = execFileSync('ip', ['netns', 'exec', this.namespace, 'nft', '-j', 'list', 'table', 'inet', 'firewall']);
    const rules = JSON.parse(listed).nftables.map(({ rule }) => rule).filter((rule) => rule?.comment);
    return Object.fromEntries(rules.map(({ comment, expr }) => [comment, expr.find((one) => one.counter).counter.packets]));
  }

  /** A page in a Chromium inside, which has joined; `trust` is for the browser, which starts with the first page. */
  async chromium(scenario, identity, region, { trust, ...options } = {}) {
    this.browser ??= await Browser.start({ command: this.command, host: this.host, trust });
    const page = scenario.keep(await this.browser.open(identity, region, { log: scenario.log }));
    return scenario.join(page, { ...options, url: this.url(scenario.mesh.edge(region)) });
  }

  /** A native client inside, which has joined. */
  async native(scenario, identity, region, options = {}) {
    const environment = { ...scenario.environment, command: this.command };
    const native = scenario.keep(await NativeParticipant.start(identity, region, environment));
    return scenario.join(native, { ...options, url: this.url(scenario.mesh.edge(region)) });
  }

  /** Ends the browser and takes the namespace away. */
  async close() {
    await this.browser?.close();
    this.child.stdin.end();
    if ((await Promise.race([this.exited, sleep(5000).then(() => 'late')])) === 'late') this.child.kill('SIGKILL');
    await this.exited;
  }
}
