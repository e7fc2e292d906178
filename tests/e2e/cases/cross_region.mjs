import { acrossRegions } from '../lib/across_regions.mjs';

// Frankfurt and Sydney, over the link between their edges.
export default {
  order: 10,
  mesh: {},
  run: (t) => acrossRegions(t),
};
