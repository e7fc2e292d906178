import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';
import { Participant } from './participant.mjs';

const SCRIPT = fileURLToPath(new URL('../native_client.py', import.meta.url));
const REQUEST_TIMEOUT_MS = 40_000;

/** A participant in a native client of its own process. */
export class NativeParticipant extends Participant {
  /**
   * Starts the process; `python` is the interpreter of the environment that has the client library, `command` starts it,
   * for example in a network namespace.
   */
  static async start(identity, region, { python, logs, command = [] }, script = SCRIPT, parameters = []) {
    const participant = new this(identity, region);
    const [program, ...args] = [...command, python, script, ...parameters];
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    child.stderr.pipe(createWriteStream(join(logs, `native-${identity}.log`)));
    child.stdin.on('error', () => {});
    participant.child = child;
    participant.waiting = new Map();
    participant.exited = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
    participant.exited.then((code) => participant.failAll(`the native client exited with ${code}`));
    createInterface({ input: child.stdout }).on('line', (line) => participant.handleLine(line));
    await participant.event('ready', {}, { timeoutMs: 30_000 });
    return participant;
  }

  handleLine(line) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      return; // not ours: a library wrote to stdout
    }
    if (message.event) {
      this.events.push(message);
      return;
    }
    this.waiting.get(message.id)?.(message);
    this.waiting.delete(message.id);
  }

  failAll(error) {
    for (const answer of this.waiting.values()) answer({ ok: false, error });
    this.waiting.clear();
    this.gone = error;
  }

  request(command) {
    if (this.gone) return Promise.resolve({ ok: false, error: this.gone });
    const id = (this.nextId = (this.nextId ?? 0) + 1);
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        resolve({ ok: false, error: `${command.do}: no answer within ${REQUEST_TIMEOUT_MS} ms` });
      }, REQUEST_TIMEOUT_MS);
      this.waiting.set(id, (answer) => {
        clearTimeout(timer);
        resolve(answer);
      });
      this.child.stdin.write(`${JSON.stringify({ id, ...command })}\n`);
    });
  }

  /** Ends the process: politely through the end of its stdin, after 3 s by force. */
  async close() {
    this.child.stdin.end();
    const force = setTimeout(() => this.child.kill('SIGKILL'), 3000);
    await this.exited;
    clearTimeout(force);
  }
}
