// One participant in a page, driven by `window.e2e` from the harness. It speaks through livekit-client, unchanged.
import {
  LogLevel,
  Room,
  RoomEvent,
  Track,
  VideoPreset,
  VideoQuality,
  setLogLevel,
} from '/livekit-client.mjs';
import { flashes, watch, watchLoop } from '/lip_sync.js';

setLogLevel(LogLevel.warn);

/** At most this many events are kept; the oldest fall out. */
const EVENTS_MAX = 2000;
const QUALITIES = { low: VideoQuality.LOW, medium: VideoQuality.MEDIUM, high: VideoQuality.HIGH };

let room = null;
const events = [];
const firstFrames = new Map();

/** Notes that something happened, with Unix time in ms. */
function told(event, fields = {}) {
  events.push({ event, at_ms: Date.now(), ...fields });
  events.splice(0, Math.max(0, events.length - EVENTS_MAX));
}

function trackFields(publication, participant) {
  return { identity: participant.identity, kind: publication.kind, sid: publication.trackSid };
}

/** Plays a remote track, and notes when its first frame is presented. */
function play(track, publication, participant) {
  const element = track.attach();
  element.dataset.sid = publication.trackSid;
  if (track.kind === Track.Kind.Video) {
    element.width = 320;
    element.requestVideoFrameCallback(() => {
      if (!firstFrames.has(publication.trackSid)) {
        firstFrames.set(publication.trackSid, Date.now());
        told('first_frame', trackFields(publication, participant));
      }
    });
  }
  document.getElementById('media').append(element);
}

function listen(target) {
  target
    .on(RoomEvent.ParticipantConnected, (who) => told('participant_connected', { identity: who.identity }))
    .on(RoomEvent.ParticipantDisconnected, (who) => told('participant_disconnected', { identity: who.identity }))
    .on(RoomEvent.TrackPublished, (what, who) => told('track_published', trackFields(what, who)))
    .on(RoomEvent.TrackUnpublished, (what, who) => told('track_unpublished', trackFields(what, who)))
    .on(RoomEvent.TrackMuted, (what, who) => told('track_muted', trackFields(what, who)))
    .on(RoomEvent.TrackUnmuted, (what, who) => told('track_unmuted', trackFields(what, who)))
    .on(RoomEvent.TrackSubscribed, (track, what, who) => {
      play(track, what, who);
      told('track_subscribed', trackFields(what, who));
    })
    .on(RoomEvent.TrackUnsubscribed, (track, what, who) => {
      firstFrames.delete(what.trackSid);
      track.detach().forEach((element) => element.remove());
      told('track_unsubscribed', trackFields(what, who));
    })
    .on(RoomEvent.TrackSubscriptionFailed, (sid, who, error) =>
      told('subscription_failed', { sid, identity: who.identity, error: String(error) }),
    )
    .on(RoomEvent.TrackStreamStateChanged, (what, state, who) =>
      told('stream_state', { ...trackFields(what, who), state }),
    )
    .on(RoomEvent.ActiveSpeakersChanged, (who) => told('speakers', { identities: who.map((one) => one.identity) }))
    .on(RoomEvent.ConnectionQualityChanged, (quality, who) => told('quality', { identity: who.identity, quality }))
    .on(RoomEvent.DataReceived, (payload, who, _kind, topic) =>
      told('data', { payload: new TextDecoder().decode(payload), topic: topic ?? '', identity: who?.identity ?? null }),
    )
    .on(RoomEvent.SignalReconnecting, () => told('signal_reconnecting'))
    .on(RoomEvent.Reconnecting, () => told('reconnecting'))
    .on(RoomEvent.Reconnected, () => told('reconnected'))
    .on(RoomEvent.RoomMetadataChanged, (metadata) => told('room_metadata', { metadata }))
    .on(RoomEvent.Moved, (name) => told('moved', { room: name }))
    .on(RoomEvent.ParticipantPermissionsChanged, (_before, who) =>
      told('permissions', { identity: who.identity, can_publish: who.permissions?.canPublish }),
    )
    .on(RoomEvent.LocalTrackUnpublished, (what) => told('local_track_unpublished', { kind: what.kind }))
    .on(RoomEvent.Disconnected, (reason) => told('disconnected', { reason }));
}

/** Statistics of one receiver, by the names of the W3C's webrtc-stats. */
async function receiverStats(track) {
  const report = await track.receiver.getStats();
  const codecs = new Map();
  let inbound = null;
  report.forEach((entry) => {
    if (entry.type === 'codec') codecs.set(entry.id, entry.mimeType.split('/').pop().toLowerCase());
    if (entry.type === 'inbound-rtp') inbound = entry;
  });
  if (!inbound) return { frames: 0, energy: 0, packets: 0 };
  return {
    codec: codecs.get(inbound.codecId),
    packets: inbound.packetsReceived,
    lost: inbound.packetsLost,
    jitter_ms: inbound.jitter * 1000,
    frames: inbound.framesDecoded ?? 0,
    width: inbound.frameWidth ?? 0,
    height: inbound.frameHeight ?? 0,
    freezes: inbound.freezeCount ?? 0,
    freeze_s: inbound.totalFreezesDuration ?? 0,
    nacks: inbound.nackCount ?? 0,
    plis: inbound.pliCount ?? 0,
    energy: inbound.totalAudioEnergy ?? 0,
    seconds: inbound.totalSamplesDuration ?? 0,
    concealed: inbound.concealedSamples ?? 0,
    samples: inbound.totalSamplesReceived ?? 0,
    bytes: inbound.bytesReceived ?? 0,
    rtx: inbound.retransmittedPacketsReceived ?? 0,
  };
}

/** How a receiver's packets travel: the selected candidate pair, seen from this side. */
async function route(track) {
  const report = await track.receiver.getStats();
  const entries = new Map();
  report.forEach((entry) => entries.set(entry.id, entry));
  const transport = [...entries.values()].find((entry) => entry.type === 'transport');
  const pair = entries.get(transport?.selectedCandidatePairId);
  const local = entries.get(pair?.localCandidateId);
  return { type: local?.candidateType, relay: local?.relayProtocol, url: local?.url, rtt_ms: (pair?.currentRoundTripTime ?? 0) * 1000 };
}

/** The candidates that a server gives, until gathering is complete. */
async function gather(iceServers, timeoutMs = 10_000) {
  const connection = new RTCPeerConnection({ iceServers, iceTransportPolicy: 'relay' });
  const [candidates, errors] = [[], []];
  connection.onicecandidateerror = ({ errorCode, errorText, url }) => errors.push({ code: errorCode, text: errorText, url });
  const complete = new Promise((resolve) => {
    connection.onicecandidate = ({ candidate }) => (candidate?.candidate ? candidates.push(candidate.candidate) : resolve(true));
    setTimeout(() => resolve(false), timeoutMs);
  });
  connection.createDataChannel('any');
  await connection.setLocalDescription();
  const ended = await complete;
  connection.close();
  return { candidates, errors, complete: ended };
}

/** Whether two connections of this page meet, of which one may only relay and the other offers its own addresses. */
async function meet(iceServers, timeoutMs) {
  const [relay, host] = [new RTCPeerConnection({ iceServers, iceTransportPolicy: 'relay' }), new RTCPeerConnection()];
  const relayed = [];
  relay.onicecandidate = ({ candidate }) => {
    if (candidate?.candidate) relayed.push(candidate.candidate);
    host.addIceCandidate(candidate ?? undefined).catch(() => {});
  };
  host.onicecandidate = ({ candidate }) => relay.addIceCandidate(candidate ?? undefined).catch(() => {});
  const met = new Promise((resolve) => {
    relay.oniceconnectionstatechange = () => ['connected', 'completed'].includes(relay.iceConnectionState) && resolve(true);
    setTimeout(() => resolve(false), timeoutMs);
  });
  relay.createDataChannel('any');
  await relay.setLocalDescription();
  await host.setRemoteDescription(relay.localDescription);
  await host.setLocalDescription();
  await relay.setRemoteDescription(host.localDescription);
  const outcome = await met;
  relay.close();
  host.close();
  return { met: outcome, relayed };
}

/** Statistics of what one sender sends, one entry per encoding. */
async function encodings(sender) {
  const report = await sender.getStats();
  const active = new Map(sender.getParameters().encodings.map((one) => [one.rid ?? '', one.active]));
  const sent = [];
  report.forEach((entry) => {
    if (entry.type !== 'outbound-rtp') return;
    sent.push({
      rid: entry.rid ?? '',
      active: active.get(entry.rid ?? '') ?? true,
      frames: entry.framesEncoded ?? 0,
      width: entry.frameWidth ?? 0,
      height: entry.frameHeight ?? 0,
      bytes: entry.bytesSent,
      active: entry.active ?? true,
      limitation: entry.qualityLimitationReason,
    });
  });
  return sent;
}

/** The same of a publication, with its second codec where it has one. */
async function senderStats(publication) {
  const sent = await encodings(publication.track.sender);
  const backups = {};
  for (const [name, one] of publication.track.simulcastCodecs ?? []) {
    if (one.sender) backups[name] = await encodings(one.sender);
  }
  // The statistics name Opus even while RED is sent; the negotiated order tells them apart.
  const codec = publication.track.sender.getParameters().codecs[0]?.mimeType.split('/').pop().toLowerCase();
  return { kind: publication.kind, sid: publication.trackSid, codec, sent, backups };
}

function remotePublication(identity, kind) {
  const participant = room.remoteParticipants.get(identity);
  if (!participant) throw new Error(`${identity} is not in the room`);
  const found = [...participant.trackPublications.values()].find((one) => one.kind === kind);
  if (!found) throw new Error(`${identity} publishes no ${kind}`);
  return found;
}

function localPublication(kind) {
  const found = [...room.localParticipant.trackPublications.values()].find((one) => one.kind === kind);
  if (!found) throw new Error(`nothing published as ${kind}`);
  return found;
}

/** From now on the page's connections offer to receive no video in these codecs, like a browser that cannot decode them. */
function refuseCodecs(names) {
  const refused = names.map((name) => `video/${name}`.toLowerCase());
  const { addTransceiver } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.addTransceiver = function (kind, init) {
    const transceiver = addTransceiver.call(this, kind, init);
    if (kind === 'video' && init?.direction === 'recvonly') {
      const { codecs } = RTCRtpReceiver.getCapabilities('video');
      transceiver.setCodecPreferences(codecs.filter((one) => !refused.includes(one.mimeType.toLowerCase())));
    }
    return transceiver;
  };
}

const actions = {
  async join({ url, token, v = 1, dynacast = false, adaptive = false, auto_subscribe = true, refuse = [] }) {
    if (refuse.length > 0) refuseCodecs(refuse);
    room = new Room({ adaptiveStream: adaptive, dynacast, singlePeerConnection: v === 1 });
    listen(room);
    await room.connect(url, token, { autoSubscribe: auto_subscribe, maxRetries: 1 });
    return { sid: room.localParticipant.sid, participants: [...room.remoteParticipants.keys()] };
  },
  async publish_video({
    width = 640,
    height = 360,
    fps = 15,
    codec = 'vp8',
    simulcast = false,
    bitrate = 600_000,
    backup = false,
    policy,
  }) {
    const publication = await room.localParticipant.setCameraEnabled(
      true,
      { resolution: { width, height, frameRate: fps } },
      {
        videoCodec: codec,
        simulcast,
        backupCodec: backup && { codec: backup },
        backupCodecPolicy: policy,
        videoEncoding: { maxBitrate: bitrate, maxFramerate: fps },
        ...(simulcast && {
          videoSimulcastLayers: [
            new VideoPreset(width / 4, height / 4, 100_000, fps),
            new VideoPreset(width / 2, height / 2, 250_000, fps),
          ],
        }),
      },
    );
    return { sid: publication.trackSid };
  },
  async publish_audio({ red = true, dtx = false }) {
    const publication = await room.localParticipant.setMicrophoneEnabled(true, {}, { red, dtx });
    return { sid: publication.trackSid };
  },
  /** Publishes a canvas that flashes and a tone that beeps at the same instants. */
  async publish_flashes() {
    const { video, audio } = await flashes();
    const options = { simulcast: false, videoCodec: 'vp8', backupCodec: false, red: false, dtx: false };
    const encoding = { videoEncoding: { maxBitrate: 500_000, maxFramerate: 30 } };
    await room.localParticipant.publishTrack(video, { ...options, ...encoding, source: Track.Source.Camera });
    await room.localParticipant.publishTrack(audio, { ...options, source: Track.Source.Microphone });
    return {};
  },
  /** When flashes are seen and beeps heard of another participant. */
  async watch_flashes({ identity, settle, seconds }) {
    const [video, audio] = ['video', 'audio'].map((kind) => remotePublication(identity, kind).track);
    return watch({
      video: video.mediaStreamTrack,
      audio: audio.mediaStreamTrack,
      receivers: [video.receiver, audio.receiver],
      settle,
      seconds,
    });
  },
  /** The same within this page, without a server. */
  async loop_flashes(times) {
    return watchLoop(times);
  },
  async mute({ kind, muted }) {
    const publication = localPublication(kind);
    await (muted ? publication.mute() : publication.unmute());
    return {};
  },
  async unpublish({ kind }) {
    await room.localParticipant.unpublishTrack(localPublication(kind).track);
    return {};
  },
  async send({ payload, topic = '', reliable = true, to }) {
    const bytes = new TextEncoder().encode(payload);
    await room.localParticipant.publishData(bytes, { reliable, topic, destinationIdentities: to });
    return {};
  },
  async settings({ identity, kind = 'video', quality, width, height, enabled, subscribed }) {
    const publication = remotePublication(identity, kind);
    if (quality !== undefined) publication.setVideoQuality(QUALITIES[quality]);
    if (width !== undefined) publication.setVideoDimensions({ width, height });
    if (enabled !== undefined) publication.setEnabled(enabled);
    if (subscribed !== undefined) publication.setSubscribed(subscribed);
    return {};
  },
  async stats() {
    const tracks = [];
    for (const who of room.remoteParticipants.values()) {
      for (const what of who.trackPublications.values()) {
        if (!what.track?.receiver) continue;
        tracks.push({
          ...trackFields(what, who),
          first_ms: firstFrames.get(what.trackSid) ?? null,
          muted: what.isMuted,
          ...(await receiverStats(what.track)),
        });
      }
    }
    return { tracks, participants: [...room.remoteParticipants.keys()].sort(), at_ms: Date.now() };
  },
  async route({ identity, kind = 'video' }) {
    return route(remotePublication(identity, kind).track);
  },
  /** What the edge said of its TURN server when this participant came in. */
  async ice_servers() {
    const servers = room.engine.latestJoinResponse.iceServers;
    return { servers: servers.map(({ urls, username, credential }) => ({ urls, username, credential })) };
  },
  async gather({ servers }) {
    return gather(servers);
  },
  async meet({ servers, timeout_ms }) {
    return meet(servers, timeout_ms);
  },
  async sent() {
    const published = [...room.localParticipant.trackPublications.values()].filter((one) => one.track?.sender);
    return { tracks: await Promise.all(published.map(senderStats)) };
  },
  async rpc_serve({ method }) {
    room.registerRpcMethod(method, async (call) => call.payload.toUpperCase());
    return {};
  },
  async rpc_call({ to, method, payload }) {
    return { answer: await room.localParticipant.performRpc({ destinationIdentity: to, method, payload }) };
  },
  /** Lets the SDK break something on purpose: `signal-reconnect`, `resume-reconnect`, `full-reconnect`, … */
  async simulate({ scenario }) {
    await room.simulateScenario(scenario);
    return {};
  },
  async describe({ name, metadata, attributes }) {
    if (name !== undefined) await room.localParticipant.setName(name);
    if (metadata !== undefined) await room.localParticipant.setMetadata(metadata);
    if (attributes !== undefined) await room.localParticipant.setAttributes(attributes);
    return {};
  },
  async described({ identity }) {
    const who = room.remoteParticipants.get(identity);
    return { name: who?.name, metadata: who?.metadata, attributes: who?.attributes };
  },
  async leave() {
    await room?.disconnect();
    room = null;
    firstFrames.clear();
    document.getElementById('media').replaceChildren();
    return {};
  },
};

window.e2e = {
  /** Runs one action; answers `{ok, …}` like the native client. */
  async do(command) {
    try {
      return { ok: true, ...(await actions[command.do](command)) };
    } catch (error) {
      return { ok: false, error: `${error?.name ?? 'Error'}: ${error?.message ?? error}` };
    }
  },
  /** Hands over the events since the last call. */
  drain: () => events.splice(0),
};
