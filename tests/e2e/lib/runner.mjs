// Runs the cases named on the command line, or all, and closes with `N passed, N failed`.
import { appendFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Case } from './case.mjs';
import { Mesh, meshKey } from './mesh.mjs';
import { sleep } from './check.mjs';

const CASES = fileURLToPath(new URL('../cases/', import.meta.url));
/** Steady media is watched for this long unless E2E_SECONDS says otherwise. */
const SECONDS_DEFAULT = 4;
/** A case may take this much longer than the media that it watches. */
const CASE_MARGIN_S = 120;

/** The modules of all cases by name, in the order they run. */
async function loadCases() {
  const files = readdirSync(CASES).filter((file) => file.endsWith('.mjs')).sort();
  const modules = await Promise.all(files.map((file) => import(join(CASES, file))));
  const cases = files.map((file, index) => ({ name: basename(file, '.mjs'), ...modules[index].default }));
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
  const one = new Case({ name: definition.name, mesh, seconds: environment.seconds, environment, log });
  const started = Date.now();
  const seconds = () => Math.round((Date.now() - started) / 100) / 10;
  const limit = environment.seconds * (definition.watches ?? 4) + CASE_MARGIN_S;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`took longer than ${limit} s`)), limit * 1000);
  });
  try {
    const figures = await Promise.race([definition.run(one), late]);
    return report({ case: definition.name, ok: true, took_s: seconds(), ...figures });
  } catch (error) {
    log(error.stack);
    return report({ case: definition.name, ok: false, took_s: seconds(), error: error.message, mesh_log: mesh.logFile });
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
      results.push(report({ case: definition.name, ok: false, error: error.message }));
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

async function main() {
  const cases = selectCases(await loadCases(), process.argv.slice(2));
  const environment = readEnvironment();
  console.error(`logs: ${environment.logs}`);
  const results = [];
  const finish = async () => {
    await environment.browser?.close();
    const failed = results.filter((ok) => !ok).length;
    console.log(`${results.length - failed} passed, ${failed} failed`);
    return failed;
  };
  for (const [index, group] of groupByMesh(cases).entries()) {
    results.push(...(await runGroup(group, index, environment)));
  }
  const failed = await Promise.race([finish(), sleep(15_000).then(() => 1)]);
  process.exit(failed > 0 ? 1 : 0);
}

await main();
