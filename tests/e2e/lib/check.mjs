/** A requirement of a case that does not hold. */
export class CheckFailed extends Error {}

/** Fails the case with `what` unless `condition` holds. */
export function check(condition, what) {
  if (!condition) throw new CheckFailed(what);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Polls `probe` until it returns something truthy, and returns that.
 *
 * @param {string} what is awaited, for the message on failure
 * @param {() => any} probe may be async; what it throws counts as "not yet" and is shown on failure
 */
export async function until(what, probe, { timeoutMs = 15_000, everyMs = 50 } = {}) {
  const deadline = Date.now() + timeoutMs;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error.message;
    }
    if (Date.now() > deadline) throw new CheckFailed(`not within ${timeoutMs} ms: ${what} (last: ${JSON.stringify(last)})`);
    await sleep(everyMs);
  }
}

/** The p-th percentile (0–100) by nearest rank, or null of nothing. */
export function percentile(values, p) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil((p / 100) * sorted.length) - 1))];
}

/** Rounds to `digits` decimals, so that figures stay readable. */
export const round = (value, digits = 1) => (value === null || value === undefined ? null : Number(value.toFixed(digits)));
