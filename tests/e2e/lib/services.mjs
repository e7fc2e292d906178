import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

/** PostgreSQL, Redis and Consul of one mesh, by `lab`'s binary `services`. They end with this process, however that ends. */
export class Services {
  static async start() {
    const binary = join(process.env.E2E_LAB, 'services');
    if (!existsSync(binary)) throw new Error(`${binary} is missing: cargo build --release --package lab`);
    const services = new Services();
    services.waiting = [];
    services.child = spawn(binary, [], { stdio: ['pipe', 'pipe', 'pipe'] });
    services.child.stdin.on('error', () => {});
    services.child.stderr.on('data', (text) => (services.words = `${services.words ?? ''}${text}`.slice(-2000)));
    services.exited = new Promise((resolve) => services.child.once('exit', resolve));
    createInterface({ input: services.child.stdout }).on('line', (line) => services.waiting.shift()?.(JSON.parse(line)));
    Object.assign(services, await services.next());
    return services;
  }

  /** The next line; lines come in the order of what was asked. */
  next() {
    const ended = this.exited.then(() => Promise.reject(new Error(`the stores ended: ${this.words ?? ''}`)));
    ended.catch(() => {});
    return Promise.race([new Promise((resolve) => this.waiting.push(resolve)), ended]);
  }

  async ask(request) {
    const answer = this.next();
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
    const { done, error } = await answer;
    if (error !== undefined) throw new Error(`${JSON.stringify(request)}: ${error}`);
    return done;
  }

  /** Ends a server as `kill -9` does. */
  kill(name) {
    return this.ask({ kill: name });
  }

  /** Starts it again and waits until it serves. */
  restart(name) {
    return this.ask({ start: name });
  }

  /** What PostgreSQL answers: rows are lines, columns are separated by `|`. */
  sql(statement) {
    return this.ask({ sql: statement });
  }

  /** What `antipode up` is told of them. */
  flags() {
    return ['--database-url', this.postgres.url, '--redis-url', this.redis.url, '--consul-url', this.consul.url];
  }

  async stop() {
    this.child.stdin.end();
    await this.exited;
  }
}
