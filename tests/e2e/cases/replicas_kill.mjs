import { check, round, sleep, until } from '../lib/check.mjs';
import { Continuity } from '../lib/continuity.mjs';
import { isAlive } from '../lib/mesh.mjs';
import { Expected, everythingTold } from '../lib/told.mjs';
import { Hooks } from '../lib/webhooks.mjs';

/** Each part is away for this long in the short form; for `E2E_SECONDS` in the long one. */
const AWAY_S_MIN = 6;
/** No receiver may be without a picture of anybody for longer. */
const STILL_MS_MAX = 1600;
/** Below this, pictures do not flow (the sources have 15 a second; this machine has other work). */
const FPS_MIN = 5;
/** The replicas must say the same within this after something is back. */
const CONVERGED_MS_MAX = 15_000;
const PICTURE = { video: { width: 320, height: 180 } };

const hooks = await Hooks.start();

/** The nodes, and the participants of a room, as a replica's gateway tells. */
async function view({ url }, room) {
  const get = async (path) => {
    const response = await fetch(new URL(path, url), { signal: AbortSignal.timeout(4000) });
    if (!response.ok) throw new Error(`${path} answered ${response.status}`);
    return response.json();
  };
  const { nodes } = await get('/api/v1/nodes');
  const { rooms } = await get('/api/v1/rooms');
  const found = await get(`/api/v1/rooms/${room}`);
  const people = found.nodes.flatMap((node) => node.participants.map((one) => `${one.identity}@${node.node_id}:${one.tracks.length}`));
  return JSON.stringify({
    nodes: nodes.map((node) => `${node.node_id} ${node.state}`).sort(),
    rooms: rooms.filter((one) => one.participants > 0).map((one) => `${one.room} ${one.room_sid} ${one.participants}`).sort(),
    people: people.sort(),
  });
}

/** Waits until every replica tells the same, and that is right; returns how long it took. */
async function converged(t, people) {
  const since = Date.now();
  await until(
    'the replicas tell the same',
    async () => {
      const views = await Promise.all(t.mesh.control.map((control) => view(control, t.room)));
      const right = people.every((one) => views[0].includes(`"${one.identity}@`));
      const ready = !/ (suspect|dead|starting|unknown)"/.test(views[0]);
      if (new Set(views).size !== 1 || !right || !ready) throw new Error(views.join(' / '));
      return true;
    },
    { timeoutMs: CONVERGED_MS_MAX, everyMs: 100 },
  );
  return Date.now() - since;
}

/** Somebody joins a room, while something is away; how long it takes. */
async function joins(t, expected, room, who) {
  const since = Date.now();
  await t.join(who, { room });
  const took = Date.now() - since;
  expected.joined(room, who.identity);
  await t.drop(who);
  return took;
}

/** One part is away for a while: a served room is joined twice, and a new one. */
async function outage(t, { name, away, back, people, expected, watch, newRooms }) {
  const number = t.outages++;
  const [early, late, first] = await Promise.all([
    t.process(`early-${number}`, 'fra'),
    t.process(`late-${number}`, 'syd'),
    t.process(`first-${number}`, 'iad'),
  ]);
  watch.phase(`${name} away`);
  await away();
  const since = Date.now();
  const [early_join_ms, new_room_ms] = await Promise.all([
    joins(t, expected, t.room, early),
    newRooms ? joins(t, expected, `${t.room}-${name}`, first) : t.drop(first),
  ]);
  await sleep(Math.max(0, t.away_ms - 2500 - (Date.now() - since)));
  const late_join_ms = await joins(t, expected, t.room, late);
  await sleep(Math.max(0, t.away_ms - (Date.now() - since)));
  const away_ms = Date.now() - since;
  watch.phase(`${name} back`);
  await back();
  const converged_ms = await converged(t, people);
  return { away: name, away_s: round(away_ms / 1000), early_join_ms, late_join_ms, new_room_ms, converged_ms };
}

/** Control replicas and stores are killed one after another; nobody in a call may notice, and applications are told everything. */
export default {
  order: 45,
  fresh: true,
  watches: 30,
  mesh: { replicas: 2, extra: ['--restart', 'off', '--webhook', hooks.url] },
  async run(t) {
    Object.assign(t, { outages: 0, away_ms: Math.max(AWAY_S_MIN, t.environment.seconds) * 1000 });
    const { services, control } = t.mesh;
    check((await services.sql('SHOW fsync')) === 'on' && (await services.sql('SHOW synchronous_commit')) === 'on', 'fsync is off');
    const expected = new Expected();
    const people = [await t.native('fra', 'fra'), await t.native('iad', 'iad'), await t.chromium('syd', 'syd')];
    for (const one of people) {
      await one.publish(PICTURE);
      expected.joined(t.room, one.identity, 2);
    }
    await Promise.all(people.flatMap((to) => people.filter((one) => one !== to).map((from) => to.sees(from))));
    const start_ms = await converged(t, people);

    const watch = new Continuity(people);
    watch.phase('before');
    await sleep(2000);
    const outages = [];
    const run = async (fields) => {
      const figures = await outage(t, { people, expected, watch, newRooms: true, ...fields });
      t.log(JSON.stringify(figures));
      outages.push(figures);
    };
    for (const one of control) {
      const away = async () => {
        const { pid } = one;
        process.kill(pid, 'SIGKILL');
        await until(`${one.node} is dead`, () => !isAlive(pid), { timeoutMs: 3000 });
      };
      await run({ name: one.node, away, back: () => t.mesh.startControl(one) });
    }
    for (const name of ['postgres', 'redis', 'consul']) {
      const store = { name, away: () => services.kill(name), back: () => services.restart(name) };
      await run({ ...store, newRooms: name !== 'postgres' });
    }
    watch.phase('after');
    await sleep(2000);
    const media = await watch.end();
    t.log(JSON.stringify(media));
    const gone = people.flatMap((one) => one.events).filter((one) => one.event === 'disconnected');
    check(gone.length === 0, 'somebody was disconnected');
    for (const one of [...people]) await t.drop(one);

    const webhooks = await everythingTold(hooks, expected);
    const waiting = Number(await services.sql('SELECT COUNT(*) FROM webhooks'));
    check(waiting === 0, `${waiting} events wait still`);
    for (const phase of media) {
      check(phase.still_ms_max <= STILL_MS_MAX, `${phase.phase}: the picture of ${phase.stillest} stood still for ${phase.still_ms_max} ms`);
      check(phase.fps_min === null || phase.fps_min >= FPS_MIN, `${phase.phase}: only ${phase.fps_min} frames/s`);
      check(phase.silent.length === 0, `${phase.phase}: no sound ${phase.silent.join(', ')}`);
    }
    return { start_ms, outages, media, webhooks };
  },
};
