import { check } from '../lib/check.mjs';

// Everybody hears how everybody is connected, at the same edge and across a link; on a loopback that is excellent.
export default {
  order: 14,
  async run(t) {
    const ada = await t.chromium('ada', 'fra');
    const bob = await t.chromium('bob', 'fra');
    const cy = await t.native('cy', 'syd');
    await ada.publish({ video: { width: 320, height: 180, bitrate: 200_000 } });
    await Promise.all([bob.sees(ada), cy.sees(ada)]);
    const told = async (to, about) => {
      const { quality } = await to.event('quality', { identity: about.identity }, { timeoutMs: 20_000 });
      check(quality === 'excellent', `${to.identity} hears that ${about.identity} is ${quality}`);
    };
    await Promise.all([told(ada, ada), told(bob, ada), told(ada, bob), told(bob, cy)]);
    return {};
  },
};
