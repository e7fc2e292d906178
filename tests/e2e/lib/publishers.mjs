import { pictures, voice } from './material.mjs';
import { Replay } from './replay.mjs';

/**
 * Replayed simulcast publishers in the scenario's room until it ends; the identities of all of them.
 *
 * @param {{prefix: string, publishers?: number, sound?: boolean, fps?: number}} options `sound` is a voice that never stops
 */
export async function publish(scenario, { prefix, publishers = 1, sound = false, fps = 15 }) {
  const voices = sound ? await voice() : undefined;
  const replay = Replay.start(scenario, { prefix, publishers, pictures: await pictures({ fps }), voice: voices });
  scenario.also(replay);
  await replay.ready();
  return Array.from({ length: publishers }, (_, number) => `${prefix}${number}`);
}
