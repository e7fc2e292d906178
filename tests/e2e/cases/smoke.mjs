import { twoWay } from '../lib/two_way.mjs';

// Two pages of Chromium at one edge, single peer connection.
export default {
  order: 1,
  run: async (t) => twoWay(t, await t.chromium('ada', 'fra', { v: 1 }), await t.chromium('bob', 'fra', { v: 1 })),
};
