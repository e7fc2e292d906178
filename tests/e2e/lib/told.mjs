// Whether an application was told everything: webhooks compared with what happened.
import { check, until } from './check.mjs';

/** In which order the events about one participant come. */
const ORDER = ['participant_joined', 'track_published', 'track_unpublished', 'participant_left'];

/** What is to be told of rooms, by name. */
export class Expected {
  constructor() {
    this.rooms = new Map();
  }

  /** Somebody was in a room and published so many tracks. */
  joined(room, identity, tracks = 0) {
    this.rooms.set(room, [...(this.rooms.get(room) ?? []), { identity, tracks }]);
  }

  count() {
    const rooms = [...this.rooms.values()];
    return rooms.reduce((sum, people) => sum + 2 + people.reduce((n, one) => n + 2 + 2 * one.tracks, 0), 0);
  }
}

/** Events about a room, each id once, in the order in which they came first. */
function once(events) {
  const seen = new Set();
  return events.filter((one) => !seen.has(one.id) && seen.add(one.id));
}

function checkRoom(room, people, events) {
  const names = events.map((one) => one.event);
  check(names[0] === 'room_started', `${room}: the first event is ${names[0]}`);
  check(names.at(-1) === 'room_finished', `${room}: the last event is ${names.at(-1)}`);
  check(new Set(events.map((one) => one.room.sid)).size === 1, `${room}: events of several rooms of that name`);
  for (const { identity, tracks } of people) {
    const theirs = events.filter((one) => one.participant?.identity === identity);
    const steps = theirs.map((one) => ORDER.indexOf(one.event));
    const wanted = [0, ...Array(tracks).fill(1), ...Array(tracks).fill(2), 3];
    const sorted = steps.every((step, index) => index === 0 || steps[index - 1] <= step);
    const told = theirs.map((one) => one.event).join(', ');
    check(sorted && steps.join() === wanted.join(), `${room}: of ${identity} was told: ${told}`);
  }
}

/**
 * Waits until every room has ended for the receiver, and compares.
 *
 * @param {import('./webhooks.mjs').Hooks} hooks
 * @param {Expected} expected
 * @returns figures: how many events were expected, came, came again
 */
export async function everythingTold(hooks, expected, { timeoutMs = 90_000 } = {}) {
  const rooms = [...expected.rooms.keys()];
  const of = (room) => hooks.about(room).map((one) => one.event);
  const finished = (room) => of(room).some((one) => one.event === 'room_finished');
  await until('all rooms are told to have ended', () => rooms.every(finished), { timeoutMs, everyMs: 200 });
  const all = rooms.flatMap(of);
  const distinct = rooms.map((room) => once(of(room)));
  rooms.forEach((room, index) => checkRoom(room, expected.rooms.get(room), distinct[index]));
  const told = distinct.reduce((sum, events) => sum + events.length, 0);
  check(told === expected.count(), `${told} events were told, ${expected.count()} happened`);
  return { rooms: rooms.length, expected: expected.count(), told, repeated: all.length - told };
}
