import { everyMethod } from '../lib/server_api.mjs';
import { PythonSdk } from '../lib/server_sdk.mjs';
import { Hooks } from '../lib/webhooks.mjs';

// The receiver has to be there before its mesh is.
const hooks = await Hooks.start({ refuse: 3 });

// PyPI's livekit-api drives every method of the room service, and its receiver verifies the webhooks.
export default {
  order: 25,
  mesh: { extra: ['--webhook', hooks.url] },
  watches: 20,
  run: async (t) => everyMethod(t, t.keep(await PythonSdk.open(t.mesh, t.environment)), hooks),
};
