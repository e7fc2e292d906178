// What edges report of their transports, sampled while a scenario runs.
import { sleep } from './check.mjs';

/** Edges report once a second. */
const EVERY_MS = 500;

/** Of a document of `/debug/media`, the transport that sends to a participant. */
export function towards(document, identity) {
  const own = document.transports.filter((one) => one.identity === identity);
  return own.find((one) => (one.subscriptions ?? []).length > 0) ?? own[0] ?? null;
}

const kbit = (bps) => (bps === null ? '-' : Math.round(bps / 1000));

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
    const { estimate_bps, sent_bps, padding_bps, queue_ms, rtt_ms, loss } = transport;
    this.scenario.log(
      `${((Date.now() - this.scenario.started) / 1000).toFixed(1)} s  to ${identity}: estimate ${kbit(estimate_bps)} ` +
        `sent ${kbit(sent_bps)} padding ${kbit(padding_bps)} kbit/s, queue ${Math.round(queue_ms)} ms, ` +
        `rtt ${Math.round(rtt_ms)} ms, loss ${loss.toFixed(3)}, layers ${layers(transport)}`,
    );
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
