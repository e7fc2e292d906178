const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

/** Parses the Prometheus text format into `[{name, labels, value}]`. */
export function parseMetrics(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const match = line.startsWith('#') ? null : SAMPLE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? '').matchAll(LABEL)].map(([, key, value]) => [key, value]));
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
}

/** Fetches `/metrics` of one node's admin address. */
export async function scrape(admin) {
  const response = await fetch(new URL('/metrics', admin), { signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(`${admin}/metrics answered ${response.status}`);
  return parseMetrics(await response.text());
}

/** Sum of all samples whose name matches (a string, or a regular expression) and that carry the labels. */
export function sum(samples, name, labels = {}) {
  const named = (sample) => (name instanceof RegExp ? name.test(sample.name) : sample.name === name);
  const labelled = (sample) => Object.entries(labels).every(([key, value]) => sample.labels[key] === value);
  return samples.filter((sample) => named(sample) && labelled(sample)).reduce((total, one) => total + one.value, 0);
}

/** RTP packets that an edge has sent to its own clients. */
export async function edgeForwarded(admin) {
  return sum(await scrape(admin), 'antipode_edge_rtp_forwarded_packets_total');
}

/** Media packets that a node has sent and received over its links. */
export async function linkPackets(admin) {
  return sum(await scrape(admin), /^antipode_link_packets_(sent|received)_total$/);
}
