// A WHIP publisher or WHEP player with nothing but RTCPeerConnection, driven by `window.e2e` from the harness.

const SDP = 'application/sdp';
const FRAGMENT = 'application/trickle-ice-sdpfrag';

let peer = null;
let session = null;
let firstMs = null;
const events = [];

function told(event, fields = {}) {
  events.push({ event, at_ms: Date.now(), ...fields });
}

/** A request with the session's token; answers with an error status are answers. */
async function ask(method, url, token, { body, type, ifMatch } = {}) {
  const headers = { authorization: `Bearer ${token}` };
  if (type) headers['content-type'] = type;
  if (ifMatch) headers['if-match'] = ifMatch;
  const answer = await fetch(url, { method, headers, body });
  return { status: answer.status, headers: answer.headers, text: await answer.text() };
}

async function gathered(connection) {
  if (connection.iceGatheringState === 'complete') return;
  await new Promise((resolve) => {
    connection.addEventListener('icegatheringstatechange', () => {
      if (connection.iceGatheringState === 'complete') resolve();
    });
  });
}

/** Offers to `url` and takes the answer. `munge` may change the offer on the wire. */
async function exchange({ url, token }) {
  peer.addEventListener('connectionstatechange', () => told(peer?.connectionState ?? 'closed'));
  await peer.setLocalDescription();
  await gathered(peer);
  const started = performance.now();
  const { status, headers, text } = await ask('POST', url, token, { body: peer.localDescription.sdp, type: SDP });
  if (status !== 201) throw new Error(`${status}: ${text}`);
  const location = headers.get('location');
  session = { url: new URL(location, url).href, token, etag: headers.get('etag') };
  await peer.setRemoteDescription({ type: 'answer', sdp: text });
  return { location, etag: session.etag, post_ms: performance.now() - started, answer: text };
}

/** ICE credentials and mid of a description's first section. */
function credentials(sdp) {
  const value = (name) => new RegExp(`^a=${name}:(.*)$`, 'm').exec(sdp)[1].trim();
  return { ufrag: value('ice-ufrag'), pwd: value('ice-pwd'), mid: value('mid') };
}

/** Statistics by kind, of receivers or senders. */
async function figures(kind, type) {
  const report = await peer.getStats();
  let found = null;
  report.forEach((entry) => {
    if (entry.type === type && entry.kind === kind && (!found || (entry.frameWidth ?? 0) > (found.frameWidth ?? 0))) found = entry;
  });
  return found ?? {};
}

const actions = {
  /** Publishes the fake camera and microphone; `simulcast` in three layers. */
  async publish({ url, token, width = 320, height = 240, fps = 15, simulcast = false, codec }) {
    const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width, height, frameRate: fps } });
    peer = new RTCPeerConnection();
    const encodings = simulcast
      ? [4, 2, 1].map((scaleResolutionDownBy, index) => ({ rid: 'qhf'[index], scaleResolutionDownBy, maxBitrate: 150_000 * 3 ** index }))
      : [{ maxBitrate: 600_000 }];
    peer.addTransceiver(media.getAudioTracks()[0], { direction: 'sendonly', streams: [media] });
    const video = peer.addTransceiver(media.getVideoTracks()[0], { direction: 'sendonly', streams: [media], sendEncodings: encodings });
    if (codec) {
      const all = RTCRtpSender.getCapabilities('video').codecs;
      const wanted = (one) => one.mimeType.toLowerCase() === `video/${codec}` || one.mimeType === 'video/rtx';
      video.setCodecPreferences(all.filter(wanted));
    }
    return exchange({ url, token });
  },
  /** Plays one picture and one sound. */
  async play({ url, token }) {
    peer = new RTCPeerConnection();
    peer.addTransceiver('audio', { direction: 'recvonly' });
    peer.addTransceiver('video', { direction: 'recvonly' });
    const stream = new MediaStream();
    const element = document.createElement('video');
    element.autoplay = true;
    element.srcObject = stream;
    element.requestVideoFrameCallback(() => {
      firstMs = Date.now();
      told('first_frame');
    });
    document.getElementById('media').append(element);
    peer.addEventListener('track', ({ track }) => stream.addTrack(track));
    return exchange({ url, token });
  },
  /** Restarts ICE by PATCH (RFC 9725 section 4.3.3). */
  async restart() {
    const before = peer.localDescription.sdp;
    const remote = peer.remoteDescription.sdp;
    peer.restartIce();
    await peer.setLocalDescription();
    const { ufrag, pwd, mid } = credentials(peer.localDescription.sdp);
    const body = `a=ice-ufrag:${ufrag}\r\na=ice-pwd:${pwd}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:${mid}\r\n`;
    const { status, headers, text } = await ask('PATCH', session.url, session.token, { body, type: FRAGMENT, ifMatch: '*' });
    if (status !== 200) throw new Error(`${status}: ${text}`);
    const ours = credentials(text);
    const answer = remote
      .replaceAll(/^a=ice-ufrag:.*$/gm, `a=ice-ufrag:${ours.ufrag}`)
      .replaceAll(/^a=ice-pwd:.*$/gm, `a=ice-pwd:${ours.pwd}`);
    await peer.setRemoteDescription({ type: 'answer', sdp: answer });
    const etag = headers.get('etag');
    const changed = etag !== session.etag && credentials(before).ufrag !== ufrag;
    session.etag = etag;
    return { etag, changed, fragment: text };
  },
  /** Sends any PATCH and says what came of it. */
  async patch({ body, if_match: ifMatch, type = FRAGMENT }) {
    const { ufrag, pwd, mid } = credentials(peer.localDescription.sdp);
    const fragment = body ?? `a=ice-ufrag:${ufrag}\r\na=ice-pwd:${pwd}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:${mid}\r\na=end-of-candidates\r\n`;
    const match = ifMatch === 'current' ? session.etag : ifMatch;
    const { status, text } = await ask('PATCH', session.url, session.token, { body: fragment, type, ifMatch: match });
    return { status, text };
  },
  /** Which candidate pair carries media, by its local user fragment. */
  async path() {
    const report = await peer.getStats();
    const transport = [...report.values()].find((one) => one.type === 'transport');
    return { ufrag: transport?.iceLocalUsernameFragment ?? null, state: peer.iceConnectionState };
  },
  async stats() {
    const [video, audio] = [await figures('video', 'inbound-rtp'), await figures('audio', 'inbound-rtp')];
    const [sent, voice] = [await figures('video', 'outbound-rtp'), await figures('audio', 'outbound-rtp')];
    return {
      at_ms: Date.now(),
      sent: { frames: sent.framesEncoded ?? 0, width: sent.frameWidth ?? 0, packets: voice.packetsSent ?? 0 },
      tracks: [
        {
          kind: 'video',
          identity: 'whep',
          frames: video.framesDecoded ?? 0,
          width: video.frameWidth ?? 0,
          height: video.frameHeight ?? 0,
          freezes: video.freezeCount ?? 0,
          lost: video.packetsLost ?? 0,
          first_ms: firstMs,
        },
        { kind: 'audio', identity: 'whep', energy: audio.totalAudioEnergy ?? 0, packets: audio.packetsReceived ?? 0, lost: audio.packetsLost ?? 0 },
      ],
    };
  },
  async end() {
    const started = performance.now();
    const { status } = await ask('DELETE', session.url, session.token);
    session = null;
    return { status, delete_ms: performance.now() - started };
  },
  async leave() {
    if (session) await actions.end();
    peer?.close();
    peer = null;
    return {};
  },
};

window.e2e = {
  async do(command) {
    try {
      return { ok: true, ...(await actions[command.do](command)) };
    } catch (error) {
      return { ok: false, error: `${error?.name ?? 'Error'}: ${error?.message ?? error}` };
    }
  },
  drain: () => events.splice(0),
};
