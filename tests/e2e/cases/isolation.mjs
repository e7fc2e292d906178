import { check, round, sleep, until } from '../lib/check.mjs';
import { upgrade } from '../lib/hostile.mjs';
import { Project } from '../lib/projects.mjs';
import { Hooks } from '../lib/webhooks.mjs';
import { checkFluent, figures, twoWay } from '../lib/two_way.mjs';

/** How soon a revoked key has to be refused everywhere. */
const REVOKED_MS_MAX = 2000;
const room = 'lounge';

const hooks = await Hooks.start();

/** Statuses of everything that a stranger's server may try on the room; all must be those of a room that never was. */
async function strangers(apex, identity) {
  const calls = {
    ListParticipants: { room },
    GetParticipant: { room, identity },
    RemoveParticipant: { room, identity },
    UpdateParticipant: { room, identity, name: 'mine' },
    MutePublishedTrack: { room, identity, trackSid: 'TR_x', muted: true },
    UpdateSubscriptions: { room, identity, trackSids: ['TR_x'] },
    SendData: { room, data: 'aGk=', destinationIdentities: [identity] },
    ForwardParticipant: { room, identity, destinationRoom: `${room}-2` },
    MoveParticipant: { room, identity, destinationRoom: `${room}-2` },
    UpdateRoomMetadata: { room, metadata: 'mine' },
    DeleteRoom: { room },
  };
  const answers = {};
  for (const [method, request] of Object.entries(calls)) {
    const { status, code } = await apex.call(method, request);
    check(status === 404 && code === 'not_found', `${method} by a stranger was answered ${status} ${code}`);
    answers[method] = status;
  }
  return answers;
}

/** Milliseconds from the revocation until each place refuses the key's tokens. */
async function refusals(t, project) {
  const fresh = (identity) => project.token({ room, identity });
  const edges = ['fra', 'syd'].map((region) => [`edge_${region}`, Number(new URL(t.mesh.edge(region).url).port)]);
  const probes = {
    gateway: async () => (await project.call('ListRooms', {})).status,
    token: async () => (await fetch(new URL('/api/token', t.mesh.http), { method: 'POST', body: '{}', headers: { authorization: `Bearer ${fresh('late')}` } })).status,
  };
  for (const [name, port] of edges) {
    probes[name] = async () => (await fetch(`http://127.0.0.1:${port}/rtc/validate?access_token=${fresh('late')}`)).status;
    probes[`${name}_resume`] = async () => {
      const { socket, status } = await upgrade(port, `/rtc?access_token=${fresh('ada')}&reconnect=1&sid=PA_x`);
      socket.destroy();
      return status;
    };
  }
  for (const [name, probe] of Object.entries(probes)) {
    const status = await probe();
    check(status < 300, `before the revocation ${name} answers ${status}`);
  }
  const began = Date.now();
  const revoking = project.revoke();
  const took = {};
  await Promise.all(
    Object.entries(probes).map(async ([name, probe]) => {
      await until(`${name} refuses the revoked key`, async () => (await probe()) === 401, { timeoutMs: 10_000, everyMs: 20 });
      took[`${name}_ms`] = Date.now() - began;
    }),
  );
  await revoking;
  for (const [name, ms] of Object.entries(took)) check(ms <= REVOKED_MS_MAX, `${name} took ${ms} ms`);
  return took;
}

// The same room name in two projects and the default one: two calls that know nothing of each other, and the end of a key.
export default {
  order: 36,
  fresh: true,
  mesh: { extra: ['--webhook', hooks.url] },
  async run(t) {
    const [acme, apex] = [await Project.create(t, 'acme'), await Project.create(t, 'apex')];
    await sleep(1500);
    const ada = await acme.join(t, await t.process('ada', 'fra'), room);
    const bob = await acme.join(t, await t.process('bob', 'syd'), room);
    const call = await twoWay(t, ada, bob);
    const refused = await strangers(apex, 'ada');

    // The same identity in the same room name of other projects ends nothing and sees nobody.
    const eve = await apex.join(t, await t.process('eve', 'fra'), room);
    const twin = await apex.join(t, await t.process('ada', 'syd'), room);
    const guest = await t.native('guest', 'fra', { room });
    await eve.publish();
    await twin.sees(eve);
    await sleep(1000);
    const heard = (one) => [...new Set(one.events.map((event) => event.identity).filter(Boolean))].sort().join();
    check(!/eve|guest/.test(heard(ada)) && !/eve|guest/.test(heard(bob)), `acme heard of ${heard(ada)} ${heard(bob)}`);
    check(!/bob|guest/.test(heard(eve)), `apex heard of ${heard(eve)}`);
    const tracks = async (one) => [...new Set((await one.stats()).tracks.map((track) => track.identity))].join();
    check((await tracks(guest)) === '', `the guest of the default project receives ${await tracks(guest)}`);
    check((await tracks(ada)) === 'bob', `ada receives ${await tracks(ada)}`);
    const people = async (project) => (await project.call('ListParticipants', { room })).participants.map((one) => one.identity).sort().join();
    check((await people(acme)) === 'ada,bob' && (await people(apex)) === 'ada,eve', `${await people(acme)} / ${await people(apex)}`);
    const listed = await acme.call('ListRooms', {});
    check(listed.rooms.length === 1 && listed.rooms[0].name === room && listed.rooms[0].numParticipants === 2, JSON.stringify(listed));
    const shown = JSON.parse(await acme.cli('room', 'list', '--project', 'acme', '--json'));
    check(shown.length === 1 && shown[0].project === 'acme' && shown[0].participants === 2, JSON.stringify(shown));
    const why = await acme.cli('explain', 'room', room, '--project', 'acme');
    check(why.includes(`room ${room}`), why);

    const revoked = await refusals(t, acme);
    // Who is in a call stays in it.
    const after = await bob.watch(ada, t.seconds);
    checkFluent(t, bob, ada, after);
    const upset = [ada, bob].flatMap((one) => one.events).filter((one) => ['disconnected', 'reconnecting'].includes(one.event));
    check(upset.length === 0, `the running call was disturbed: ${JSON.stringify(upset)}`);
    await until('webhooks tell of the default project', () => hooks.about(room).length > 0);
    const told = hooks.about(room).map((one) => one.event.participant?.identity).filter(Boolean);
    check(told.every((identity) => identity === 'guest'), `the default project's webhook tells of ${told.join()}`);
    return { refused, revoked, call: call.to_ada, after_revocation: figures(after), webhooks: told.length, fps: round(after.fps) };
  },
};
