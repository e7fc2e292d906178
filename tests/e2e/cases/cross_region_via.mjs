import { check } from '../lib/check.mjs';
import { acrossRegions } from '../lib/across_regions.mjs';
import { linkPackets } from '../lib/metrics.mjs';

// The same call with rooms forced through the relay in Singapore, which must be seen to carry it.
export default {
  order: 20,
  mesh: { extra: ['--room-policy', 'via=sin'] },
  async run(t) {
    const [relay] = t.mesh.relays;
    const before = await linkPackets(relay.admin);
    const figures = await acrossRegions(t);
    const carried = (await linkPackets(relay.admin)) - before;
    check(carried > 100, `the relay carried only ${carried} packets`);
    return { relay_packets: carried, ...figures };
  },
};
