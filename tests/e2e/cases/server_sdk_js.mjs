import { everyMethod } from '../lib/server_api.mjs';
import { JavaScriptSdk } from '../lib/server_sdk.mjs';
import { Hooks } from '../lib/webhooks.mjs';

// The receiver has to be there before its mesh is.
const hooks = await Hooks.start({ refuse: 3 });

// npm's livekit-server-sdk drives every method of the room service, and its receiver verifies the webhooks.
export default {
  order: 24,
  mesh: { extra: ['--webhook', hooks.url] },
  watches: 20,
  run: (t) => everyMethod(t, new JavaScriptSdk(t.mesh), hooks),
};
