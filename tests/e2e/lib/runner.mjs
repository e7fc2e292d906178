// Runs the cases named on the command line, or all with the scenarios in their short form, and closes with
// `N passed, N failed`. With `--scenario NAME` runs that scenario and closes with its one JSON line.
import { appendFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Case } from './case.mjs';
import { Mesh, meshKey } from './mesh.mjs';
import { sleep } from './check.mjs';
import { asCase, loadScenarios } from './scenario.mjs';

const CASES = fileURLToPath(new URL('../cases/', import.meta.url));
/** Steady media is watched for this long unless E2E_SECONDS says otherwise. */
const SECONDS_DEFAULT = 4;
/** A case may take this much longer than the media that it watches. */
const CASE_MARGIN_S = 120;

/** All cases, scenarios among them, in the order they run. */
async function loadCases() {
  const files = readdirSync(CASES).filter((file) => file.endsWith('.mjs')).sort();
  const modules = await Promise.all(files.map((file) => import(join(CASES, file))));
  const named = files.map((file, index) => ({ name: basename(file, '.mjs'), ...modules[index].default }));
  const cases = [...named, ...(await loadScenarios()).map((one) => asCase(one))];
  return cases.sort((a, b) => (a.order ?? 50) - (b.order ?? 50));
}

function selectCases(cases, names) {
  const unknown = names.filter((name) => !cases.some((one) => one.name === name));
  if (unknown.length > 0) {
    console.error(`no such case: ${unknown.join(', ')}\nthere are: ${cases.map((one) => one.name).join(', ')}`);
    process.exit(64);
  }
  return names.length > 0 ? cases.filter((one) => names.includes(one.name)) : cases;
}

/** The cases in groups that share a mesh; one that harms its mesh (`fresh`) gets its own. */
function groupByMesh(cases) {
  const groups = new Map();
  for (const one of cases) {
    const key = one.fresh ? `${meshKey(one.mesh)} ${one.name}` : meshKey(one.mesh);
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups.values()];
}

function report(line) {
  console.log(JSON.stringify(line));
  return line.ok;
}

async function runCase(definition, mesh, environment) {
  const log = (line) => appendFileSync(join(environment.logs, `${definition.name}.log`), `${line}\n`);
  const open = definition.open ?? ((fields) => new Case(fields));
  const one = open({ name: definition.name, mesh, seconds: environment.seconds, environment, log });
  const label = definition.label ?? 'case';
  const started = Date.now();
  const seconds = () => Math.round((Date.now() - started) / 100) / 10;
  const limit = (definition.seconds ?? environment.seconds) * (definition.watches ?? 4) + CASE_MARGIN_S;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`took longer than ${limit} s`)), limit * 1000);
  });
  try {
    const figures = await Promise.race([definition.run(one), late]);
    return report({ [label]: definition.name, ok: true, took_s: seconds(), ...figures });
  } catch (error) {
    log(error.stack);
    return report({ [label]: definition.name, ok: false, took_s: seconds(), error: error.message, mesh_log: mesh.logFile });
  } finally {
    clearTimeout(timer);
    await one.close();
  }
}

async function runGroup(group, index, environment) {
  let mesh;
  const results = [];
  try {
    mesh = await Mesh.start(group[0].mesh, { ...environment, name: `mesh-${index}` });
    for (const definition of group) results.push(await runCase(definition, mesh, environment));
  } catch (error) {
    for (const definition of group.slice(results.length)) {
      results.push(report({ [definition.label ?? 'case']: definition.name, ok: false, error: error.message }));
    }
  } finally {
    const stopped = await mesh?.stop();
    if (stopped && !stopped.clean) results.push(report({ case: `mesh-${index} stop`, ok: false, left: stopped.left }));
  }
  return results;
}

function readEnvironment() {
  const binary = resolve(process.env.ANTIPODE_BIN ?? '');
  if (!process.env.ANTIPODE_BIN || !existsSync(binary)) {
    console.error('ANTIPODE_BIN must name the antipode binary (cargo build --release)');
    process.exit(64);
  }
  const logs = join(process.env.E2E_CACHE, 'logs', new Date().toISOString().replaceAll(/[:.]/g, '-'));
  mkdirSync(logs, { recursive: true });
  return {
    binary,
    logs,
    python: process.env.E2E_PYTHON,
    seconds: Number(process.env.E2E_SECONDS ?? SECONDS_DEFAULT),
  };
}

/** Leaves out what this machine cannot run, and says so. */
function possible(cases) {
  const impossible = cases.filter((one) => one.lacking);
  for (const one of impossible) console.error(`${one.name} is left out: it ${one.lacking}`);
  return cases.filter((one) => !one.lacking);
}

/** Runs all; returns which held. */
async function runAll(cases, environment) {
  console.error(`logs: ${environment.logs}`);
  const results = [];
  for (const [index, group] of groupByMesh(cases).entries()) {
    results.push(...(await runGroup(group, index, environment)));
  }
  await Promise.race([environment.browser?.close(), sleep(15_000)]);
  return results;
}

async function runCases(names) {
  const chosen = selectCases(await loadCases(), names);
  const cases = possible(chosen);
  const results = await runAll(cases, readEnvironment());
  const failed = results.filter((ok) => !ok).length;
  const left = chosen.length > cases.length ? `, ${chosen.length - cases.length} left out` : '';
  console.log(`${results.length - failed} passed, ${failed} failed${left}`);
  return failed === 0;
}

/** `--scenario NAME [--short | --seconds N] [options of the scenario]`, or a list without a name. */
async function runScenario([name, ...rest]) {
  const scenarios = await loadScenarios();
  const found = scenarios.find((one) => one.name === name);
  if (!found) {
    const list = scenarios.map((one) => `  ${one.name.padEnd(16)} ${one.about}`).join('\n');
    if (name) console.error(`no such scenario: ${name}; there are:`);
    console.log(list);
    return !name;
  }
  const own = { short: { type: 'boolean' }, seconds: { type: 'string' } };
  const { values } = parseArgs({ args: rest, options: { ...found.options, ...own }, strict: true });
  const args = Object.entries(values).filter(([key]) => !(key in own)).map(([key, value]) => (value === true ? `--${key}` : `--${key}=${value}`));
  const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
  const one = asCase(found, { short: values.short ?? false, seconds, args });
  if (one.lacking) throw new Error(`${name} ${one.lacking}`);
  const results = await runAll([one], readEnvironment());
  return results.every((ok) => ok);
}

async function main([first, ...rest]) {
  try {
    const held = first === '--scenario' ? await runScenario(rest) : await runCases(first ? [first, ...rest] : []);
    process.exit(held ? 0 : 1);
  } catch (error) {
    console.error(error.message);
    process.exit(64);
  }
}

await main(process.argv.slice(2));
