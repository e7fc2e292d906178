import { twoWay } from '../lib/two_way.mjs';

// A native client and a page of Chromium at one edge, single peer connection.
export default {
  order: 4,
  run: async (t) => twoWay(t, await t.native('nat', 'fra', { v: 1 }), await t.chromium('chr', 'fra', { v: 1 })),
};
