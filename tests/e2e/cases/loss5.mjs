import { check, round } from '../lib/check.mjs';
import { checkFluent, figures, twoWay } from '../lib/two_way.mjs';

const LOSS_PERCENT = 5;
/** Of the frames sent; what the repair of a link must save at this loss. */
const FPS_MIN = 12;

// A call between Frankfurt and Sydney whose link loses 5 % of its packets each way.
export default {
  order: 30,
  mesh: { extra: ['--loss', `${LOSS_PERCENT}%`] },
  async run(t) {
    const fra = await t.native('fra', 'fra');
    const syd = await t.native('syd', 'syd');
    const both = await twoWay(t, fra, syd);
    const seen = await syd.watch(fra, t.seconds * 2);
    checkFluent(t, syd, fra, seen, { fpsMin: FPS_MIN });
    const lost = (100 * seen.audio_lost) / Math.max(1, seen.audio_lost + seen.audio_packets);
    check(lost < LOSS_PERCENT / 2, `${round(lost)} % of the sound was lost in spite of repair`);
    return { loss_percent: LOSS_PERCENT, audio_lost_percent: round(lost, 2), long: figures(seen), ...both };
  },
};
