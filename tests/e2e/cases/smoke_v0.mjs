import { twoWay } from '../lib/two_way.mjs';

// Two pages of Chromium at one edge, two peer connections each.
export default {
  order: 2,
  run: async (t) => twoWay(t, await t.chromium('ada', 'fra', { v: 0 }), await t.chromium('bob', 'fra', { v: 0 })),
};
