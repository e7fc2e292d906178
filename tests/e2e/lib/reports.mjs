// What edges report of their transports, sampled while a scenario runs.
import { sleep } from './check.mjs';

const EVERY_MS = 250;

/** Of a document of `/debug/media`, the transport that sends to a participant. */
export function towards(document, identity) {
  const own = document.transports.filter((one) => one.identity === identity);
  return own.find((one) => (one.subscriptions ?? []).length > 0) ?? own[0] ?? null;
}

/** Keeps what the edge of a region says of the transports towards some participants. */
export class Sampler {
  /** Starts at once; ends with the scenario. */
  constructor(scenario, region, identities) {
    Object.assign(this, { scenario, region, identities, samples: [], running: true });
    this.done = this.run();
    scenario.also(this);
  }

  async run() {
    while (this.running) {
      await sleep(EVERY_MS);
      try {
        const document = await this.scenario.media(this.region);
        for (const identity of this.identities) this.keep(identity, towards(document, identity));
      } catch (error) {
        this.scenario.log(`/debug/media: ${error.message}`);
      }
    }
  }

  keep(identity, transport) {
    if (!transport || transport.estimate_bps === undefined) return;
    this.samples.push({ identity, at_ms: Date.now() - (transport.age_ms ?? 0), ...transport });
  }

  /** Samples of one participant within a span of Unix time in ms. */
  during(identity, fromMs, toMs = Infinity) {
    return this.samples.filter((one) => one.identity === identity && one.at_ms > fromMs && one.at_ms <= toMs);
  }

  async close() {
    this.running = false;
    await this.done;
  }
}

/** Layers per track in a report, `2`, or `-` while paused or nothing is sent; `wanted` in brackets where it differs. */
export function layers(transport) {
  const one = ({ sent, wanted, paused }) => {
    const now = paused || !sent ? '-' : String(sent.layer);
    return wanted && String(wanted.layer) !== now ? `${now}(${wanted.layer})` : now;
  };
  const videos = (transport?.subscriptions ?? []).filter((subscription) => subscription.wanted);
  return videos.map(one).join(' ');
}
