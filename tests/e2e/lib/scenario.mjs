// Scenarios: one fault or one bad network each, judged by limits. `cargo xtask scenario` runs one; the short forms of all
// run as cases.
//
// A scenario is scenarios/NAME.mjs with a default export:
//
//   name      as on the command line, with dashes
//   about     one line for the list
//   seconds   `{ long, short }`: how long it watches, as it sees fit to divide
//   options   of its own, as `parseArgs` of node:util takes them (optional)
//   needs     `['root']` where it makes network namespaces (optional)
//   mesh      what mesh, as for a case (optional); a scenario has its mesh for itself
//   run(s)    gets a `Scenario`, returns figures
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Case } from './case.mjs';

const SCENARIOS = fileURLToPath(new URL('../scenarios/', import.meta.url));
/** Scenarios run after the cases. */
const ORDER = 80;
/** A scenario may take this many times what it watches, and a margin. */
const WATCHES = 3;

/** All scenarios, by name. */
export async function loadScenarios() {
  const files = existsSync(SCENARIOS) ? readdirSync(SCENARIOS).filter((file) => file.endsWith('.mjs')).sort() : [];
  const modules = await Promise.all(files.map((file) => import(join(SCENARIOS, file))));
  return modules.map((one) => one.default);
}

/** What this machine lacks for the scenario, or null. */
function lacking({ needs = [] }) {
  if (needs.includes('root') && process.getuid() !== 0) return 'needs root (network namespaces)';
  return null;
}

/**
 * The scenario as a case of the runner.
 *
 * @param {object} definition default export of its file
 * @param {{short?: boolean, seconds?: number, args?: string[]}} how `args` are the scenario's own options
 */
export function asCase(definition, { short = true, seconds, args = [] } = {}) {
  const options = parseArgs({ args, options: definition.options ?? {}, strict: true }).values;
  const watched = seconds ?? definition.seconds[short ? 'short' : 'long'];
  return {
    name: definition.name,
    order: ORDER,
    fresh: true,
    mesh: definition.mesh,
    seconds: watched,
    watches: WATCHES,
    label: 'scenario',
    lacking: lacking(definition),
    open: (fields) => new Scenario({ ...fields, seconds: watched, short, options }),
    async run(scenario) {
      const figures = await definition.run(scenario);
      return { seconds: watched, ...options, ...figures, ...scenario.limits.verdict() };
    },
  };
}

/** What must hold. A breach does not end the scenario: the figures after it tell why. */
export class Limits {
  constructor() {
    this.breaches = [];
  }

  holds(condition, what) {
    if (!condition) this.breaches.push(what);
  }

  /** `value` must be a number of at most `limit`; none at all is a breach. */
  atMost(what, value, limit) {
    this.holds(Number.isFinite(value) && value <= limit, `${what} is ${value}, more than ${limit}`);
  }

  /** `value` must be a number of at least `limit`; none at all is a breach. */
  atLeast(what, value, limit) {
    this.holds(Number.isFinite(value) && value >= limit, `${what} is ${value}, less than ${limit}`);
  }

  verdict() {
    return this.breaches.length > 0 ? { ok: false, breaches: this.breaches } : { ok: true };
  }
}

/** What a scenario gets: a case's mesh and participants, its length, its options, and limits. */
export class Scenario extends Case {
  /** @param {object} fields of a case, and `short`, `options` */
  constructor({ short, options, ...fields }) {
    super(fields);
    this.short = short;
    this.options = options;
    this.limits = new Limits();
    this.started = Date.now();
    this.closers = [];
  }

  /** A line about how far it is, for people; standard output is for the result. */
  progress(text) {
    const seconds = ((Date.now() - this.started) / 1000).toFixed(1).padStart(6);
    console.error(`${seconds} s  ${this.name}: ${text}`);
    this.log(`${seconds} s  ${text}`);
  }

  /** Has `close()` of something called when the scenario ends, after its participants are gone. */
  also(closable) {
    this.closers.push(closable);
    return closable;
  }

  async close() {
    await super.close();
    for (const one of this.closers.splice(0).reverse()) await Promise.allSettled([one.close()]);
  }

  /** What the edge of a region last reported of its transports (`GET /debug/media` of its admin listener). */
  async media(region) {
    const response = await fetch(new URL('/debug/media', this.mesh.edge(region).admin), {
      signal: AbortSignal.timeout(5000),
    });
    if (!response.ok) throw new Error(`/debug/media answered ${response.status}`);
    return response.json();
  }
}
