// Flashes and beeps that happen at the same instant, and when a receiver sees and hears them.

/** Distance of the flashes, and how long each lasts. */
const PERIOD_S = 0.5;
const LENGTH_S = 0.12;
/** Distance of the frames, and how often it is looked whether one is due. */
const FRAME_S = 0.033;
const LOOK_MS = 4;
const SIZE = { width: 320, height: 180 };
const BEEP_HZ = 1000;
/** Mean brightness (0–255) and amplitude (0–1) above which it is on. */
const BRIGHT = 128;
const LOUD = 0.05;
/** Posts the context time at which sound begins after silence of a fifth of a second. */
const ONSETS = `registerProcessor('onsets', class extends AudioWorkletProcessor {
  constructor() { super(); this.loud = -1; }
  process([[samples]]) {
    const at = samples ? samples.findIndex((sample) => Math.abs(sample) > ${LOUD}) : -1;
    if (at >= 0) {
      const time = currentTime + at / sampleRate;
      if (time - this.loud > 0.2) this.port.postMessage(time);
      this.loud = currentTime + samples.length / sampleRate;
    }
    return true;
  }
})`;

let shared = null;
async function audioContext() {
  if (!shared) {
    shared = new AudioContext({ latencyHint: 'interactive' });
    await shared.audioWorklet.addModule(URL.createObjectURL(new Blob([ONSETS], { type: 'text/javascript' })));
  }
  await shared.resume();
  return shared;
}

/** Tracks of a canvas that flashes and of a tone that beeps, both by the audio context's clock. */
export async function flashes() {
  const context = await audioContext();
  const canvas = Object.assign(document.createElement('canvas'), SIZE);
  const picture = canvas.getContext('2d');
  // Frames as they are drawn: a canvas that is captured 30 times a second shows each flash by up to 33 ms late, always by the same.
  const video = new MediaStreamTrackGenerator({ kind: 'video' });
  const frames = video.writable.getWriter();
  const gain = new GainNode(context, { gain: 0 });
  const output = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
  const tone = new OscillatorNode(context, { frequency: BEEP_HZ });
  tone.connect(gain).connect(output);
  tone.start();
  let scheduled = Math.ceil(context.currentTime / PERIOD_S) * PERIOD_S;
  let [turn, lit, drawn] = [0, false, 0];
  const timer = setInterval(() => {
    const now = context.currentTime;
    while (scheduled < now + 0.4) {
      scheduled += PERIOD_S;
      gain.gain.setValueAtTime(0.5, scheduled);
      gain.gain.setValueAtTime(0, scheduled + LENGTH_S);
    }
    const bright = now % PERIOD_S < LENGTH_S && now > PERIOD_S;
    if (bright === lit && now - drawn < FRAME_S) return;
    [lit, drawn, turn] = [bright, now, turn + 1];
    picture.fillStyle = bright ? '#fff' : '#000';
    picture.fillRect(0, 0, SIZE.width, SIZE.height);
    // A change in every frame keeps frames coming.
    picture.fillStyle = turn % 2 ? '#444' : '#555';
    picture.fillRect(0, 0, 8, 8);
    void frames.write(new VideoFrame(canvas, { timestamp: Math.round(performance.now() * 1000) }));
  }, LOOK_MS);
  const [audio] = output.stream.getAudioTracks();
  const stop = () => {
    clearInterval(timer);
    tone.stop();
    void frames.close();
    video.stop();
    audio.stop();
  };
  return { video, audio, stop };
}

/** Times (`performance.now()`) at which the picture turns bright. */
function watchFlashes(track) {
  const video = document.createElement('video');
  Object.assign(video, { muted: true, srcObject: new MediaStream([track]) });
  document.getElementById('media').append(video);
  const canvas = Object.assign(document.createElement('canvas'), { width: 8, height: 8 });
  const picture = canvas.getContext('2d', { willReadFrequently: true });
  const times = [];
  let bright = false;
  let running = true;
  const look = (_now, frame) => {
    picture.drawImage(video, 0, 0, 8, 8);
    const { data } = picture.getImageData(0, 0, 8, 8);
    let sum = 0;
    for (let at = 0; at < data.length; at += 4) sum += data[at];
    const lit = sum / 64 > BRIGHT;
    if (lit && !bright) times.push(frame.expectedDisplayTime);
    bright = lit;
    if (running) video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  void video.play();
  return {
    times,
    stop() {
      running = false;
      video.remove();
    },
  };
}

/** Times (`performance.now()`) at which sound begins. */
async function listenForBeeps(track) {
  const context = await audioContext();
  const source = new MediaStreamAudioSourceNode(context, { mediaStream: new MediaStream([track]) });
  const onsets = new AudioWorkletNode(context, 'onsets');
  const times = [];
  onsets.port.onmessage = ({ data }) => times.push(performance.now() - (context.currentTime - data) * 1000);
  source.connect(onsets);
  return {
    times,
    stop() {
      source.disconnect();
      onsets.port.close();
    },
  };
}

/** Playout times of picture and sound on the sender's clock, picture minus sound, ms (webrtc-stats). */
async function playoutDifference(receivers) {
  const [video, audio] = await Promise.all(
    receivers.map(async (receiver) => {
      let time;
      (await receiver.getStats()).forEach((entry) => {
        if (entry.type === 'inbound-rtp') time = entry.estimatedPlayoutTimestamp;
      });
      return time;
    }),
  );
  return video !== undefined && audio !== undefined ? video - audio : null;
}

/**
 * Watches flashes and beeps for a while.
 *
 * @param {{video: MediaStreamTrack, audio: MediaStreamTrack, receivers: RTCRtpReceiver[], settle: number, seconds: number}} what
 *   `receivers`: video's, audio's; both play for `settle` seconds before it watches for `seconds`
 * @returns {Promise<{offsets_ms: number[], playout_ms: number[], flashes: number, beeps: number}>} offsets: picture after sound
 */
export async function watch({ video, audio, receivers, settle, seconds }) {
  const seen = watchFlashes(video);
  const heard = await listenForBeeps(audio);
  await new Promise((resolve) => setTimeout(resolve, settle * 1000));
  seen.times.length = 0;
  heard.times.length = 0;
  const playout_ms = [];
  for (let waited = 0; waited < seconds; waited += 0.5) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const difference = await playoutDifference(receivers);
    if (difference !== null) playout_ms.push(difference);
  }
  seen.stop();
  heard.stop();
  const offsets_ms = [];
  for (const flash of seen.times) {
    const offsets = heard.times.map((beep) => flash - beep);
    const nearest = offsets.reduce((best, one) => (Math.abs(one) < Math.abs(best) ? one : best), Infinity);
    if (Math.abs(nearest) < (PERIOD_S * 1000) / 2) offsets_ms.push(nearest);
  }
  return { offsets_ms, playout_ms, flashes: seen.times.length, beeps: heard.times.length };
}

/** The same over two connections within this page: what capture and playing alone make of it. */
export async function watchLoop({ settle, seconds }) {
  const source = await flashes();
  const [near, far] = [new RTCPeerConnection(), new RTCPeerConnection()];
  near.onicecandidate = ({ candidate }) => candidate && far.addIceCandidate(candidate);
  far.onicecandidate = ({ candidate }) => candidate && near.addIceCandidate(candidate);
  const stream = new MediaStream([source.video, source.audio]);
  const received = {};
  const both = new Promise((resolve) => {
    far.ontrack = ({ track, receiver }) => {
      received[track.kind] = { track, receiver };
      if (received.video && received.audio) resolve();
    };
  });
  stream.getTracks().forEach((track) => near.addTrack(track, stream));
  await near.setLocalDescription();
  await far.setRemoteDescription(near.localDescription);
  await far.setLocalDescription();
  await near.setRemoteDescription(far.localDescription);
  await both;
  const element = Object.assign(document.createElement('audio'), { srcObject: new MediaStream([received.audio.track]), volume: 0 });
  await element.play();
  const seen = await watch({
    video: received.video.track,
    audio: received.audio.track,
    receivers: [received.video.receiver, received.audio.receiver],
    settle,
    seconds,
  });
  element.srcObject = null;
  near.close();
  far.close();
  source.stop();
  return seen;
}
