import { check } from '../lib/check.mjs';
import { twoWay } from '../lib/two_way.mjs';

// Clients that know nothing but the gateway's URL: it hands their signalling to an edge, and a resume to the same one.
export default {
  order: 45,
  async run(t) {
    const url = t.mesh.http.replace(/^http/, 'ws');
    const control = t.mesh.control[0];
    const tunnels = () => t.mesh.metric(control, 'antipode_control_tunnels');
    const before = await tunnels();
    const ada = await t.chromium('ada', 'fra', { url, v: 1 });
    const bob = await t.chromium('bob', 'fra', { url, v: 0 });
    const first = await twoWay(t, ada, bob);
    check((await tunnels()) === before + 2, `${await tunnels()} connections go through the gateway, ${before} did before`);
    const since = Date.now();
    await ada.act('simulate', { scenario: 'signal-reconnect' });
    await ada.event('reconnected', {}, { sinceMs: since });
    await bob.refresh();
    const left = bob.events.filter((one) => one.event === 'participant_disconnected');
    check(left.length === 0, 'the resumed participant had to join anew');
    const seen = await bob.watch(ada, t.seconds);
    check(seen.fps > 0 && seen.energy > 0, `after the resume: ${JSON.stringify(seen)}`);
    return { ...first, resume_ms: Date.now() - since - t.seconds * 1000 };
  },
};
