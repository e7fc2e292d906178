import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const SUBSCRIBERS = 200;
const WITHIN_S = 1;
/** Whatever joins, a publisher makes at most this many keyframes per second. */
const REQUESTS_PER_S_MAX = 2;
/** From the start of the join. */
const KEYFRAME_MS_MAX = 2000;
/** The same where other things run on the machine: two hundred handshakes are a second of two cores by themselves. */
const KEYFRAME_MS_MAX_BUSY = 5000;

// Two hundred subscribers join one publisher within a second, while it sends.
export default {
  name: 'join-storm',
  about: 'two hundred subscribers join one publisher within a second',
  seconds: { long: 10, short: 3 },
  mesh: { regions: ['fra'], relays: [], wan: false },
  async run(s) {
    const { key, secret } = s.mesh.credentials;
    const edge = s.mesh.edge('fra');
    const args = ['load', '--json', '--url', edge.url, '--admin', edge.admin, '--room', s.room, '--bitrate', '300k'];
    args.push('--publishers', '1', '--subscribers', String(SUBSCRIBERS), '--join-within', String(WITHIN_S));
    args.push('--warm-up-seconds', '1', '--seconds', String(s.seconds));
    const env = { ...process.env, ANTIPODE_API_KEY: key, ANTIPODE_API_SECRET: secret };
    const { stdout } = await run(s.environment.binary, args, { env, timeout: (s.seconds + 60) * 1000 });
    const report = JSON.parse(stdout);
    const { limits } = s;
    limits.atLeast('subscribers until the end', report.subscribers, SUBSCRIBERS);
    limits.atMost('subscribers without a keyframe', report.without_keyframe, 0);
    limits.atMost('keyframe requests within a second', report.keyframe_requests_per_s_max, REQUESTS_PER_S_MAX);
    limits.atMost('ms from join to the first whole keyframe', report.keyframe_ms.max, s.short ? KEYFRAME_MS_MAX_BUSY : KEYFRAME_MS_MAX);
    limits.atMost('ms from the media connection to it', report.keyframe_after_connect_ms.max, KEYFRAME_MS_MAX);
    return {
      subscribers: report.subscribers,
      failed: report.failed_clients,
      join_ms: report.join_ms,
      keyframe_ms: report.keyframe_ms,
      keyframe_after_connect_ms: report.keyframe_after_connect_ms,
      without_keyframe: report.without_keyframe,
      keyframe_requests: report.keyframe_requests,
      keyframe_requests_per_s_max: report.keyframe_requests_per_s_max,
      loss_ratio: report.loss_ratio,
      edge_cpu_cores: report.edge_cpu_cores,
      generator_cpu_cores: report.generator_cpu_cores,
    };
  },
};
