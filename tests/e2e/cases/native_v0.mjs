import { twoWay } from '../lib/two_way.mjs';

// A native client and a page of Chromium at one edge, two peer connections each.
export default {
  order: 3,
  run: async (t) => twoWay(t, await t.native('nat', 'fra', { v: 0 }), await t.chromium('chr', 'fra', { v: 0 })),
};
