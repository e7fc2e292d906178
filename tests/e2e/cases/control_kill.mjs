import { check, sleep, until } from '../lib/check.mjs';
import { isAlive } from '../lib/mesh.mjs';
import { checkFluent, figures, twoWay } from '../lib/two_way.mjs';

/** While control dies, frames must keep coming; a gap beyond this would be seen. */
const GAP_MS_MAX = 500;

// The control plane is killed for good: the call goes on, and others still join the room where an edge serves it.
export default {
  order: 40,
  mesh: { extra: ['--restart', 'off'] },
  fresh: true,
  async run(t) {
    const fra = await t.native('fra', 'fra');
    const syd = await t.native('syd', 'syd');
    await twoWay(t, fra, syd);
    const [{ pid }] = t.mesh.control;
    await syd.track(fra, 'video'); // starts a new window of gaps
    process.kill(pid, 'SIGKILL');
    await until('control is dead', () => !isAlive(pid), { timeoutMs: 3000 });
    await sleep(t.seconds * 500);
    const { gap_ms_max } = await syd.track(fra, 'video');
    check(gap_ms_max <= GAP_MS_MAX, `the picture stood still for ${gap_ms_max} ms when control died`);
    const seen = await syd.watch(fra, t.seconds);
    checkFluent(t, syd, fra, seen);

    const since = Date.now();
    const late = await t.chromium('late', 'fra');
    await late.publish({ video: { width: 320, height: 180 } });
    await Promise.all([late.sees(fra), late.sees(syd), fra.sees(late), syd.sees(late)]);
    const disconnected = [fra, syd].flatMap((one) => one.events).filter((one) => one.event === 'disconnected');
    check(disconnected.length === 0, 'somebody was disconnected');
    return { gap_ms_max, late_join_ms: Date.now() - since, after: figures(seen) };
  },
};
