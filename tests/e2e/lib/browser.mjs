import { execFileSync } from 'node:child_process';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { Participant } from './participant.mjs';

const CANDIDATES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const FLAGS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required',
  '--allow-loopback-in-peer-connection',
];
const LIBRARY = join(dirname(createRequire(import.meta.url).resolve('livekit-client')), 'livekit-client.esm.mjs');
const PAGE = fileURLToPath(new URL('./page/', import.meta.url));
const FILES = {
  '/': [join(PAGE, 'index.html'), 'text/html'],
  '/client.js': [join(PAGE, 'client.js'), 'text/javascript'],
  '/whip.html': [join(PAGE, 'whip.html'), 'text/html'],
  '/whip.js': [join(PAGE, 'whip.js'), 'text/javascript'],
  '/lip_sync.js': [join(PAGE, 'lip_sync.js'), 'text/javascript'],
  '/livekit-client.mjs': [LIBRARY, 'text/javascript'],
};

/** Path of the browser: `CHROMIUM`, or where distributions put it. */
export function chromiumPath() {
  const found = [process.env.CHROMIUM, ...CANDIDATES].find((path) => path && existsSync(path));
  if (!found) throw new Error('no Chromium found: install the package `chromium`, or set CHROMIUM to its path');
  return found;
}

/** Serves the test page on a free port of an address of this host. */
async function servePage(host) {
  const server = createServer(async (request, response) => {
    const [path, type] = FILES[new URL(request.url, 'http://localhost').pathname] ?? [];
    if (!path) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(await readFile(path));
  });
  await new Promise((resolve) => server.listen(0, host, resolve));
  return server;
}

/** A script that starts the browser through other commands; its pipes pass through. */
function wrap(directory, command) {
  const script = join(directory, 'chromium');
  const words = [...command, chromiumPath()].map((word) => `'${word}'`).join(' ');
  writeFileSync(script, `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 });
  return script;
}

/** A home directory whose NSS database trusts a certificate authority, which is where Chromium looks on Linux. */
function trustingHome(directory, ca) {
  const home = join(directory, 'home');
  const database = join(home, '.pki', 'nssdb');
  mkdirSync(database, { recursive: true });
  const certutil = (...args) => execFileSync('certutil', ['-d', `sql:${database}`, ...args]);
  certutil('-N', '--empty-password');
  certutil('-A', '-t', 'C,,', '-n', 'antipode-e2e', '-i', ca);
  return home;
}

/** A headless Chromium with a fresh profile, fake devices and the test page. */
export class Browser {
  /**
   * @param {{command?: string[], host?: string, camera?: string, trust?: string}} options `command` starts it, for example in a network
   *   namespace that reaches this machine at `host`; `camera` is a file (Y4M or MJPEG) to film instead of the test picture;
   *   `trust` is a certificate authority's PEM file
   */
  static async start({ command = [], host = '127.0.0.1', camera, trust } = {}) {
    const browser = new Browser();
    browser.host = host;
    browser.server = await servePage(host);
    browser.profile = mkdtempSync(join(tmpdir(), 'antipode-e2e-chromium-'));
    const flags = [...FLAGS, `--unsafely-treat-insecure-origin-as-secure=${browser.origin}`];
    if (camera) flags.push(`--use-file-for-fake-video-capture=${camera}`);
    browser.context = await chromium.launchPersistentContext(join(browser.profile, 'profile'), {
      executablePath: command.length > 0 ? wrap(browser.profile, command) : chromiumPath(),
      headless: true,
      ...(trust && { env: { ...process.env, HOME: trustingHome(browser.profile, trust) } }),
      args: flags,
      viewport: { width: 1280, height: 720 },
    });
    return browser;
  }

  get origin() {
    return `http://${this.host}:${this.server.address().port}`;
  }

  /** Opens a page for one participant. `logs` receives its console. */
  async open(identity, region, { log, path = '/' }) {
    const page = await this.context.newPage();
    page.on('console', (message) => log(`${identity} console ${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => log(`${identity} page error: ${error}`));
    await page.goto(new URL(path, this.origin).href);
    await page.waitForFunction('window.e2e !== undefined');
    return new BrowserParticipant(identity, region, page);
  }

  /** Opens any page, of a given size. */
  async visit(url, { width, height }) {
    const page = await this.context.newPage();
    await page.setViewportSize({ width, height });
    await page.goto(url);
    return page;
  }

  async close() {
    await this.context.close();
    this.server.closeAllConnections();
    this.server.close();
    await rm(this.profile, { recursive: true, force: true });
  }
}

/** A participant in a page of Chromium. */
export class BrowserParticipant extends Participant {
  constructor(identity, region, page) {
    super(identity, region);
    this.page = page;
  }

  async request(command) {
    try {
      return await this.page.evaluate((one) => window.e2e.do(one), command);
    } catch (error) {
      return { ok: false, error: `page: ${error.message}` };
    }
  }

  async refresh() {
    this.events.push(...(await this.page.evaluate(() => window.e2e.drain())));
  }

  async close() {
    await this.request({ do: 'leave' });
    await this.page.close();
  }
}
