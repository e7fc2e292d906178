import { check, round, sleep, until } from './check.mjs';
import { twoWay } from './two_way.mjs';

/** Of livekit.DisconnectReason. */
const PARTICIPANT_REMOVED = 4;
const ROOM_DELETED = 5;

const base64 = (text) => Buffer.from(text).toString('base64');
const list = (answer, field) => (Array.isArray(answer) ? answer : (answer[field] ?? []));

/** Fails unless the call is refused with this code. */
async function refused(api, method, request, code) {
  let error;
  try {
    await api.call(method, request);
  } catch (caught) {
    error = caught;
  }
  check(error?.code === code, `${method} ${JSON.stringify(request)}: expected ${code}, got ${error?.code}: ${error?.message}`);
}

async function rooms(api, names) {
  return list(await api.call('listRooms', { names }), 'rooms');
}

async function participants(api, room) {
  return list(await api.call('listParticipants', { room }), 'participants');
}

/** A room made ahead, with a limit that its edges keep. */
async function makesRooms(t, api, room) {
  const wish = { name: room, emptyTimeout: 60, departureTimeout: 3, maxParticipants: 3, metadata: 'made' };
  const made = await api.call('createRoom', wish);
  check(made.sid.startsWith('RM_') && made.metadata === 'made', `made ${JSON.stringify(made)}`);
  check(made.maxParticipants === 3 && made.emptyTimeout === 60, `made ${JSON.stringify(made)}`);
  const again = await api.call('createRoom', { name: room });
  check(again.sid === made.sid, 'made twice it is another room');
  const [found] = await rooms(api, [room]);
  check(found?.sid === made.sid && !found.numParticipants, `listed ${JSON.stringify(found)}`);
  check((await rooms(api)).some((one) => one.name === room), 'the room is not among all rooms');
  return made;
}

async function keepsTheLimit(t, made) {
  const fourth = await t.page('dan', 'fra');
  const token = t.mesh.token({ room: t.room, identity: 'dan' });
  const answer = await fourth.attempt('join', { url: t.mesh.edge('fra').url, token });
  check(!answer.ok, `a fourth participant came into a room for ${made.maxParticipants}`);
  await t.drop(fourth);
}

/** Everybody is listed with what they publish, wherever they are connected. */
async function showsParticipants(api, room, ada, bob, cyd) {
  const identities = [ada, bob, cyd].map((one) => one.identity).sort();
  const all = await until('all three are listed with their tracks', async () => {
    const listed = await participants(api, room);
    const named = listed.map((one) => one.identity).sort();
    const publishing = listed.filter((one) => (one.tracks ?? []).length === 2);
    return named.join() === identities.join() && publishing.length >= 2 && listed;
  });
  const one = await api.call('getParticipant', { room, identity: ada.identity });
  check(one.sid === ada.sid && one.state === 'ACTIVE' && one.region === ada.region, JSON.stringify(one));
  check(one.permission.canPublish && one.permission.canSubscribe, JSON.stringify(one.permission));
  const [shown] = await rooms(api, [room]);
  check(shown.numParticipants === 3 && shown.numPublishers === 2, JSON.stringify(shown));
  await refused(api, 'getParticipant', { room, identity: 'nobody' }, 'not_found');
  await refused(api, 'listParticipants', { room: `${room}-none` }, 'not_found');
  return all;
}

async function describesParticipants(api, room, ada, bob) {
  const said = { name: 'Bob B.', metadata: '{"hand":true}', attributes: { seat: '7' } };
  const answer = await api.call('updateParticipant', { room, identity: bob.identity, ...said });
  check(answer.name === said.name && answer.attributes.seat === '7', JSON.stringify(answer));
  const got = await api.call('getParticipant', { room, identity: bob.identity });
  check(got.metadata === said.metadata, 'asked for at once it is the old one');
  await until('the others see it', async () => {
    const seen = await ada.act('described', { identity: bob.identity });
    return seen.name === said.name && seen.metadata === said.metadata && seen.attributes?.seat === '7';
  });
}

/** A publisher may publish no more, and again. */
async function permits(t, api, room, ada, bob) {
  const permission = { canSubscribe: true, canPublish: false, canPublishData: true };
  const since = Date.now();
  const answer = await api.call('updateParticipant', { room, identity: ada.identity, permission });
  check(answer.permission.canPublish !== true, JSON.stringify(answer.permission));
  await bob.event('track_unpublished', { identity: ada.identity, kind: 'video' }, { sinceMs: since });
  await bob.event('track_unpublished', { identity: ada.identity, kind: 'audio' }, { sinceMs: since });
  await ada.event('permissions', { can_publish: false }, { sinceMs: since });
  const forbidden = await ada.attempt('publish_audio');
  check(!forbidden.ok, 'published without the right to');
  await api.call('updateParticipant', { room, identity: ada.identity, permission: { ...permission, canPublish: true } });
  await ada.event('permissions', { can_publish: true }, { sinceMs: since });
  await ada.publish();
  await bob.sees(ada);
}

async function mutes(api, room, ada, bob) {
  const { tracks } = await api.call('getParticipant', { room, identity: ada.identity });
  const trackSid = tracks.find((one) => one.source === 'CAMERA').sid;
  const since = Date.now();
  const muted = await api.call('mutePublishedTrack', { room, identity: ada.identity, trackSid, muted: true });
  check((muted.track ?? muted).muted === true, JSON.stringify(muted));
  await bob.event('track_muted', { identity: ada.identity, kind: 'video' }, { sinceMs: since });
  await ada.event('track_muted', { identity: ada.identity }, { sinceMs: since });
  await sleep(500);
  const still = await bob.watch(ada, 1);
  check(still.fps <= 1, `${round(still.fps)} frames/s of a muted camera`);
  await api.call('mutePublishedTrack', { room, identity: ada.identity, trackSid, muted: false });
  await bob.event('track_unmuted', { identity: ada.identity, kind: 'video' }, { sinceMs: since });
  await until('the picture moves again', async () => (await bob.watch(ada, 1)).fps >= 8);
  await refused(api, 'mutePublishedTrack', { room, identity: ada.identity, trackSid: 'TR_none', muted: true }, 'not_found');
  return trackSid;
}

async function subscribes(api, room, trackSid, ada, bob) {
  const request = { room, identity: bob.identity, trackSids: [trackSid] };
  await api.call('updateSubscriptions', { ...request, subscribe: false });
  await until('the picture stops', async () => (await bob.watch(ada, 1)).fps <= 1);
  await api.call('updateSubscriptions', { ...request, subscribe: true });
  await until('the picture moves again', async () => (await bob.watch(ada, 1)).fps >= 8);
}

async function sendsData(api, room, ada, bob) {
  const data = (text, more = {}) => api.call('sendData', { room, data: base64(text), kind: 'RELIABLE', ...more });
  await data('for all', { topic: 'news' });
  for (const one of [ada, bob]) await one.event('data', { payload: 'for all', topic: 'news' });
  await data('for bob', { topic: 'news', destinationIdentities: [bob.identity] });
  await bob.event('data', { payload: 'for bob', topic: 'news' });
  await api.call('sendData', { room, data: base64('lossy'), kind: 'LOSSY', topic: 'news' });
  await ada.event('data', { payload: 'lossy', topic: 'news' });
  await ada.refresh();
  check(!ada.events.some((one) => one.payload === 'for bob'), 'data reached somebody that it was not for');
}

async function setsMetadata(api, room, ada, bob) {
  const changed = await api.call('updateRoomMetadata', { room, metadata: 'changed' });
  check(changed.metadata === 'changed', JSON.stringify(changed));
  for (const one of [ada, bob]) await one.event('room_metadata', { metadata: 'changed' });
}

async function calls(api, room, ada, bob) {
  for (const one of [ada, bob]) {
    await one.act('rpc_serve', { method: 'shout' });
    const request = { room, destinationIdentity: one.identity, method: 'shout', payload: 'hello' };
    const answer = await api.call('performRpc', { ...request, responseTimeoutMs: 5000 });
    check((answer.payload ?? answer) === 'HELLO', JSON.stringify(answer));
    await refused(api, 'performRpc', { ...request, method: 'nothing' }, 'unimplemented');
  }
  const nobody = { room, destinationIdentity: 'nobody', method: 'shout', payload: 'hello' };
  await refused(api, 'performRpc', nobody, 'not_found');
}

/** A participant is seen in another room too, across regions, until it is taken out of there. */
async function forwards(api, room, other, ada, wat) {
  const since = Date.now();
  await api.call('forwardParticipant', { room, identity: ada.identity, destinationRoom: other });
  await wat.sees(ada);
  const shown = (await participants(api, other)).find((one) => one.identity === ada.identity);
  check(shown?.kindDetails?.includes('FORWARDED'), `forwarded: ${JSON.stringify(shown)}`);
  await api.call('removeParticipant', { room: other, identity: ada.identity });
  await wat.event('participant_disconnected', { identity: ada.identity }, { sinceMs: since });
  check((await participants(api, room)).some((one) => one.identity === ada.identity), 'it left its own room');
}

/** A participant goes on in another room, on the connection that it has. */
async function moves(t, api, room, other, ada, bob, wat) {
  const since = Date.now();
  await api.call('moveParticipant', { room, identity: ada.identity, destinationRoom: other });
  await ada.event('moved', { room: other }, { sinceMs: since });
  await bob.event('participant_disconnected', { identity: ada.identity }, { sinceMs: since });
  await wat.event('participant_connected', { identity: ada.identity }, { sinceMs: since });
  await wat.sees(ada);
  await ada.sees(wat);
  await ada.tells([wat]);
  const seen = await wat.watch(ada, t.seconds);
  check(seen.fps >= 8, `${round(seen.fps)} frames/s of the participant that moved`);
  check((await participants(api, other)).some((one) => one.identity === ada.identity), 'it is not listed in the other room');
  check(!(await participants(api, room)).some((one) => one.identity === ada.identity), 'it is listed in the room before');
  return { moved_fps: round(seen.fps) };
}

async function removes(t, api, room, bob, cyd) {
  const since = Date.now();
  // What was issued until now lets nobody in again.
  const revokeTokenTs = String(Math.floor(since / 1000));
  await api.call('removeParticipant', { room, identity: bob.identity, revokeTokenTs });
  await bob.event('disconnected', { reason: PARTICIPANT_REMOVED }, { sinceMs: since });
  await cyd.event('participant_disconnected', { identity: bob.identity }, { sinceMs: since });
  await refused(api, 'getParticipant', { room, identity: bob.identity }, 'not_found');
  const late = await t.process('bob', 'syd');
  const token = t.mesh.token({ room, identity: 'bob' });
  const answer = await late.attempt('join', { url: t.mesh.edge('syd').url, token });
  check(!answer.ok, 'a revoked token let its bearer in');
  await t.drop(late);
}

async function ends(api, room, others) {
  const since = Date.now();
  await api.call('deleteRoom', { room });
  for (const one of others) await one.event('disconnected', { reason: ROOM_DELETED }, { sinceMs: since });
  check((await rooms(api, [room])).length === 0, 'a deleted room is listed');
  await refused(api, 'deleteRoom', { room }, 'not_found');
}

function checkOrder(told, ...expected) {
  let from = 0;
  for (const event of expected) {
    const at = told.indexOf(event, from);
    check(at >= 0, `webhooks: no ${event} after ${told.slice(0, from).join(', ')} in ${told.join(', ')}`);
    from = at + 1;
  }
}

/**
 * Every method of the room service, with participants in three regions; then the webhooks that tell of it.
 *
 * @param {{call: Function, verify: Function}} api one of the SDKs
 * @param {import('./webhooks.mjs').Hooks} hooks what the mesh tells its events
 */
export async function everyMethod(t, api, hooks) {
  const [room, other] = [t.room, `${t.room}-other`];
  const made = await makesRooms(t, api, room);
  const ada = await t.chromium('ada', 'fra');
  const bob = await t.native('bob', 'syd');
  const cyd = await t.native('cyd', 'iad');
  await keepsTheLimit(t, made);
  await twoWay(t, ada, bob);
  await showsParticipants(api, room, ada, bob, cyd);
  await describesParticipants(api, room, ada, bob);
  await permits(t, api, room, ada, bob);
  const trackSid = await mutes(api, room, ada, bob);
  await subscribes(api, room, trackSid, ada, bob);
  await sendsData(api, room, ada, bob);
  await setsMetadata(api, room, ada, bob);
  await calls(api, room, ada, bob);
  const wat = await t.chromium('wat', 'syd', { room: other });
  await wat.publish();
  await forwards(api, room, other, ada, wat);
  const figures = await moves(t, api, room, other, ada, bob, wat);
  await removes(t, api, room, bob, cyd);
  await ends(api, other, [ada, wat]);
  await cyd.act('leave');
  const verify = (body, authorization) => api.verify(body, authorization);
  const told = await hooks.verified(room, verify);
  const there = await hooks.verified(other, verify);
  checkOrder(told, 'room_started', 'participant_joined ada', 'participant_left ada', 'room_finished');
  checkOrder(told, 'participant_joined bob', 'participant_left bob', 'participant_left cyd', 'room_finished');
  checkOrder(told, `track_published ada/${trackSid}`, `track_unpublished ada/${trackSid}`, 'participant_left ada');
  checkOrder(there, 'room_started', 'participant_joined wat', 'participant_joined ada', 'participant_left ada', 'room_finished');
  const webhooks_replayed = await hooks.replayed(t.mesh, room);
  return { ...figures, webhooks: told.length + there.length, webhooks_refused_first: hooks.refused, webhooks_replayed };
}
