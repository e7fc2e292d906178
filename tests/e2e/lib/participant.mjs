import { CheckFailed, check, until, sleep } from './check.mjs';

/** A lossy message may be lost, and on a link that loses one of twenty it is now and then. */
const LOSSY_TRIES = 5;
const LOSSY_TIMEOUT_MS = 1500;

/**
 * A participant of a call, whichever client it runs in. Sub-classes give `request(command)` and `close()`, and put what
 * happens into `this.events` (newest last), each `{event, at_ms, …}`.
 */
export class Participant {
  constructor(identity, region) {
    this.identity = identity;
    this.region = region;
    this.events = [];
  }

  /** Runs an action; throws its error. */
  async act(name, fields = {}) {
    const answer = await this.request({ do: name, ...fields });
    check(answer.ok, `${this.identity}: ${name} failed: ${answer.error}`);
    return answer;
  }

  /** Runs an action that may fail, and returns its answer either way. */
  attempt(name, fields = {}) {
    return this.request({ do: name, ...fields });
  }

  /** Publishes a picture and a tone. */
  async publish({ video = {}, audio = {} } = {}) {
    if (video) await this.act('publish_video', video);
    if (audio) await this.act('publish_audio', audio);
  }

  stats() {
    return this.act('stats');
  }

  /** Statistics of one received track, or undefined. */
  async track(from, kind) {
    const { tracks } = await this.stats();
    return tracks.find((one) => one.identity === from.identity && one.kind === kind);
  }

  /** Waits until an event matches; those at or before `sinceMs` do not count. */
  async event(name, fields = {}, { sinceMs = 0, timeoutMs = 15_000 } = {}) {
    const matches = (one) =>
      one.event === name && one.at_ms >= sinceMs && Object.entries(fields).every(([key, value]) => one[key] === value);
    return until(
      `${this.identity} is told ${name} ${JSON.stringify(fields)}`,
      async () => {
        await this.refresh();
        return this.events.find(matches);
      },
      { timeoutMs, everyMs: 30 },
    );
  }

  /** Fetches events, where they do not arrive by themselves. */
  async refresh() {}

  /** Waits until video from `from` is decoded, and returns its statistics. */
  sees(from, { frames = 10, timeoutMs = 20_000 } = {}) {
    const enough = (track) => track.frames >= frames && track.width > 0;
    return this.receives(from, 'video', `decodes ${frames} frames of`, enough, timeoutMs);
  }

  /** Waits until sound from `from` is heard, and returns its statistics. */
  async hears(from, { energy = 0.001, timeoutMs = 20_000 } = {}) {
    const before = (await this.track(from, 'audio'))?.energy ?? 0;
    return this.receives(from, 'audio', 'hears', (track) => track.energy - before >= energy, timeoutMs);
  }

  /** Waits until a received track is good enough; on failure says what there was instead. */
  async receives(from, kind, what, enough, timeoutMs) {
    let last;
    const probe = async () => {
      last = await this.stats();
      const track = last.tracks.find((one) => one.identity === from.identity && one.kind === kind);
      return track && enough(track) ? track : null;
    };
    try {
      return await until(`${this.identity} ${what} ${from.identity}`, probe, { timeoutMs, everyMs: 100 });
    } catch (error) {
      throw new CheckFailed(`${error.message}; it has ${JSON.stringify(last)}`);
    }
  }

  /** Sends data and waits for it at the others; returns the slowest delay in ms. What is not reliable is sent again when it is lost. */
  async tells(others, { topic = 'chat', reliable = true } = {}) {
    if (reliable) return this.tellsOnce(others, { topic, reliable });
    for (let left = LOSSY_TRIES; ; left -= 1) {
      try {
        return await this.tellsOnce(others, { topic, reliable, timeoutMs: LOSSY_TIMEOUT_MS });
      } catch (error) {
        if (left <= 1) throw error;
      }
    }
  }

  async tellsOnce(others, { topic, reliable, timeoutMs }) {
    const payload = `${this.identity} ${Math.random().toString(36).slice(2)}`;
    const sent = Date.now();
    await this.act('send', { payload, topic, reliable });
    const fields = { payload, topic, identity: this.identity };
    const arrivals = await Promise.all(others.map((one) => one.event('data', fields, { timeoutMs })));
    return Math.round(Math.max(...arrivals.map((one) => one.at_ms - sent)));
  }

  /** What was received of `from` during `seconds`: frame rate, freezes, size, sound energy, loss. */
  async watch(from, seconds) {
    const [seen] = await this.watchAll([from], seconds);
    return seen;
  }

  /** The same for several others at once, in their order. */
  async watchAll(others, seconds) {
    const before = await this.stats();
    await sleep(seconds * 1000);
    const after = await this.stats();
    const took = (after.at_ms - before.at_ms) / 1000;
    return others.map((from) => {
      const pick = (stats, kind) => stats.tracks.find((one) => one.identity === from.identity && one.kind === kind);
      const video = pick(after, 'video');
      const grown = (kind, field) => (pick(after, kind)?.[field] ?? 0) - (pick(before, kind)?.[field] ?? 0);
      return {
        fps: grown('video', 'frames') / took,
        width: video?.width ?? 0,
        height: video?.height ?? 0,
        codec: video?.codec,
        freezes: grown('video', 'freezes'),
        video_lost: grown('video', 'lost'),
        delay_ms_p50: video?.delay_ms_p50 ?? null,
        energy: grown('audio', 'energy'),
        audio_lost: grown('audio', 'lost'),
        audio_packets: grown('audio', 'packets'),
      };
    });
  }
}
