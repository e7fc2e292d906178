import { check, round, until } from '../lib/check.mjs';
import { figures, twoWay } from '../lib/two_way.mjs';

/** DUPLICATE_IDENTITY of livekit.DisconnectReason. */
const DUPLICATE_IDENTITY = 2;

/** The signalling connection breaks and the session goes on over a new one: media must not notice. */
async function resumes(t, who, other) {
  const since = Date.now();
  await who.act('simulate', { scenario: 'signal-reconnect' });
  const watched = other.watch(who, t.seconds);
  const back = await who.event('reconnected', {}, { sinceMs: since, timeoutMs: 20_000 });
  const seen = await watched;
  check(seen.fps >= 8, `${other.identity} got only ${round(seen.fps)} frames/s of ${who.identity} during the resume`);
  await other.tells([who]);
  await who.tells([other]);
  const left = other.events.filter((one) => one.event === 'participant_disconnected' && one.at_ms >= since);
  check(left.length === 0, 'the others saw somebody leave who only lost the signalling connection');
  return { resumed_ms: back.at_ms - since, ...figures(seen) };
}

/** Name, metadata and attributes, as the other one sees them. */
async function describes(who, other) {
  const told = { name: 'Ada L.', metadata: '{"hand":true}', attributes: { seat: '4' } };
  await who.act('describe', told);
  await until('the other one sees name, metadata and attributes', async () => {
    const seen = await other.act('described', { identity: who.identity });
    return seen.name === told.name && seen.metadata === told.metadata && seen.attributes?.seat === '4';
  });
}

/** A second join with the same identity, in another region, ends the first. */
async function isReplaced(t, who, region) {
  const again = await t.chromium(who.identity, region);
  await who.event('disconnected', { reason: DUPLICATE_IDENTITY });
  return again;
}

// Sessions that live on, describe themselves, and are replaced; both signalling paths.
export default {
  order: 16,
  async run(t) {
    const grants = { canUpdateOwnMetadata: true };
    const ada = await t.chromium('ada', 'fra', { v: 1, grants });
    const bob = await t.chromium('bob', 'syd', { v: 0, grants });
    await twoWay(t, ada, bob);
    const v1 = await resumes(t, ada, bob);
    const v0 = await resumes(t, bob, ada);
    await describes(ada, bob);
    await isReplaced(t, ada, 'iad');
    return { v1, v0 };
  },
};
