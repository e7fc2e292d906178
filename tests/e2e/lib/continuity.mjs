// Whether media goes on: every receiver's statistics, looked at all the time.
import { round, sleep } from './check.mjs';

/** How often receivers are asked. */
const EVERY_MS = 400;
/** In a shorter time neither a rate of frames nor silence says anything: Chromium's fake microphone beeps once a second. */
const TELLING_MS = 3000;

/** Watches what each of some participants gets of each other one, phase by phase. */
export class Continuity {
  constructor(participants) {
    this.participants = participants;
    this.phases = [];
    this.running = true;
    this.task = this.run();
  }

  /** Begins a phase; what comes from now on counts for it. */
  phase(name) {
    this.phases.push({ name, since: Date.now(), flows: new Map() });
  }

  async run() {
    let before;
    while (this.running) {
      const at = Date.now();
      const stats = await Promise.all(this.participants.map((one) => one.stats().catch(() => undefined)));
      const phase = this.phases.at(-1);
      if (phase && before) this.participants.forEach((one, index) => this.note(phase, one, before[index], stats[index]));
      before = stats;
      await sleep(Math.max(50, EVERY_MS - (Date.now() - at)));
    }
  }

  note(phase, receiver, before, after) {
    if (!before || !after) return;
    for (const sender of this.participants.filter((one) => one !== receiver)) {
      const pick = (stats, kind) => stats.tracks.find((one) => one.identity === sender.identity && one.kind === kind) ?? {};
      const [then, now] = [pick(before, 'video'), pick(after, 'video')];
      const key = `${sender.identity}>${receiver.identity}`;
      const flow = phase.flows.get(key) ?? { frames: 0, ms: 0, still_ms: 0, still_ms_max: 0, gap_ms_max: 0, freezes: 0, energy: 0 };
      phase.flows.set(key, flow);
      const frames = Math.max(0, (now.frames ?? 0) - (then.frames ?? 0));
      const ms = after.at_ms - before.at_ms;
      flow.frames += frames;
      flow.ms += ms;
      flow.still_ms = frames > 0 ? 0 : flow.still_ms + ms;
      flow.still_ms_max = Math.max(flow.still_ms_max, flow.still_ms);
      flow.gap_ms_max = Math.max(flow.gap_ms_max, now.gap_ms_max ?? 0);
      flow.freezes += Math.max(0, (now.freezes ?? 0) - (then.freezes ?? 0));
      flow.energy += Math.max(0, (pick(after, 'audio').energy ?? 0) - (pick(before, 'audio').energy ?? 0));
    }
  }

  /** Ends; figures by phase: the worst of all flows, and each flow's. */
  async end() {
    this.running = false;
    await this.task;
    return this.phases.map(({ name, flows }) => {
      const all = [...flows.entries()].map(([flow, one]) => ({ flow, fps: (one.frames * 1000) / Math.max(1, one.ms), ...one }));
      const worst = (pick) => Math.max(0, ...all.map(pick));
      const telling = all.filter((one) => one.ms >= TELLING_MS);
      return {
        phase: name,
        flows: all.length,
        fps_min: telling.length > 0 ? round(Math.min(...telling.map((one) => one.fps))) : null,
        still_ms_max: Math.round(worst((one) => one.still_ms_max)),
        stillest: all.filter((one) => one.still_ms_max > 0).sort((a, b) => b.still_ms_max - a.still_ms_max)[0]?.flow ?? '',
        gap_ms_max: Math.round(worst((one) => one.gap_ms_max)),
        freezes: all.reduce((sum, one) => sum + one.freezes, 0),
        silent: telling.filter((one) => one.energy === 0).map((one) => one.flow),
      };
    });
  }
}
