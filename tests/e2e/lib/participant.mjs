import { check, until, sleep } from './check.mjs';

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
  async sees(from, { frames = 10, timeoutMs = 20_000 } = {}) {
    return until(
      `${this.identity} decodes ${frames} frames of ${from.identity}`,
      async () => {
        const track = await this.track(from, 'video');
        return track && track.frames >= frames && track.width > 0 ? track : null;
      },
      { timeoutMs, everyMs: 100 },
    );
  }

  /** Waits until sound from `from` is heard, and returns its statistics. */
  async hears(from, { energy = 0.001, timeoutMs = 20_000 } = {}) {
    const before = (await this.track(from, 'audio'))?.energy ?? 0;
    return until(
      `${this.identity} hears ${from.identity}`,
      async () => {
        const track = await this.track(from, 'audio');
        return track && track.energy - before >= energy ? track : null;
      },
      { timeoutMs, everyMs: 100 },
    );
  }

  /** Sends data and waits for it at the others; returns the slowest delay in ms. */
  async tells(others, { topic = 'chat', reliable = true } = {}) {
    const payload = `${this.identity} ${Math.random().toString(36).slice(2)}`;
    const sent = Date.now();
    await this.act('send', { payload, topic, reliable });
    const arrivals = await Promise.all(others.map((one) => one.event('data', { payload, topic, identity: this.identity })));
    return Math.max(...arrivals.map((one) => one.at_ms - sent));
  }

  /** What was received of `from` during `seconds`: frame rate, freezes, size, sound energy, loss. */
  async watch(from, seconds) {
    const [video0, audio0] = [await this.track(from, 'video'), await this.track(from, 'audio')];
    const started = Date.now();
    await sleep(seconds * 1000);
    const [video, audio] = [await this.track(from, 'video'), await this.track(from, 'audio')];
    const took = (Date.now() - started) / 1000;
    return {
      fps: video ? (video.frames - (video0?.frames ?? 0)) / took : 0,
      width: video?.width ?? 0,
      height: video?.height ?? 0,
      codec: video?.codec,
      freezes: (video?.freezes ?? 0) - (video0?.freezes ?? 0),
      video_lost: (video?.lost ?? 0) - (video0?.lost ?? 0),
      delay_ms_p50: video?.delay_ms_p50 ?? null,
      energy: (audio?.energy ?? 0) - (audio0?.energy ?? 0),
      audio_lost: (audio?.lost ?? 0) - (audio0?.lost ?? 0),
      audio_packets: (audio?.packets ?? 0) - (audio0?.packets ?? 0),
    };
  }
}
